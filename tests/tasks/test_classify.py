"""Classification: loss, metrics and answer against their formulas."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.loader import Batch
from modelwright.tasks import classify
from modelwright.tasks.catalog import TASKS, Task
from modelwright.train.gradient import mixed_loss

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0]])


def cross_entropy(logits, targets, smoothing=0.0):
    """Formula of arXiv:1512.00567, section 7, in double precision."""
    logs = logits.double().log_softmax(1)
    classes = logits.shape[1]
    wanted = torch.full_like(logs, smoothing / classes)
    wanted[range(len(targets)), targets] += 1 - smoothing
    return -(wanted * logs).sum(1).mean().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_the_papers(smoothing):
    """Mean cross-entropy against the true class, a part of it spread over all."""
    targets = torch.tensor([0, 1])
    found = classify.loss(LOGITS, targets, label_smoothing=smoothing)

    assert math.isclose(cross_entropy(LOGITS, [0, 1], smoothing), found.item(), rel_tol=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_mixed_images_have_mixed_losses(mix):
    """With mixup the loss is the weighted mean over both classes: arXiv:1710.09412."""
    targets, others = torch.tensor([0, 1]), torch.tensor([2, 2])
    smoothed = functools.partial(classify.loss, label_smoothing=0.1)
    found = mixed_loss(smoothed, LOGITS, Batch({}, targets, others, mix))
    expected = mix * cross_entropy(LOGITS, [0, 1], 0.1) + (1 - mix) * cross_entropy(
        LOGITS, [2, 2], 0.1
    )

    assert math.isclose(expected, found.item(), rel_tol=1e-6)


def test_no_knowledge_costs_the_logarithm_of_the_classes():
    """Equal scores for ten classes cost ln 10 nats."""
    assert math.isclose(
        math.log(10), classify.loss(torch.zeros(4, 10), torch.arange(4)).item(), rel_tol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_loss_is_float32(dtype):
    """Scores in half precision are summed in full precision."""
    found = classify.loss(LOGITS.to(dtype), torch.tensor([0, 1]))

    assert torch.float32 == found.dtype
    assert math.isclose(cross_entropy(LOGITS, [0, 1]), found.item(), rel_tol=1e-6)


def test_the_gradient_is_probability_minus_truth():
    """The derivative of cross-entropy by the scores, over the rows."""
    logits = LOGITS.clone().requires_grad_()
    classify.loss(logits, torch.tensor([0, 1])).backward()
    truth = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])

    torch.testing.assert_close((LOGITS.softmax(1) - truth) / 2, logits.grad)


def statistics(logits, targets):
    outputs = {"logits": logits.numpy(), "probabilities": logits.softmax(-1).numpy()}
    return classify.statistics(outputs, np.array(targets))


def test_metrics():
    """Accuracy is a share of rows, the loss is unsmoothed; both are sums over rows, divided."""
    rows = statistics(LOGITS, [0, 1])
    found = classify.values_of_rows(rows, np.ones(2))

    assert [[1, 1], [1, 0]] == rows[:, :2].tolist()
    assert 0.5 == found["accuracy"]
    assert math.isclose(cross_entropy(LOGITS, [0, 1]), found["loss"], rel_tol=1e-6)


def test_metrics_are_plain_numbers():
    """They go into the ledger as they are, the task's own first."""
    found = classify.values_of_rows(statistics(LOGITS, [0, 1]), np.ones(2))

    assert ["accuracy", "balanced_accuracy", "f1_macro", "loss"] == list(found)
    assert {float} == {type(value) for value in found.values()}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1)
    .filter(lambda rows: any(count for _, _, count in rows))
)  # fmt: skip
def test_metrics_of_classes_are_those_of_the_definition(rows):
    """Each class by itself, rows counted as often as drawn; classes that nobody has don't count."""
    every = [(true, said) for true, said, count in rows for _ in range(count)]
    recalls, f1s = [], []
    for one in range(5):
        held = sum(true == one for true, _ in every)
        answered = sum(said == one for _, said in every)
        hits = sum(true == said == one for true, said in every)
        if held:
            recalls.append(hits / held)
        if held or answered:
            precision, recall = hits / max(answered, 1), hits / max(held, 1)
            f1s.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    true, said, weights = (np.array(column) for column in zip(*rows, strict=True))
    logits = np.eye(5)[said]
    table = classify.statistics({"logits": logits, "probabilities": logits}, true)
    found = classify.values_of_rows(table, weights.astype(float))

    assert math.isclose(np.mean(recalls), found["balanced_accuracy"], abs_tol=1e-12)
    assert math.isclose(np.mean(f1s), found["f1_macro"], abs_tol=1e-12)
    assert math.isclose(np.mean([a == b for a, b in every]), found["accuracy"], abs_tol=1e-12)


def test_a_class_weighs_what_it_is_given():
    """The mean over rows, not over weights: parts of a batch add up to the whole."""
    targets, weights = torch.tensor([0, 1]), torch.tensor([0.5, 3.0])
    each = [cross_entropy(LOGITS[row : row + 1], [row]) for row in range(2)]
    found = classify.loss(LOGITS, targets, class_weights=weights)

    assert math.isclose((0.5 * each[0] + 3 * each[1]) / 2, found.item(), rel_tol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=12))
def test_an_answer_lists_every_label_once(scores):
    """Most likely first, equal ones in the order of the labels; probabilities stay as they were."""
    labels = [f"label {index}" for index in range(len(scores))]
    probabilities = np.array(scores, np.float32) / 100
    found = classify.answer({"probabilities": probabilities}, labels)
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))

    assert [labels[index] for index in order] == [one["label"] for one in found["probabilities"]]
    assert [float(probabilities[index]) for index in order] == [
        one["probability"] for one in found["probabilities"]
    ]
    assert found["answer"] == found["probabilities"][0]["label"]


@pytest.mark.parametrize("kind", ["image", "text", "audio"])
def test_the_catalog_names_this_task(kind):
    """Classification of any kind of data is this file."""
    assert Task(kind, "classes", classify) == TASKS[f"{kind}-classification"]
