"""What a row counts in the loss, where classes should count alike."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.rows import Rows
from modelwright.tasks.catalog import TASKS
from modelwright.train import gradient

from .conftest import NUM_CLASSES, rows, settings_of


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_classes_that_weigh_alike(sizes):
    """Of each class all rows together count as much as those of another; a row counts 1 on
    average, so that rates and schedules mean what they did."""
    weights = gradient.balanced(np.repeat(np.arange(len(sizes)), sizes)).numpy()
    totals = weights * sizes

    assert np.allclose(totals, totals[0], rtol=1e-5)
    assert np.isclose(totals.sum(), sum(sizes), rtol=1e-5)


def test_weights_of_classes_go_into_the_loss():
    """As the recipe asks, and only then."""
    task, train = TASKS["image-classification"], rows(8)
    uneven = Rows(train.inputs, np.array([0, 0, 0, 0, 0, 0, 1, 1]), train.origins)
    logits, targets = torch.randn(2, NUM_CLASSES), torch.tensor([0, 1])
    each = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
    loss = {
        how: gradient.loss_of(task, settings_of(class_weights=how), uneven, torch.device("cpu"))
        for how in ("none", "balanced")
    }

    torch.testing.assert_close(loss["none"](logits, targets), each.mean())
    expected = (each * torch.tensor([8 / 12, 8 / 4])).mean()
    torch.testing.assert_close(loss["balanced"](logits, targets), expected)
