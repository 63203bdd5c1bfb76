"""Running block by block gives the bits of a whole pass, with one block in memory."""

from __future__ import annotations

import pytest
import torch

from mediant.errors import ModelError
from mediant.models.block_stream import BlockCall, BlockStream, States
from mediant.models.opening import open_model
from mediant.models.reference import load_reference


def window(seed=0, length=40):
    return torch.randint(2, 300, (length,), generator=torch.Generator().manual_seed(seed))


def streamed(stream, ids):
    """The network's output, and how many weights had numbers while each block ran."""
    resident = []
    with torch.inference_mode():
        with stream.surroundings():
            hidden, calls = stream.first_part(ids)
        for index in range(len(stream.blocks)):
            with stream.loaded(index):
                resident.append({name for name, p in stream.network.named_parameters() if p.device.type != "meta"})
                hidden = stream.run(index, hidden, calls[index])
        with stream.surroundings(), stream.ending(hidden):
            return stream.network(input_ids=ids[None]), resident


def numbers(out):
    """Logits of a language model; hidden states of an encoder, which the last part of a stream gives as they are."""
    if isinstance(out, torch.Tensor):
        return out
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def test_blocks_in_turn_are_the_network(tiny_folder, architecture):
    model = open_model(str(tiny_folder(architecture)))
    stream = BlockStream(model)
    for seed in (0, 1):
        ids = window(seed)
        out, resident = streamed(stream, ids)
        with torch.inference_mode():
            whole = load_reference(model)(input_ids=ids[None])
        assert torch.equal(numbers(out), numbers(whole))
        # One block's weights have numbers at a time, each block's its own, and none is left behind.
        assert len(resident) == len(stream.blocks)
        assert not resident[0] & resident[1]
        assert all(p.device.type == "meta" for p in stream.network.parameters())


def test_a_skipped_block_would_be_seen(tiny_folder):
    model = open_model(str(tiny_folder("llama")))
    stream, ids = BlockStream(model), window()
    with torch.inference_mode():
        with stream.surroundings():
            hidden, _ = stream.first_part(ids)
            with stream.ending(hidden):
                out = stream.network(input_ids=ids[None])
        whole = load_reference(model)(input_ids=ids[None])
    assert not torch.equal(out.logits, whole.logits)


def test_calls_are_equal_where_a_block_would_compute_the_same(tiny_folder):
    stream = BlockStream(open_model(str(tiny_folder("gemma3"))))
    with stream.surroundings(), torch.inference_mode():
        _, one = stream.first_part(window(0))
        _, same = stream.first_part(window(1))
        _, longer = stream.first_part(window(1, 41))
    assert one == same
    assert one != longer
    assert BlockCall((1, torch.ones(2)), {}) != BlockCall((1, torch.ones(3)), {})
    assert BlockCall((), {"mask": torch.ones(2)}) != BlockCall((), {"mask": None})


def test_states_come_back_by_depth_and_window(tmp_path):
    states = States(tmp_path / "states", depths=3, windows=2)
    given = {(d, w): torch.full((1, 4, 5), float(10 * d + w)) for d in range(3) for w in range(2)}
    for place in sorted(given, reverse=True):
        states.write(*place, given[place])
    assert all(torch.equal(states.read(*place), values) for place, values in given.items())
    with pytest.raises(IndexError):
        states.read(3, 0)


def test_a_model_without_a_list_of_blocks_is_refused(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.nn.ModuleList, "__len__", lambda self: 0)
    monkeypatch.setattr(torch.nn.ModuleList, "__iter__", lambda self: iter(()))
    with pytest.raises(ModelError, match="block"):
        BlockStream(open_model(str(tiny_folder("llama"))))
