import pytest
import torch

from mediant.discovery import make
from mediant.errors import PlanError
from mediant.methods.attention import local, sliding_window


def tensors(tokens):
    return torch.randn(3, 1, 2, tokens, 8, generator=torch.Generator().manual_seed(0)).unbind()


def test_the_mask_is_the_definition():
    q, k, _ = tensors(30)
    mask = sliding_window.SlidingWindow(7, 2).mask(q[:, :, 20:], k)
    wanted = [[j <= i and (i - 7 < j or j < 2) for j in range(30)] for i in range(20, 30)]
    assert mask.tolist() == wanted


def test_a_window_longer_than_the_text_is_causal_attention():
    q, k, v = tensors(100)
    causal = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    # Two computations of sums of 100 shares of values below 5, each off by at most some hundred roundings.
    tolerance = 2 * 5 * 200 * 2.0**-24
    torch.testing.assert_close(sliding_window.attend(q, k, v, window=100), causal, rtol=0, atol=tolerance)
    torch.testing.assert_close(local.attend(q, k, v, block=100), causal, rtol=0, atol=tolerance)


def test_the_window_is_that_of_transformers():
    from transformers.masking_utils import sdpa_mask, sliding_window_causal_mask_function

    q, k, _ = tensors(40)
    theirs = sdpa_mask(1, 40, 40, mask_function=sliding_window_causal_mask_function(9), local_size=9)
    assert torch.equal(theirs[0, 0], sliding_window.SlidingWindow(9, 0).mask(q, k))


@pytest.mark.parametrize("spec", [{"window": 0}, {"sinks": -1}])
def test_parameters_that_make_no_pattern(spec):
    with pytest.raises(PlanError, match="refuses"):
        make("attention", {"name": "sliding_window", **spec})
