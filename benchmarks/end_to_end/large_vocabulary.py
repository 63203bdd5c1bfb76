"""Peak memory of a pass over a model whose vocabulary is all there is to it: `python large_vocabulary.py STEP [whole]`.

A random Gemma 3 of 2 layers, 64 wide, with 262,144 tokens. STEP is `calibrate` (two windows of 512 tokens, one forward
and backward), `evaluate` (a window, against itself scaled) or `distill` (a window's loss and gradient). With `whole`,
logits are computed in one array, as before they came in pieces (models/head_in_pieces.py). Printed is what the step
adds to the memory that the process has before.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from mediant.evaluation.divergence import compare
from mediant.evaluation.memory import forget_peak, peak_bytes
from mediant.methods.training.distillation import Distillation
from mediant.models import head_in_pieces
from mediant.models.opening import open_model
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.sensitivity import collect

VOCABULARY, WINDOW = 262_144, 512


def main() -> None:
    """Runs one step and prints its peak."""
    step, torch_seed = sys.argv[1], torch.manual_seed(0)
    if "whole" in sys.argv:
        head_in_pieces.WHOLE = 1 << 62
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=WINDOW, query_pre_attn_scalar=32,
    )  # fmt: skip
    network = Gemma3ForCausalLM(config).eval()
    windows = torch.randint(VOCABULARY, (2, WINDOW), generator=torch_seed)
    other = copy.deepcopy(network)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        network.save_pretrained(folder)
        model = open_model(folder)
        for parameter in other.parameters():
            parameter.mul_(0.9)
        before = _resident()
        forget_peak()
        with torch.enable_grad():
            if step == "calibrate":
                result = sum(float(layer.output_fisher.sum()) for layer in _layers(model, windows))
            elif step == "evaluate":
                of = head_in_pieces.logits_of
                result = compare(of(network), of(other), windows[:1]).kl
            else:
                loss = Distillation().loss(other, network.requires_grad_(False), windows[0])
                loss.backward()
                result = float(loss.detach())
    print(f"{step}: {(peak_bytes() - before) / 1e6:.0f} MB beside {before / 1e6:.0f} MB, result {result!r}")


def _layers(model, windows):
    return collect(model, CalibrationText(windows, "random")).layers.values()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
