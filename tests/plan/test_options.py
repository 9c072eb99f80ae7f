"""Options of a family, size by size: what they change, and where they change nothing."""

import pytest
import torch

from modelwright.core.errors import ConfigError
from modelwright.models.catalog import ModelSpec, build, count_params, examples
from modelwright.models.layers import Attention, GatedSiLU
from modelwright.plan.options import of_effect

TEXT = {"kind": "text", "vocab_size": 40, "features": 2, "length": 8, "max_length": 20}
CLASSES = {"kind": "classes", "num_classes": 3}
IMAGE = {"kind": "image", "shape": [1, 16, 16], "mean": [0.0], "std": [1.0]}
GRID = {"kind": "boxes", "num_classes": 2, "stride": 4, "grid": [4, 4], "labels": ["a", "b"]}
PAIRS = {"kind": "pairs", "vocab_size": 30, "length": 8, "max_length": 20, "end": 29}
WRITTEN = {"kind": "sequence", "num_classes": 30, "end": 29}
BOTH = {"kind": "image_text", "image": IMAGE, "text": TEXT, **{
    name: TEXT[name] for name in ("vocab_size", "length", "max_length")}}  # fmt: skip
OPTIONS = {"norm": "rms", "activation": "swiglu", "num_kv_heads": 1}


def asked(size: str, options: dict[str, object], *pair: dict) -> ModelSpec:
    return ModelSpec.asked("transformer", size, *(pair or (TEXT, CLASSES)), options)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(IMAGE, CLASSES), (IMAGE, GRID), (TEXT, CLASSES), (PAIRS, WRITTEN),
     (BOTH, {"kind": "vectors", "dim": 8})],
    ids=["image", "grid", "text", "pairs", "towers"],
)  # fmt: skip
def test_every_block_of_a_transformer_is_as_asked(inputs, outputs):
    """Over pictures, grids, texts, pairs of texts and both towers; it answers as the plain one."""
    plain, other = (build(asked("small", own, inputs, outputs)) for own in ({}, OPTIONS))
    blocks = [one for one in other.modules() if isinstance(one, Attention)]
    made = list(examples(asked("small", {}, inputs, outputs), 2).values())

    assert blocks and {1} == {block.num_kv_heads for block in blocks}
    assert len(blocks) == sum(isinstance(one, GatedSiLU) for one in other.modules())
    assert len(blocks) <= sum(isinstance(one, torch.nn.RMSNorm) for one in other.modules()) / 2
    assert count_params(plain) != count_params(other)
    assert plain(*made).shape == other(*made).shape


def test_sizes_whose_heads_cannot_share_are_left_out(capsys):
    """One with a single head, and one whose heads the number does not divide; each is noted."""
    specs = [asked(size, {"num_kv_heads": 2}) for size in ("tiny", "small", "base")]
    noted = []
    left = of_effect(specs, noted.append)

    assert ["transformer-base"] == [one.name for one in left]
    said = capsys.readouterr().err
    assert 2 == len(noted) and all(one in said for one in noted)
    assert "transformer-tiny: 2 heads of keys cannot be dealt out to 1 of queries" in said
    assert "transformer-small: 2 heads of keys cannot be dealt out to 3 of queries" in said


def test_heads_that_no_size_can_share_stop_the_plan():
    """A named size with one head has none to share, and the error says what has."""
    with pytest.raises(ConfigError, match="transformer-tiny has no more heads than that") as caught:
        of_effect([asked("tiny", {"num_kv_heads": 1})])

    assert "choose a larger model.size" in caught.value.repair


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_positions_of_pictures_are_as_asked(positions):
    """Each makes the order of patches matter in its own way, for the same answers' shape."""
    torch.manual_seed(0)
    model = build(asked("small", {"positions": positions}, IMAGE, CLASSES)).eval()
    (image,) = examples(asked("small", {}, IMAGE, CLASSES), 1).values()

    assert (positions == "learned") == (model.body.positions is not None)
    assert not torch.allclose(model(image), model(image.flip(3)), atol=1e-4)


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(IMAGE, CLASSES), (TEXT, CLASSES), (PAIRS, WRITTEN), (BOTH, {"kind": "vectors", "dim": 8})],
    ids=["image", "text", "pairs", "towers"],
)
def test_dropout_is_as_asked_in_every_family(family, inputs, outputs):
    """Every layer that hides values hides that share of them, and there are some."""
    (spec,) = of_effect([ModelSpec.asked(family, "base", inputs, outputs, {"dropout": 0.25})])

    layers = [one for one in build(spec).modules() if isinstance(one, torch.nn.Dropout)]
    assert layers and {0.25} == {one.p for one in layers if one.p}


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_dropout_of_nets_that_find_boxes_is_refused(family):
    """They have none, so the key would have no effect."""
    with pytest.raises(ConfigError, match=r"model\.dropout: nets that find boxes have none"):
        of_effect([ModelSpec.asked(family, "base", IMAGE, GRID, {"dropout": 0.25})])
