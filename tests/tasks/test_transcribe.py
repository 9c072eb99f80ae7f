"""Transcription: the likelihood of a text, its error rates, two ways to read it off."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError
from modelwright.core.signature import NEVER, NO_TARGET
from modelwright.models.heads import LetterHead
from modelwright.tasks import transcribe
from modelwright.tasks.catalog import TASKS

pytest.importorskip("rapidfuzz")
LABELS = ["", "\ufffd", " ", "a", "b"]


def probabilities(places: int, seed: int, classes: int = len(LABELS)) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (places, classes))
    logits[:, 1] = -np.inf
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def read_off(path: tuple[int, ...]) -> tuple[int, ...]:
    """Repeats joined, nones dropped: the definition."""
    return tuple(one for one, _ in itertools.groupby(path) if one != transcribe.NONE)


def every_text(shares: np.ndarray) -> dict[tuple[int, ...], float]:
    """Each text's probability, summed over all ways to spell it."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(shares.shape[1]), repeat=len(shares)):
        text = read_off(path)
        found[text] = found.get(text, 0.0) + math.prod(shares[range(len(path)), path])
    return found


def as_targets(*texts: list[int]) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[NO_TARGET] * (longest - len(text))] for text in texts])


@pytest.mark.parametrize("text", [[], [3], [3, 4], [3, 3], [4, 2, 3]])
def test_the_loss_is_the_sum_over_all_ways(text):
    """A text's loss is what enumerating every path gives, for each letter."""
    shares = probabilities(5, seed=1)
    wanted = -math.log(every_text(shares)[tuple(text)]) / max(len(text), 1)
    found = transcribe.loss(torch.tensor(shares).log()[None].float(), as_targets(text))

    assert wanted == pytest.approx(found.item(), rel=1e-4)


def test_places_behind_a_row_do_not_count():
    """Beside a longer row, a shorter one has the very loss that it has alone."""
    torch.manual_seed(0)
    head = LetterHead(6, len(LABELS)).eval()
    features, mask = torch.randn(2, 9, 6), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    with torch.no_grad():
        alone = transcribe.loss(head(features[1:, :5], mask[1:, :5]), as_targets([3, 3]))
        other = transcribe.loss(head(features[:1], mask[:1]), as_targets([4, 2, 3]))
        both = transcribe.loss(head(features, mask), as_targets([4, 2, 3], [3, 3]))

    assert torch.equal(both, (alone + other) / 2)


@pytest.mark.parametrize("behind", [0, 5])
def test_a_text_that_does_not_fit_teaches_nothing(behind):
    """Three letters over two places have no way to be spelled, padded or not: no gradient."""
    logits = torch.randn(1, 2, len(LABELS), requires_grad=True)
    none = torch.tensor([0.0, *[NEVER] * (len(LABELS) - 1)]).expand(1, behind, -1)
    value = transcribe.loss(torch.cat([logits, none], 1), as_targets([3, 4, 3]))
    value.backward()

    assert 0 == value.item()
    assert logits.grad is not None and 0 == logits.grad.abs().max()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_a_wide_search_finds_the_likeliest_text(places, seed):
    """With room for every text, the search gives the one that enumeration gives."""
    shares = probabilities(places, seed)
    every = every_text(shares)
    found = tuple(letter for letter, _ in transcribe.prefix_search(shares, 500))

    assert every[found] >= max(every.values()) * (1 - 1e-2)  # it leaves out the very unlikely


def test_a_search_of_one_place_can_differ_from_the_best_path():
    """A text that is spelled in several ways beats the single likeliest path."""
    shares = np.array([[0.6, 0, 0, 0.4], [0.6, 0, 0, 0.4]])

    assert [] == transcribe.best_path(shares.argmax(1))
    assert [(3, 0)] == transcribe.prefix_search(shares, 4)


def test_a_thousand_places_do_not_vanish():
    """Long recordings keep their probabilities in the range of numbers."""
    shares = np.tile(probabilities(4, seed=3), (250, 1))

    assert len(transcribe.prefix_search(shares, 4)) > 100


def one_hot(*letters: int) -> np.ndarray:
    return np.eye(len(LABELS))[list(letters)]


def test_errors_are_counted_by_word_and_character():
    """Said "ab a b": of "ab b" one word is missing, and the blank with it."""
    outputs = {"logits": one_hot(3, 0, 4, 2, 4, 0)[None]}
    rows = transcribe.statistics(outputs, as_targets([3, 4, 2, 3, 2, 4]).numpy(), LABELS)

    assert [[3, 1, 6, 2]] == rows.tolist()
    assert {"wer": 1 / 3, "cer": 1 / 3} == TASKS["transcription"].values(rows)


def test_a_character_that_train_lacks_is_an_error():
    """What no letter stands for cannot be said right."""
    outputs = {"logits": one_hot(1, 1)[None]}
    rows = transcribe.statistics(outputs, as_targets([1]).numpy(), LABELS)

    assert [[1, 1, 1, 1]] == rows.tolist()


@pytest.mark.parametrize("width", [1, 4])
def test_an_answer_tells_when_each_word_is_said(width):
    """Text and seconds of the words; the last ends where the recording does."""
    shares = one_hot(0, 3, 3, 4, 0, 2, 0, 4)
    times = [f"{place / 50:.2f}" for place in range(8)] + ["0.17"]
    said = transcribe.answer({"logits": shares, "probabilities": shares}, LABELS, times, width)

    assert "ab b" == said["answer"]
    assert [
        {"text": "ab", "start": 0.02, "end": 0.1}, {"text": "b", "start": 0.14, "end": 0.17},
    ] == said["words"]  # fmt: skip


def test_runs_of_bytes_are_words_too():
    """Labels of bpe carry their blank in front, and one may be several letters."""
    labels = ["", "?", "th", "ree", " four", " "]
    shares = np.eye(6)[[2, 0, 3, 4, 0, 5, 2]]
    times = [f"{place / 50:.2f}" for place in range(7)] + ["0.15"]
    said = transcribe.answer({"logits": shares, "probabilities": shares}, labels, times, 1)

    assert "three four th" == said["answer"]
    assert [("three", 0.0, 0.06), ("four", 0.06, 0.1), ("th", 0.12, 0.15)] == [
        (word["text"], word["start"], word["end"]) for word in said["words"]
    ]


def test_silence_is_no_text():
    """Nones alone give an empty text without words."""
    shares = one_hot(0, 0)

    assert {"answer": "", "words": []} == transcribe.answer(
        {"logits": shares, "probabilities": shares}, LABELS, ["0.00", "0.02", "0.04"]
    )


def test_no_beam_is_refused():
    """A search that keeps nothing is an error that says what would be right."""
    shares = one_hot(0)
    with pytest.raises(ConfigError, match="beam_width is 0"):
        transcribe.answer({"logits": shares, "probabilities": shares}, LABELS, beam_width=0)


def test_bytes_are_joined_to_characters():
    """A character may be several letters of a model: each is a byte of it."""
    labels = ["", "\ufffd", "\udcc3", "\udca4"]

    assert "ä" == transcribe.spelled([2, 3], labels)
    assert "\ufffd" == transcribe.spelled([2], labels)
