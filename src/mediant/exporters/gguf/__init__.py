"""Exports to a GGUF file for llama.cpp: Llama-like and Qwen models, with their tokenizer.

Norms and biases are float32; matrices of the chosen type where their rows divide into its blocks, else float16. A
tensor that its type does not hold is stored in a wider one, and that is said. What GGUF or llama.cpp cannot say of a
model is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from mediant.exporters.gguf.weight_types import TYPES as TYPES
from mediant.progress import SILENT, Progress

USUAL = "f16"
HELP = "a file for llama.cpp (Llama, Mistral, SmolLM, Qwen 2 and 3)."


def export(spec: str, out: Path, kind: str = USUAL, progress: Progress = SILENT, check: bool = True) -> None:
    """Writes the model `spec` to the file `out`, whole or not at all.

    The tokenizer in the file is always compared with the model's own. With `check`, the file is also read back, and
    every weight and the logits of a few tokens compared, before it takes its place.

    Raises:
        UsageError: there is no such type.
        ModelError: the model is of no architecture that is known here, or has something that GGUF cannot say.
        StorageError: the disk refuses.
        ExportError: what was written is not the model.
    """
    from mediant.exporters import check_type
    from mediant.exporters._dense import opened
    from mediant.exporters.gguf.writing import write

    check_type("gguf", kind)
    with opened(spec, progress) as model:
        write(model, out, kind, progress, check)
