"""Channels that are taken out: the dead ones first, really out, and counted right."""

import json

import pytest
import torch

from modelwright.compress.prune import MULTIPLE, prune
from modelwright.core.errors import NothingChanged
from modelwright.models.catalog import MODELS, ModelSpec, build, count_params, examples

from .conftest import INPUTS, NUM_CLASSES, OUTPUTS, randomised

TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 12, "max_length": 40}
SERIES = {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b", "c"],
          "std": [1.0, 0.5, 2.0]}  # fmt: skip
TAGS = {"kind": "tags", "num_classes": NUM_CLASSES}
HORIZON = {"kind": "horizon", "horizon": 6, "mean": [0.0] * 3, "std": [1.0] * 3}
SPECS = {
    "cnn-tiny": ModelSpec("cnn", "tiny", INPUTS, OUTPUTS),
    "cnn-small": ModelSpec("cnn", "small", INPUTS, OUTPUTS),
    "cnn-plain": ModelSpec("cnn", "small", INPUTS, OUTPUTS, {"block": "plain"}),
    "cnn-text": ModelSpec("cnn", "small", TEXT, OUTPUTS),
    "cnn-separable": ModelSpec("cnn", "small", INPUTS, OUTPUTS, {"convolution": "separable"}),
    "cnn-separable-text": ModelSpec("cnn", "small", TEXT, OUTPUTS, {"convolution": "separable"}),
    "transformer-tiny": ModelSpec("transformer", "tiny", INPUTS, OUTPUTS),
    "transformer-small": ModelSpec("transformer", "small", INPUTS, OUTPUTS),
    "transformer-tags": ModelSpec("transformer", "tiny", TEXT, TAGS),
    "rnn-tiny": ModelSpec("rnn", "tiny", INPUTS, OUTPUTS),
    "rnn-deep": ModelSpec("rnn", "tiny", INPUTS, OUTPUTS, {"num_layers": 2}),
    "rnn-text": ModelSpec("rnn", "tiny", TEXT, OUTPUTS, {"num_layers": 2}),
    "rnn-tags": ModelSpec("rnn", "tiny", TEXT, TAGS),
    "rnn-next": ModelSpec("rnn", "tiny", TEXT, {"kind": "next", "num_classes": 60}),
    "rnn-series": ModelSpec("rnn", "tiny", SERIES, HORIZON),
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


@pytest.fixture
def inputs(spec):
    return tuple(examples(spec, 32).values())


def plant_dead(model, spec, ratio):
    """Zero as many channels of each group as `ratio` will take, in every place they have."""
    groups, _ = MODELS[spec.family].groups(model)
    state = model.state_dict()
    for number, group in enumerate(groups):
        generator = torch.Generator().manual_seed(number)
        dead = torch.randperm(group.size, generator=generator)[: int(group.size * ratio)]
        for place in group.places:
            if "running" in place.tensor:
                continue
            for block in range(place.repeats):
                index = place.offset + block * group.size + dead
                state[place.tensor].index_fill_(place.dim, index, 0.0)
    return groups


def test_dead_channels_go_first(spec, inputs):
    """Channels that were zeroed are the ones removed: the outputs stay within 1e-6."""
    model = randomised(spec)
    alive = model(*inputs)
    plant_dead(model, spec, 0.5)
    with torch.inference_mode():
        wanted = model(*inputs)
        smaller, _ = prune(model, spec, 0.5)
        found = smaller(*inputs)

    assert not torch.allclose(alive, wanted)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_live_channels_matter(spec, inputs):
    """Without dead channels the outputs change: the removal is real."""
    model = randomised(spec)
    with torch.inference_mode():
        smaller, _ = prune(model, spec, 0.5)

        assert not torch.allclose(model(*inputs), smaller(*inputs), atol=1e-3)


def test_parameters_are_those_of_the_groups(spec):
    """What is left equals what can be counted on the tensors that the groups name."""
    model = randomised(spec)
    groups, _ = MODELS[spec.family].groups(model)
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    for group in groups:
        kept = max(MULTIPLE, int(group.size * 0.5) // MULTIPLE * MULTIPLE)
        for place in group.places:
            if place.tensor in shapes:
                shapes[place.tensor][place.dim] -= place.repeats * (group.size - kept)
    smaller, _ = prune(model, spec, 0.5)

    assert shapes == {name: list(value.shape) for name, value in smaller.named_parameters()}
    assert count_params(smaller) == sum(torch.Size(shape).numel() for shape in shapes.values())


def test_pruned_spec_rebuilds(spec, inputs):
    """The spec survives JSON, and what it builds takes the pruned weights."""
    smaller, smaller_spec = prune(randomised(spec), spec, 0.5)
    read = ModelSpec.from_json(json.loads(json.dumps(smaller_spec.to_json())))
    rebuilt = build(read).eval()
    rebuilt.load_state_dict(smaller.state_dict())

    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(*inputs), smaller(*inputs), atol=0, rtol=0)
    assert count_params(smaller) == count_params(rebuilt)


def test_the_original_is_left_alone(spec):
    """Pruning returns a copy; the model given keeps every weight."""
    model = randomised(spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, spec, 0.5)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_pruned_twice(spec):
    """A pruned model can be pruned again, down to the floor of four channels a group."""
    model, sizes = randomised(spec), []
    with pytest.raises(NothingChanged):
        for _ in range(8):
            sizes.append(count_params(model))
            model, spec = prune(model, spec, 0.5)

    assert 2 <= len(sizes)
    assert sizes == sorted(set(sizes), reverse=True)
    assert {MULTIPLE} == {group.size for group in MODELS[spec.family].groups(model)[0]}


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75])
def test_kept_channels_come_in_fours(spec, ratio):
    """Whatever the ratio, at least that share goes, and what is left divides by four."""
    model = randomised(spec)
    before = [group.size for group in MODELS[spec.family].groups(model)[0]]
    smaller, _ = prune(model, spec, ratio)
    after = [group.size for group in MODELS[spec.family].groups(smaller)[0]]

    assert [0] * len(after) == [size % MULTIPLE for size in after]
    for was, now in zip(before, after, strict=True):
        assert (
            max(MULTIPLE, was * (1 - ratio) - MULTIPLE) <= now <= max(MULTIPLE, was * (1 - ratio))
        )


@pytest.mark.parametrize(("ratio", "size", "kept"), [(0.8, 40, 8), (0.9, 160, 16), (0.5, 12, 4)])
def test_what_a_ratio_leaves_is_not_rounded_down_twice(ratio, size, kept):
    """40 x (1 - 0.8) is a hair less than 8 in floating point, and 8 channels stay."""
    wide = ModelSpec("cnn", "tiny", INPUTS, OUTPUTS, {"widths": (size, size)})

    assert [kept, kept] == prune(build(wide), wide, ratio)[1].args["inner"]


def test_nothing_to_remove_is_an_error():
    """Groups that are at the floor already are named as the reason, with the ratio to raise."""
    spec = ModelSpec("cnn", "tiny", INPUTS, OUTPUTS, {"inner": [4, 4]})
    with pytest.raises(NothingChanged, match=r"0 of 8 channels removed \(ratio=0.9\)") as caught:
        prune(randomised(spec), spec, 0.9)

    assert "compress.prune.ratio" in caught.value.repair


def test_a_bag_of_words_has_nothing_to_remove():
    """Where there are no layers to take channels from, no ratio helps, and none is offered."""
    spec = ModelSpec("cnn", "large", TEXT, OUTPUTS)
    with pytest.raises(NothingChanged, match="cnn-large has no layers") as caught:
        prune(randomised(spec), spec, 0.5)

    assert "ratio" not in caught.value.repair


def test_every_family_can_be_pruned():
    """A new family brings its groups along."""
    assert all(callable(family.groups) for family in MODELS.values())
