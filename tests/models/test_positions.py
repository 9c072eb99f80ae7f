"""Positions of transformers, whatever comes in: they tell order, padding changes nothing, and where
they end is known."""

import numpy as np
import pytest
import torch

from modelwright.core.errors import ConfigError
from modelwright.core.signature import PAD_MULTIPLE
from modelwright.data.rows import ragged
from modelwright.models.catalog import ModelSpec, build, examples
from modelwright.models.stretch import Stretch, chain_of

TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 12, "max_length": 37}
STREAM = {**TEXT, "kind": "stream", "features": 1}
ITEMS = {**TEXT, "kind": "items", "features": 1}
RATINGS = {**TEXT, "kind": "ratings", "features": 4, "items": 10, "levels": [1.0, 2.0, 3.0]}
SERIES = {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b"], "std": [1.0, 2.0]}
SEEN = {"kind": "observation", "length": 3, "features": 2, "mean": [0.0, 1.0], "std": [1.0, 2.0]}
SOUND = {"kind": "audio", "rate": 8000, "num_mels": 20, "length": 4000, "max_length": 4000}
PAIR = {"kind": "pairs", "vocab_size": 30, "length": 8, "max_length": 20, "end": 29}
IMAGE = {"kind": "image", "shape": [1, 16, 16], "mean": [0.0], "std": [1.0]}
BOTH = {"kind": "image_text", "image": IMAGE, "text": TEXT, **{
    name: TEXT[name] for name in ("vocab_size", "length", "max_length")}}  # fmt: skip
CLASSES, TAGS = ({"kind": kind, "num_classes": 5} for kind in ("classes", "tags"))
BOUNDED = {
    "classes": (TEXT, CLASSES, 40),
    "tags": (TEXT, TAGS, 40),
    "next": (STREAM, {"kind": "next", "num_classes": 60}, 40),
    "items": (ITEMS, {"kind": "ranking", "num_classes": 58}, 40),
    "ratings": (RATINGS, {"kind": "rating", "items": 10, "levels": [1.0, 2.0, 3.0]}, 40),
    "series": (SERIES, {"kind": "horizon", "horizon": 6, "mean": [1.0, 2.0], "std": [1.0, 2.0]}, 3),
    "actions": (SEEN, {"kind": "actions", "num_classes": 2, "scale": 1.0}, 3),
}
UNBOUNDED = {
    "pairs": (PAIR, {"kind": "sequence", "num_classes": 30, "end": 29}),
    "sounds": (SOUND, CLASSES),
}


def spec_of(positions: str, inputs, outputs) -> ModelSpec:
    return ModelSpec("transformer", "tiny", inputs, outputs, {"positions": positions})


def shaken(spec: ModelSpec) -> torch.nn.Module:
    """A model without zeros."""
    torch.manual_seed(0)
    model = build(spec).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", [name for name in BOUNDED if name != "ratings"])
def test_learned_positions_are_as_many_as_a_row_can_have(name):
    """With padding; each of them is read, and one place more has none."""
    inputs, outputs, most = BOUNDED[name]
    spec = spec_of("learned", inputs, outputs)
    model = shaken(spec)
    longest = dict(examples(spec, 2, most))

    assert most == len(model.body.positions)
    assert (most if spec.has_time else None) == spec.most_places
    assert ModelSpec("transformer", "tiny", inputs, outputs).most_places is None
    model(*longest.values()).float().sum().backward()
    if outputs["kind"] != "ranking":  # all but the last place are read there
        assert model.body.positions.grad.abs().sum(1).all()
    if spec.has_time:
        with pytest.raises(IndexError):
            model(*examples(spec, 2, most + 1).values())


@pytest.mark.parametrize("name", UNBOUNDED)
def test_learned_positions_without_an_end_are_refused(name):
    """What may be longer than anything in training has fixed positions or turned ones."""
    with pytest.raises(ConfigError, match=r"model\.positions") as caught:
        build(spec_of("learned", *UNBOUNDED[name]))

    assert "sinusoidal or rotary" in caught.value.expected
    assert all(build(spec_of(one, *UNBOUNDED[name])) for one in ("sinusoidal", "rotary"))


def test_each_tower_has_its_own():
    """Of a picture with texts as many as patches, and as tokens."""
    args = {tower: {"positions": "learned"} for tower in ("image", "text")}
    spec = ModelSpec("transformer", "tiny", BOTH, {"kind": "vectors", "dim": 8}, args)
    model = build(spec)

    assert 40 == len(model.text.body.positions) == spec.most_places
    assert 64 == len(model.image.body.positions)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("name", ["classes", "tags", "next", "items"])
def test_padding_changes_nothing(name, positions):
    """A row is answered alone as beside longer ones, up to the longest that there can be."""
    inputs, outputs, most = BOUNDED[name]
    model = shaken(spec_of(positions, inputs, outputs))
    draw = np.random.default_rng(0)
    lengths = (5, 1, 37, 17, 8)
    rows = ragged([draw.integers(1, 60, (length, inputs["features"])) for length in lengths])
    with torch.inference_mode():
        together = model(torch.from_numpy(rows.padded(np.arange(5))))
        for row, length in enumerate(lengths):
            alone = model(torch.from_numpy(rows[row][None]))[0]
            beside = together[row] if together.ndim == 2 else together[row, :length]

            torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)
    assert most == rows.padded(np.arange(5)).shape[1] == -(-37 // PAD_MULTIPLE) * PAD_MULTIPLE


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("name", ["classes", "series", "actions"])
def test_order_matters(name, positions):
    """The same places in another order are something else."""
    inputs, outputs, most = BOUNDED[name]
    spec = spec_of(positions, inputs, outputs)
    model = shaken(spec)
    (given,) = examples(spec, 2, most if spec.has_time else None).values()
    turned = given.reshape(2, most, -1, given.shape[-1]).flip(1).reshape(given.shape)
    with torch.inference_mode():
        assert not torch.allclose(model(given), model(turned), atol=1e-3)


def test_positions_of_either_side_tell_order():
    """Where one sequence becomes another, fixed positions are in the source and in the target."""
    model = shaken(spec_of("sinusoidal", *UNBOUNDED["pairs"]))
    source, target = torch.randint(2, 29, (1, 6)), torch.randint(2, 29, (1, 6))
    with torch.inference_mode():
        plain = model(source, target)[:, -1]
        turned = torch.cat([target[:, :-1].flip(1), target[:, -1:]], 1)

        assert not torch.allclose(plain, model(source.flip(1), target)[:, -1], atol=1e-3)
        assert not torch.allclose(plain, model(source, turned)[:, -1], atol=1e-3)


@pytest.mark.parametrize("name", ["pairs", "tags"])
def test_a_model_cut_between_its_blocks_is_the_whole(name):
    """Each stretch of a pipeline counts places as the model does."""
    inputs, outputs, *_ = (UNBOUNDED | BOUNDED)[name]
    spec = spec_of("sinusoidal", inputs, outputs)
    model = shaken(spec)
    given = examples(spec, 2, 7)
    blocks = len(chain_of(model))
    whole = model(*given.values())
    model.forward = lambda way, carried, values: way(carried, values)
    carried: tuple[torch.Tensor, ...] = ()
    for begin in range(blocks):
        found = Stretch(model, begin, begin + 1, blocks)(*carried, **given)
        carried = found if isinstance(found, tuple) else (found,)

    torch.testing.assert_close(whole, carried[0], rtol=1e-5, atol=1e-5)
