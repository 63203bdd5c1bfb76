"""Exports to an ordinary Hugging Face folder: dense weights that plain transformers, vLLM and GGUF converters load.

What compression took away stays away (zeros are stored as zeros), but so do its savings in bytes, except for those of
structural edits. Types: float32 holds decoded weights exactly; float16 and bfloat16 round them. Tensors have the names
that the original's files have.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mediant.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mediant.exporters._dense import Dense, Tensors

TYPES = ("float16", "bfloat16", "float32")
USUAL = "float32"
HELP = "an ordinary dense folder for transformers, vLLM and converters; float32 is exact."


def export(spec: str, out: Path, kind: str = USUAL, progress: Progress = SILENT, check: bool = True) -> None:
    """Writes the model `spec` to the folder `out`.

    With `check`, every tensor is read back, and plain transformers loads the folder and gives the logits of a few
    tokens, before the folder appears.

    Raises:
        UsageError: there is no such type.
        ModelError: the type does not hold the weights.
        StorageError: something is at `out` already, or the disk refuses.
        ExportError: what was written is not the model.
    """
    import torch

    from mediant.exporters import check_type
    from mediant.exporters._dense import opened
    from mediant.exporters._ranges import check_ranges
    from mediant.models.dense_folder import check_free, write_folder

    check_type("huggingface", kind)
    check_free(out)
    with opened(spec, progress) as model:
        check_ranges(model.tensors, kind, TYPES, progress)
        dtype = getattr(torch, kind)
        tensors = model.named({n: t.cast(dtype) if t.dtype.is_floating_point else t for n, t in model.tensors.items()})
        checked = partial(_check, model, tensors, kind, progress) if check else None
        write_folder(out, model.config | {"dtype": kind}, tensors, dict(model.files), progress, check=checked)


def _check(model: Dense, tensors: Tensors, kind: str, progress: Progress, folder: Path) -> None:
    from mediant.exporters import _checking

    if not _checking.fits_memory(model.weights):
        some = _checking.sample(tensors)
        _check_tensors({name: tensors[name] for name in some}, folder, progress)
        progress.say(f"The model is too large to compare logits here; {len(some)} of {len(tensors)} tensors are right.")
        return
    _check_tensors(tensors, folder, progress)
    network = model.load()
    _round(network, kind)
    expected = _checking.outputs(network)
    del network
    written = _loaded(folder)
    _checking.compare_outputs(expected, _checking.outputs(written), written)


def _check_tensors(tensors: Tensors, folder: Path, progress: Progress) -> None:
    import torch

    from mediant.errors import ExportError
    from mediant.models.stored import opened, stored_tensors

    stored = stored_tensors(folder)
    for name, tensor in progress.track(tensors.items(), "Reading back", len(tensors)):
        with opened(stored[name].file) as file:
            if not torch.equal(file.get_tensor(name), tensor.read()):
                raise ExportError(f"The tensor {name!r} does not read back as it was written; nothing was kept.")


def _round(network: PreTrainedModel, kind: str) -> None:
    """Rounds the weights of a float32 network to a type, and back."""
    import torch

    for values in network.state_dict().values():
        if values.is_floating_point():
            values.copy_(values.to(getattr(torch, kind)))


def _loaded(folder: Path) -> PreTrainedModel:
    """Returns the network that transformers makes of the folder, in float32."""
    import torch

    from mediant.errors import ExportError
    from mediant.models import architecture
    from mediant.models.reference import check_complete

    network_class = architecture.network_class(architecture.load_config(folder))
    try:
        network, report = network_class.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        check_complete(report, "The written files")
    except Exception as problem:  # whatever transformers stumbles over
        raise ExportError(f"transformers does not load what was written; nothing was kept: {problem}") from problem
    loaded: PreTrainedModel = network.eval()
    return loaded
