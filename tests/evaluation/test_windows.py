import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import TextError, UsageError
from mediant.evaluation.windows import cut, predicting, scored


@given(windows=st.integers(1, 6), window=st.integers(2, 9), rest=st.integers(0, 20))
def test_windows_are_the_text_from_its_start(windows: int, window: int, rest: int) -> None:
    tokens = list(range(100, 100 + windows * window + rest))
    found = cut(tokens, windows, window)
    assert found.dtype == torch.int64
    assert found.flatten().tolist() == tokens[: windows * window]
    assert found.shape == (windows, window)
    assert torch.equal(cut(torch.tensor(tokens), windows, window), found)


@given(window=st.integers(2, 600))
def test_scored_tokens_are_the_second_half_each_predicted_one_before(window: int) -> None:
    positions = range(window)
    assert list(positions[scored(window)]) == [i for i in positions if i >= window / 2 - (window % 2) / 2]
    assert [i + 1 for i in positions[predicting(window)]] == list(positions[scored(window)])


def test_the_published_protocol_scores_256_of_512() -> None:
    assert range(512)[scored(512)] == range(256, 512)
    assert range(512)[predicting(512)] == range(255, 511)


@given(windows=st.integers(1, 6), window=st.integers(2, 9), short=st.integers(1, 54))
def test_a_text_too_short_says_what_it_has_what_is_needed_and_what_would_work(
    windows: int, window: int, short: int
) -> None:
    tokens = range(max(0, windows * window - short))
    with pytest.raises(TextError) as caught:
        cut(tokens, windows, window)
    message = str(caught.value)
    assert f"has {len(tokens)} tokens" in message
    assert f"need {windows * window}" in message
    if len(tokens) >= window:
        works = int(message.split("--windows ")[1].split()[0])
        assert len(cut(tokens, works, window)) == works < windows
        with pytest.raises(TextError):
            cut(tokens, works + 1, window)
    else:
        assert "--windows" not in message


@pytest.mark.parametrize(("windows", "window"), [(0, 8), (-1, 8), (1, 1), (1, 0), (1, -4)])
def test_windows_that_cannot_be_scored_are_refused(windows: int, window: int) -> None:
    with pytest.raises(UsageError):
        cut(range(100), windows, window)
