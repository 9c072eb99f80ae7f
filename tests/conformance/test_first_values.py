"""Values that are made one tensor at a time, for every task and family."""

import torch
from tests.conformance.conftest import Cell
from tests.conformance.test_tasks import every_cell

from modelwright.models.catalog import fresh_model
from modelwright.models.later import Later


@every_cell
def test_values_made_later_are_those_of_the_model(cell: Cell):
    """Every parameter and buffer comes once, with the bits that building the model at once gives;
    until then there is none, and torch's own numbers are drawn as far."""
    later = Later(cell.spec, 3)
    found = {name: value.clone() for name, value in later.values()}
    after = torch.get_rng_state()
    model = fresh_model(cell.spec, 3)
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    plain = {name: one for name, one in later.model.named_buffers() if not one.is_meta}

    assert {True} == {one.is_meta for one in later.model.parameters()}
    assert wanted.keys() == found.keys() | plain.keys()
    assert set() == found.keys() & plain.keys()
    for name, value in wanted.items():
        own = {**found, **plain}[name]
        assert torch.equal(value, own) and value.stride() == own.stride(), name
    assert torch.equal(after, torch.get_rng_state())
