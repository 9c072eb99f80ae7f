"""What compression could make of a candidate, beside what it makes of one."""

import onnx
import pytest
import torch

from modelwright.compress.prune import prune
from modelwright.compress.weights import FEWEST, quantize_weights
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import MODELS, ModelSpec, build, count_params
from modelwright.plan import count
from modelwright.plan.candidate import (
    INT8_SPEEDUP,
    WEIGHTS_FEWEST,
    compressed_bytes,
    fastest_ms,
    pruned,
)

from .conftest import INPUTS, OUTPUTS, recipe_of

TEXT = {"kind": "text", "vocab_size": 600, "features": 1, "length": 12, "max_length": 40}
HALF, QUARTER = {"prune": {"ratio": 0.5}}, {"prune": {"ratio": 0.25}}


@pytest.mark.parametrize("inputs", [INPUTS, TEXT], ids=["image", "text"])
@pytest.mark.parametrize("family", MODELS)
def test_the_best_size_is_that_of_a_net_pruned_and_rounded(family, inputs, tmp_path):
    """Recurrent weights are cut on both sides, tables and what lies between blocks on none."""
    spec, recipe = ModelSpec(family, "small", inputs, OUTPUTS), recipe_of()
    torch.manual_seed(0)
    model, counted = build(spec).eval(), count.count(spec)
    left = pruned(recipe, spec, counted)
    smaller, smaller_spec = prune(model, spec, 0.5)
    export_onnx(smaller, tmp_path / "smaller.onnx", smaller_spec)
    quantize_weights(onnx.load(tmp_path / "smaller.onnx"), tmp_path / "int8.onnx")
    plain, rounded = ((tmp_path / f"{one}.onnx").stat().st_size for one in ("smaller", "int8"))

    assert count_params(smaller) == left.num_params
    assert WEIGHTS_FEWEST == FEWEST  # compress/ stands on plan/, not the other way round
    assert pytest.approx(rounded, rel=0.1) == compressed_bytes(recipe, left, plain)


@pytest.mark.parametrize(
    ("compress", "in_int8", "computed_in_int8"),
    [("none", False, False), ("auto", True, True), (["quantize"], True, True),
     (["quantize_weights"], True, False), ([QUARTER], False, False),
     ([QUARTER, "quantize"], True, True)],
)  # fmt: skip
def test_a_list_is_credited_with_what_it_does(compress, in_int8, computed_in_int8):
    """Weights alone in int8 save no time, and pruning alone makes nothing int8."""
    recipe = recipe_of(compress=compress)
    counted = count.count(ModelSpec("cnn", "small", INPUTS, OUTPUTS))
    size = 4.0 * counted.num_params + 20_000

    assert in_int8 == (compressed_bytes(recipe, counted, size) < size)
    assert (8 / INT8_SPEEDUP if computed_in_int8 else 8) == fastest_ms(recipe, "cnn", 8.0, 1.0)
    assert fastest_ms(recipe, "rnn", 8.0, 1.0) == 8.0


@pytest.mark.parametrize("family", MODELS)
def test_weights_alone_are_the_smallest_form(family):
    """What `auto` may come to is no larger than static int8, whose nodes weigh much in tiny nets;
    a list that computes in int8 is not credited with it."""
    counted = count.count(ModelSpec(family, "tiny", INPUTS, OUTPUTS))
    size = 4.0 * counted.num_params + 20_000
    auto, static, alone = (
        compressed_bytes(recipe_of(compress=compress), counted, size)
        for compress in ("auto", ["quantize"], ["quantize_weights"])
    )

    assert auto == alone < static < size


@pytest.mark.parametrize("steps", [[QUARTER], [HALF], [QUARTER, HALF]])
def test_listed_ratios_are_taken_out_one_after_the_other(steps):
    """What is left has the size of a net that is pruned so, and takes its share of the time."""
    spec, recipe = ModelSpec("rnn", "small", INPUTS, OUTPUTS), recipe_of(compress=steps)
    torch.manual_seed(0)
    model, own = build(spec), spec
    for step in steps:
        model, own = prune(model, own, step["prune"]["ratio"])

    assert count_params(model) == pruned(recipe, spec, count.count(spec)).num_params
    assert 4.0 == fastest_ms(recipe, "rnn", 8.0, 0.5)


@pytest.mark.parametrize("compress", ["none", ["quantize"]])
def test_what_is_not_pruned_stays_whole(compress):
    """Nothing is taken out without asking."""
    spec = ModelSpec("rnn", "small", INPUTS, OUTPUTS)
    counted = count.count(spec)

    assert counted == pruned(recipe_of(compress=compress), spec, counted)


def test_a_bag_of_words_stays_whole():
    """It has no channels to take."""
    spec = ModelSpec("cnn", "base", TEXT, OUTPUTS)
    counted = count.count(spec)

    assert counted == pruned(recipe_of(), spec, counted)
