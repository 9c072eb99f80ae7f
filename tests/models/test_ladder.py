"""Every family at every size, on several shapes: the conformance that a new row has to pass."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelwright.core.errors import ConfigError
from modelwright.models.catalog import MODELS, ModelSpec, build, count_params
from modelwright.models.layers import ConvNorm

from .conftest import LADDER, SHAPES, pictures, spec


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("family", "size"), LADDER)
def test_images_become_one_score_a_class(family, size, shape):
    """(batch, channels, height, width) bytes in, (batch, classes) numbers out."""
    with torch.device("meta"):
        model = build(spec(family, size, shape, 7))
        logits = model(torch.empty((3, *shape), dtype=torch.uint8))

    assert (3, 7) == logits.shape
    assert torch.float32 == logits.dtype


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", MODELS)
def test_real_images_too(family, shape):
    """The tiny size answers with finite numbers that depend on the picture."""
    model = build(spec(family, "tiny", shape)).eval()
    logits = model(pictures(3, shape))

    assert logits.isfinite().all()
    assert 3 == len(logits.round(decimals=6).unique(dim=0))


@pytest.mark.parametrize("family", MODELS)
def test_one_image_is_answered_as_in_a_batch(family):
    """In evaluation a row's answer does not depend on its company."""
    model = build(spec(family)).eval()
    images = pictures(4, (1, 8, 8))

    torch.testing.assert_close(
        model(images), torch.cat([model(image[None]) for image in images]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", MODELS)
def test_dropout_hides_values_while_training_alone(family):
    """With the same weights answers are those of the model without it; each pass of training hides
    others."""
    plain, images = spec(family), pictures(4, (1, 8, 8))
    without, model = build(plain), build(plain.but({"dropout": 0.5}))
    model.load_state_dict(without.state_dict())

    assert torch.equal(without.eval()(images), model.eval()(images))
    assert torch.equal(without.train()(images), without(images))
    assert not torch.allclose(model.train()(images), model(images))


@pytest.mark.parametrize(("family", "size"), LADDER)
def test_no_dropout_is_none(family, size):
    """Asked for none, no size brings its own."""
    with torch.device("meta"):
        model = build(spec(family, size).but({"dropout": 0.0}))

    assert [] == [one for one in model.modules() if isinstance(one, nn.Dropout) and one.p]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", MODELS)
def test_each_size_is_larger_than_the_last(family, shape):
    """The ladder goes up, and its first rung is small enough for tests."""
    with torch.device("meta"):
        ladder = MODELS[family].ladders["image"]
        sizes = [count_params(build(spec(family, size, shape))) for size in ladder.sizes]

    assert sorted(set(sizes)) == sizes
    assert 15_500 >= sizes[0]


@pytest.mark.parametrize(("family", "size"), LADDER)
def test_the_gradient_reaches_every_parameter(family, size):
    """No parameter stands unused; what starts at zero still learns."""
    model = build(spec(family, size))
    F.cross_entropy(model(pictures(8, (1, 8, 8))), torch.arange(8)).backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}

    assert [] == [name for name, p in learning.items() if p.grad is None]
    assert {1.0} >= {p.unique().item() for p in model.parameters() if not p.requires_grad}
    for _ in range(2):  # behind a norm that starts at zero the gradient comes with the second step
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.zero_grad()
        F.cross_entropy(model(pictures(8, (1, 8, 8))), torch.arange(8)).backward()

    assert [] == [name for name, p in learning.items() if not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("family", MODELS)
def test_eight_examples_are_learned_by_heart(family):
    """A model that cannot overfit eight random pictures has a fault, whatever else is right."""
    model = build(spec(family, num_classes=8))
    images, targets = pictures(8, (1, 8, 8)), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()

    assert 0.1 > loss.item()
    assert list(range(8)) == model(images).argmax(1).tolist()


def poison(limit: int = 2**22) -> None:
    """Fill memory with NaN and free it: whatever is read before it was written shows."""
    blocks = []
    for power in range(8, limit.bit_length()):
        blocks += [torch.full((2**power,), float("nan")) for _ in range(3)]
    del blocks


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("family", MODELS)
def test_bf16_reads_nothing_it_did_not_write(family, shape, layout):
    """Outputs and gradients in bf16 are finite though freed memory was full of NaN.

    Guards a fault of torch 2.13's strided bf16 convolutions in channels-last (models/embed.py).
    """
    model = build(spec(family, "small", shape)).to(memory_format=layout)
    images = pictures(16, shape).contiguous(memory_format=layout)
    for _ in range(3):
        poison()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
            loss = F.cross_entropy(logits.float(), torch.arange(16) % 10)
        poison()
        loss.backward()

        assert logits.isfinite().all()
        assert [] == [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]


@pytest.mark.parametrize("channels", [4, 8, 12, 16])
def test_layouts_agree_on_a_strided_skip(channels):
    """In channels-last, torch 2.13's backward of a strided 1 x 1 convolution with few channels
    writes beyond its memory; what is done instead gives the same values and gradients."""
    torch.manual_seed(0)
    layer = ConvNorm(channels, 2 * channels, 1, 2)
    picture, wanted = torch.randn(16, channels, 64, 64), torch.randn(16, 2 * channels, 32, 32)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        features = picture.detach().clone(memory_format=layout).requires_grad_()
        layer.zero_grad()
        mapped = layer.to(memory_format=layout)(features)
        (mapped * wanted).sum().backward()
        found.append((mapped, features.grad, layer[0].weight.grad.clone()))

    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "size"), LADDER)
def test_a_spec_goes_through_json(family, size):
    """What a manifest keeps builds the same model: equal spec, equal names and shapes."""
    one = spec(family, size, (3, 20, 28))
    again = ModelSpec.from_json(json.loads(json.dumps(one.to_json())))
    with torch.device("meta"):
        shapes = [
            {name: value.shape for name, value in build(each).state_dict().items()}
            for each in (one, again)
        ]

    assert one == again
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("family", "args"),
    [("cnn", {"widths": [5, 7], "inner": [3, 4]}), ("rnn", {"hidden_dim": 5}),
     ("transformer", {"mlp_dims": [11]})],
)  # fmt: skip
def test_a_specs_own_arguments_replace_the_ladders(family, args):
    """A pruned model is smaller than its rung, and comes back from JSON as it is."""
    whole = spec(family)
    pruned = ModelSpec(**{**whole.to_json(), "args": args})
    again = ModelSpec.from_json(json.loads(json.dumps(pruned.to_json())))

    assert count_params(build(pruned)) < count_params(build(whole))
    assert count_params(build(pruned)) == count_params(build(again))


def test_a_spec_has_a_name():
    """Family and size, as tables show it."""
    assert "cnn-tiny" == spec("cnn").name


@pytest.mark.parametrize(
    ("family", "size", "what", "right"),
    [("ccn", "tiny", "no family 'ccn'", "did you mean 'cnn'?"),
     ("cnn", "tinny", "no size 'tinny' of cnn", "did you mean 'tiny'?")],
)  # fmt: skip
def test_an_unknown_rung_is_refused(family, size, what, right):
    """A family or size that is not there is named with the nearest one."""
    with pytest.raises(ConfigError) as caught:
        build(spec(family, size))

    assert (what, right) == (caught.value.what, caught.value.expected)


def test_weights_follow_the_seed():
    """The same seed builds the same weights, another seed others."""
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(build(spec("transformer")).head.linear.weight)

    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


@pytest.mark.parametrize(("family", "kind", "answers", "rate"), [
    ("transformer", "pairs", "sequence", 0.0015), ("rnn", "pairs", "sequence", 0.002),
    ("transformer", "audio", "letters", 0.002), ("rnn", "audio", "letters", 0.003),
    ("cnn", "audio", "letters", 0.003), ("cnn", "pairs", "sequence", 0.002),
])  # fmt: skip
def test_writers_learn_with_muon_from_small_on(family, kind, answers, rate):
    """Other defaults begin at the size that the ladder names; AdamW asked for has AdamW's rate."""
    from modelwright.core.recipe import Train
    from modelwright.train.settings import Budget, fill_in

    inputs = {"kind": kind, "source_vocab_size": None, "length": 8}
    outputs = {"kind": answers, "num_classes": 10}
    found = {
        size: fill_in(
            Train(optimizer=asked), ModelSpec(family, size, inputs, outputs), "32-true",
            Budget(steps=100),
        )
        for size, asked in (("tiny", None), ("small", None), ("base", None), ("large", "adamw"))
    }  # fmt: skip

    assert ["adamw", "muon", "muon", "adamw"] == [one.optimizer for one in found.values()]
    assert [rate, 0.01, 0.01, rate] == [one.learning_rate for one in found.values()]
