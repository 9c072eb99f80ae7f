"""Tagging: spans as conlleval reads them, span F1, and a loss that no padding enters."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelwright.core.signature import NO_TARGET
from modelwright.data.clean import placed
from modelwright.tasks import tag
from modelwright.tasks.catalog import TASKS, Task

LABELS = ["O", "B-A", "I-A", "B-B", "I-B"]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("O O", []),
        ("B-A", [(0, 1, "A")]),
        ("B-A I-A I-A O", [(0, 3, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-A B-A I-A", [(0, 2, "A"), (2, 4, "A")]),
        ("O I-A I-A", [(1, 3, "A")]),  # an I without its B begins a span too
        ("I-A O I-A", [(0, 1, "A"), (2, 3, "A")]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")]),  # another kind ends one and begins one
        ("I-A I-B I-A", [(0, 1, "A"), (1, 2, "B"), (2, 3, "A")]),
        ("B-A O B-B I-B", [(0, 1, "A"), (2, 4, "B")]),
        ("O B-A", [(1, 2, "A")]),  # the end of the text ends a span
        ("B-A-B I-A-B I-A", [(0, 2, "A-B"), (2, 3, "A")]),  # a kind may hold a hyphen
    ],
)
def test_spans_are_conllevals(tags, spans):
    """Starts, ends and kinds follow the script conlleval for every pair of neighbours."""
    assert spans == tag.spans(tags.split())


def conlleval(tags):
    """The script's own rules, startOfChunk and endOfChunk, from tag to tag."""
    found, start, before, kind_before = [], None, "O", ""
    for place, one in enumerate([*tags, "O"]):
        own, _, kind = one.partition("-")
        ends = (before, own) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")} or (
            before != "O" and kind != kind_before
        )
        starts = (before, own) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")} or (
            own != "O" and kind != kind_before
        )
        if ends and start is not None:
            found.append((start, place, kind_before))
            start = None
        if starts:
            start = place
        before, kind_before = own, kind
    return found


@given(st.lists(st.sampled_from(LABELS), max_size=12))
def test_spans_are_conllevals_for_any_tags(tags):
    """The same spans as the script's two rules give."""
    assert conlleval(tags) == tag.spans(tags)


def outputs_of(*answers):
    return {"logits": np.eye(len(LABELS))[np.array(answers)]}


def test_statistics_count_whole_spans():
    """A span counts if both its ends and its kind are right; padding counts nowhere."""
    true = np.array([[1, 2, 0, 3], [1, 2, NO_TARGET, NO_TARGET]])
    found = tag.statistics(outputs_of([1, 2, 0, 1], [1, 0, 1, 1]), true, LABELS)

    assert [[2, 2, 1, 4, 3], [1, 1, 0, 2, 1]] == found.tolist()
    values = tag.values(found.sum(0))
    assert (1 / 3, 1 / 3, 1 / 3, 4 / 6) == pytest.approx(
        [values[name] for name in ("f1", "precision", "recall", "places_right")]
    )
    assert tag.METRIC == next(iter(values))


def test_f1_is_the_harmonic_mean():
    """Of precision and recall over the whole set, as conlleval counts."""
    values = tag.values(np.array([8.0, 4.0, 3.0, 20.0, 15.0]))
    precision, recall = 3 / 8, 3 / 4

    assert (precision, recall) == (values["precision"], values["recall"])
    assert 2 * precision * recall / (precision + recall) == pytest.approx(values["f1"])


def test_no_span_is_no_division_by_zero():
    """Texts without a span, and answers without one, have an F1 of 0."""
    assert {"f1": 0.0, "precision": 0.0, "recall": 0.0, "places_right": 1.0} == tag.values(
        np.array([0.0, 0.0, 0.0, 5.0, 5.0])
    )


def test_the_loss_is_a_mean_over_real_places():
    """What stands at padding changes neither the loss nor its gradient."""
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0, 1, 2, 3], [4, NO_TARGET, NO_TARGET, NO_TARGET]])
    loss = tag.loss(logits, targets)
    loss.backward()
    logs = logits.detach().double().log_softmax(-1)
    places = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 0, 4)]

    assert math.isclose(-sum(logs[place].item() for place in places) / 5, loss.item(), rel_tol=1e-6)
    assert 0 == logits.grad[1, 1:].abs().sum()


def test_an_answer_shows_words_and_spans():
    """Each word with its tag, the spans as their words, and what kinds of them there can be."""
    found = tag.answer(outputs_of(0, 1, 2), LABELS, ["In", "New", "York"])

    assert [{"text": "New York", "kind": "A", "start": 1, "end": 3, "start_char": 3,
             "end_char": 11}] == found["answer"]  # fmt: skip
    assert ("In New York", ["A", "B"]) == (found["text"], found["kinds"])
    assert [("In", "O"), ("New", "B-A"), ("York", "I-A")] == [
        (one["text"], one["tag"]) for one in found["tags"]
    ]


def test_the_catalog_names_this_task():
    """Tagging is this file."""
    assert Task("text", "tags", tag) == TASKS["tagging"]


@pytest.mark.parametrize(("tokens", "wanted"), [
    (["他", "在", "北", "京", "..."], "北京"), (["I", "saw", "New", "York", "."], "New York"),
    (["is", "it", "A", "B"], "A B"),
])  # fmt: skip
def test_spans_are_written_as_their_text_is(tokens, wanted):
    """Characters side by side, words with blanks between."""
    tags = [0, 0, 1, 2, 0][: len(tokens)]
    found = tag.answer({"logits": np.eye(5)[tags]}, LABELS, tokens)

    (span,) = found["answer"]

    assert wanted == span["text"] == found["text"][span["start_char"] : span["end_char"]]


def test_a_span_of_a_text_is_a_piece_of_it():
    """Blanks and signs between its words are those that the text has, whatever the model reads."""
    whole = "At  N.Y.，rain"
    tokens = placed(whole, "NFKC", re.compile(r"\w+|[^\w\s]"))
    found = tag.answer(outputs_of(0, 1, 2, 2, 2, 0, 3), LABELS, tokens)

    assert whole == found["text"]
    assert ["N.Y.", "rain"] == [one["text"] for one in found["answer"]]
    assert ["N.Y.", "rain"] == [
        whole[one["start_char"] : one["end_char"]] for one in found["answer"]
    ]
    assert "," == found["tags"][5]["text"]
