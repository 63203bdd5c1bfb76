"""Tokenizers by the tokenizers library alone against those of transformers, and what is remembered of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mediant.errors import ModelError, UsageError
from mediant.models import tokenizer as module
from mediant.models.configuration import sealed
from mediant.models.tokenizer import choose_template, open_tokenizer, prompt, seal

TEXTS = [
    "", " ", "the quick  brown fox .", "don't , we 've 're ' it ' ? !", "Übergrößenträger naïve café", "съешь же ещё",
    "素早い茶色の狐", "حروف عربية", "नमस्ते दुनिया", "👩‍👩‍👧 🇩🇪 e\u0301", "a\tb\n\n c\r\n",
    "<s>the</s> <tool>x<tool>", "12345 1,000.5",
]  # fmt: skip
TRAINING = ["the quick brown fox jumps over the lazy dog , don't .", "съешь ещё", "naïve café", "素早い狐", "नमस्ते"] * 9
TEMPLATES = {
    "default": "{{ bos_token }}{% for m in messages %}\n  <{{ m.role }}>{{ m['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}{% generation %}<assistant>{% endgeneration %}{% endif %}",
    "tool_use": "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ {'a': '<é>', 'b': [1, none]} | tojson }}"
    "{{ m | tojson(indent=2) }}{% endfor %}{{ dict(x=1) }}{{ tools is none }}{{ strftime_now('%Y') }}{{ documents }}",
}
MESSAGES = [{"role": role, "content": f" the <fox> & {role} "} for role in ("system", "user", "assistant", "user")]


def bytes_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    made.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], **special))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def words() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"])
    made.train_from_iterator(TRAINING, trainer)
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
    made.train_from_iterator(TRAINING, trainer)
    return made


KINDS: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any]]] = {
    "bytes": (bytes_bpe, {}),
    "words": (words, {"clean_up_tokenization_spaces": True, "unk_token": "<unk>"}),
    "unigram": (unigram, {"unk_token": "<unk>"}),
    # A class that builds a pipeline of its own from the vocabulary.
    "rebuilt": (bytes_bpe, {"tokenizer_class": "LlamaTokenizer"}),
}


def saved(kind: str, folder: Path, templates: Any = None) -> Path:
    made, settings = KINDS[kind]
    own = {name: value for name, value in settings.items() if name != "tokenizer_class"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=made(), bos_token="<s>", eos_token="</s>", **own)
    theirs.add_tokens(["<tool>", AddedToken(" x", normalized=False)])
    theirs.chat_template = templates
    theirs.save_pretrained(folder)
    change(folder / "tokenizer_config.json", settings)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 400}))
    return folder


def change(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_transformers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(kind, tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(folder)
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    fresh = open_tokenizer(folder)
    monkeypatch.setattr(module, "_by_transformers", None)
    for ours in (fresh, open_tokenizer(folder)):  # the second from the cache
        for text in TEXTS:
            for special in (True, False):
                ids = theirs(text, add_special_tokens=special)["input_ids"]
                assert ours.encode(text, add_special_tokens=special) == ids
                assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
                assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        assert ours.token_id("<tool>") == theirs.convert_tokens_to_ids("<tool>")


@pytest.mark.parametrize("in_config", [False, True])
def test_templates_are_rendered_as_transformers_renders_them(in_config: bool, tmp_path: Path) -> None:
    folder = saved("bytes", tmp_path / "model", TEMPLATES)
    if in_config:
        shutil.rmtree(folder / "additional_chat_templates")
        (folder / "chat_template.jinja").unlink()
        listed = [{"name": name, "template": text} for name, text in TEMPLATES.items()]
        change(folder / "tokenizer_config.json", {"chat_template": listed})
    theirs, ours = AutoTokenizer.from_pretrained(folder), open_tokenizer(folder)
    assert dict(ours.settings.templates) == TEMPLATES
    for name in (None, *TEMPLATES):
        expected = theirs.apply_chat_template(
            MESSAGES, chat_template=name, add_generation_prompt=True, return_dict=False
        )
        assert prompt(ours, MESSAGES, name) == expected


def test_a_template_is_chosen_by_name_and_may_refuse(tmp_path: Path) -> None:
    settings = open_tokenizer(saved("bytes", tmp_path, TEMPLATES)).settings
    assert choose_template(settings) == TEMPLATES["default"]
    with pytest.raises(UsageError, match="no chat template 'rag'; it has: default, tool_use"):
        choose_template(settings, "rag")
    with pytest.raises(UsageError, match="leave out --chat"):
        choose_template(module.Settings())
    with pytest.raises(UsageError, match=r"several chat templates.* among a, b"):
        choose_template(module.Settings(templates={"a": "", "b": ""}))
    for template in ("{{ raise_exception('no system') }}", "{% if %}", "{{ messages.__class__.mro() }}", "{{ 1 / 0 }}"):
        with pytest.raises(ModelError, match="chat template refuses"):
            module.render(template, MESSAGES, {})


def test_a_seal_spares_transformers_where_the_file_is_the_whole_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    folder = saved("bytes", tmp_path / "model", TEMPLATES)
    config = json.loads((folder / "config.json").read_text())
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    given = seal(folder, config, files)
    assert given is not None
    (folder / "config.json").write_text(json.dumps(sealed(config, "a model", given)))
    expected = open_tokenizer(folder).encode(TEXTS[4])
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "empty"))
    asked = []
    original = module._by_transformers
    monkeypatch.setattr(module, "_by_transformers", lambda where: asked.append(where) or original(where))
    assert open_tokenizer(folder).encode(TEXTS[4]) == expected
    assert dict(open_tokenizer(folder).settings.templates) == TEMPLATES
    assert not asked
    change(folder / "tokenizer_config.json", {"eos_token": "<tool>"})
    assert open_tokenizer(folder).settings.special["eos_token"] == "<tool>"
    assert asked
    changed = files | {"tokenizer.json": files["tokenizer.json"].replace(b"<tool>", b"<toll>")}
    assert seal(folder, config, changed) is None
    assert seal(tmp_path / "nothing", config, {}) is None
