"""Rating prediction: loss, errors and answer against their formulas."""

import numpy as np
import pytest
import torch

from modelwright.core.signature import NO_TARGET
from modelwright.models.catalog import MODELS, ModelSpec, build
from modelwright.models.ratings import BIAS_PENALTY, PENALTY
from modelwright.tasks import rate
from modelwright.tasks.catalog import TASKS, Task

INPUTS = {"kind": "ratings", "vocab_size": 2 + 6 + 3 + 2, "items": 3, "levels": [1.0, 3.0, 5.0],
          "features": 4, "length": 8, "max_length": 8}  # fmt: skip
OUTPUTS = {"kind": "rating", "low": 1.0, "high": 5.0, "mean": 3.0}


@pytest.fixture(params=MODELS)
def model(request) -> torch.nn.Module:
    torch.manual_seed(0)
    made = build(ModelSpec(request.param, "tiny", INPUTS, OUTPUTS))
    with torch.no_grad():
        made.head.linear.weight.normal_()
    return made


def ids(*places: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor([places])


def test_loss_is_the_mean_over_real_places():
    """Squared errors and the penalty; padding counts nowhere."""
    outputs = torch.tensor([[[4.0, 0.5], [2.0, 0.5]], [[1.0, 0.5], [9.0, 0.5]]])
    targets = torch.tensor([[5.0, 2.0], [3.0, NO_TARGET]])

    assert (1 + 0 + 4) / 3 + 0.5 == pytest.approx(rate.loss(outputs, targets).item())


def test_errors_are_of_the_last_rating():
    """Of a row with several targets, the last that is no padding is judged."""
    targets = np.array([[4.0, NO_TARGET], [1.0, 2.0]])
    table = rate.statistics({"rating": np.array([[3.0], [4.0]])}, targets)

    assert [[1, 1, 1], [1, 4, 2]] == table.tolist()
    assert {"rmse": np.sqrt(2.5), "mae": 1.5} == rate.values(table.sum(0))


def test_an_answer_is_the_rating_and_the_item():
    """As a text for people, and as a number."""
    found = rate.answer({"rating": np.array([4.1172])}, [], ["Alien [183]"])

    assert {"answer": "4.12", "item": "Alien [183]", "rating": 4.1172} == found


def test_a_rating_is_biases_and_agreement(model):
    """Mean, bias of item and of user, and the product of the item's vector with the taste."""
    place = ids((2, 11, 1, 1))
    model.eval()
    features, mask = model.embed(place)
    told = model.head.linear(model.body(features, mask))[0, 0]
    table, bias = model.embed.tokens.vectors.weight, torch.randn(13)
    with torch.no_grad():
        model.head.bias.copy_(bias)
        wanted = 3.0 + bias[2] + bias[11] + told[0] + table[2] @ (table[11] + told[1:])

        assert wanted.item() == pytest.approx(model(place).item(), abs=1e-5)


def test_what_is_asked_tells_nothing(model):
    """A place's target is no input of its own: ratings told later change no earlier answer."""
    model.train()
    torch.manual_seed(0)
    one = model(ids((2, 11, 1, 1), (3, 11, 5, 8), (4, 11, 6, 9)))
    torch.manual_seed(0)
    other = model(ids((2, 11, 1, 1), (3, 11, 5, 8), (2, 11, 7, 10)))

    assert (1, 3, 2) == tuple(one.shape)
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2], other[:, 2])


def test_a_liked_item_and_a_disliked_one_are_told_apart(model):
    """Fresh models already read a rating as a sign: the vector of the item times it."""
    table, embed = model.embed.tokens.vectors.weight, model.embed
    with torch.no_grad():
        low, high = (embed(ids((2, 11, 5, level)))[0][0, 0] for level in (8, 10))
        middle = embed(ids((2, 11, 5, 9)))[0][0, 0]

        assert torch.allclose(low - table[8], -(high - table[10]), atol=1e-6)
        assert torch.allclose(middle, table[9], atol=1e-6)


def test_the_penalty_is_on_what_a_rating_is_made_of(model):
    """Item, taste and biases; nothing that a row does not hold is pulled at."""
    model.train()
    with torch.no_grad():
        model.head.linear.weight.zero_()
        model.head.linear.bias.zero_()
        model.head.bias[2], model.head.bias[11] = 0.5, -1.0
    table = model.embed.tokens.vectors.weight
    penalty = model(ids((2, 11, 1, 1)))[0, 0, 1]
    penalty.backward()
    wanted = PENALTY * (table[2].square().sum() + table[11].square().sum())

    assert (wanted + BIAS_PENALTY * 1.25).item() == pytest.approx(penalty.item(), rel=1e-5)
    assert table.grad is not None
    assert {2, 11} == set(table.grad.abs().sum(1).nonzero()[:, 0].tolist())


def test_the_catalog_names_this_task():
    """Rating prediction is this file."""
    assert Task("ratings", "rating", rate) == TASKS["rating-prediction"]


def test_parts_of_a_batch_weigh_by_their_places():
    """The loss of all is the mean over places, however rows are divided among passes."""
    outputs = torch.randn(2, 3, 2)
    targets = torch.tensor([[1.0, 2.0, 3.0], [4.0, NO_TARGET, NO_TARGET]])
    task = TASKS["rating-prediction"]
    parts = [task.weight(targets[row]) * rate.loss(outputs[row], targets[row])
             for row in (slice(0, 1), slice(1, 2))]  # fmt: skip

    torch.testing.assert_close(sum(parts) / task.weight(targets), rate.loss(outputs, targets))
