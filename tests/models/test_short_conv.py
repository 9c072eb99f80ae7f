"""A convolution over the last few places: what it gives, its gradients, and reading bit by bit."""

import pytest
import torch
import torch.nn.functional as F

from modelwright.models.carried import Carried
from modelwright.models.catalog import Carrying, ModelSpec, build, examples
from modelwright.models.short_conv import ShortConv, as_products_take
from modelwright.train.optimizers import hidden_matrices

STREAM = {"kind": "stream", "vocab_size": 60, "features": 1, "length": 12, "max_length": 40}
NEXT = {"kind": "next", "num_classes": 60, "labels": ["", "?", *map(chr, range(58))]}
WRITER = ModelSpec("transformer", "tiny", STREAM, NEXT)


def drawn(dim: int = 5, size: int = 4) -> ShortConv:
    """In double precision, without zeros."""
    torch.manual_seed(0)
    conv = ShortConv(dim, size).double()
    torch.nn.init.normal_(conv.weight)
    return conv


def plain(conv: ShortConv, sequence: torch.Tensor) -> torch.Tensor:
    """The same by torch: a depthwise convolution, padded on the left, around a skip."""
    padded = F.pad(sequence.transpose(1, 2), (conv.weight.shape[2] - 1, 0))
    found = F.conv1d(padded, conv.weight, groups=len(conv.weight))
    return sequence + found.transpose(1, 2)


@pytest.mark.parametrize("time", [1, 2, 3, 9])
def test_it_is_torchs_depthwise_convolution_around_a_skip(time):
    """Values and gradients agree with conv1d's, also where a text is shorter than what it sees."""
    conv = drawn()
    sequence = torch.randn(2, time, 5, dtype=torch.double, requires_grad=True)
    weigh = torch.randn(2, time, 5, dtype=torch.double)
    of = (sequence, conv.weight)
    found = torch.autograd.grad((conv(sequence) * weigh).sum(), of)
    wanted = torch.autograd.grad((plain(conv, sequence) * weigh).sum(), of)

    torch.testing.assert_close(conv(sequence), plain(conv, sequence))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_fresh_one_changes_nothing():
    """It starts as its skip, so a fresh model is one without it."""
    sequence = torch.randn(2, 6, 5)

    assert torch.equal(sequence, ShortConv(5, 4)(sequence))


def test_bit_by_bit_it_gives_the_same():
    """With the last places carried on, in pieces of any length."""
    conv = drawn()
    sequence = torch.randn(2, 9, 5, dtype=torch.double)
    past, parts = [torch.zeros(2, 3, 5, dtype=torch.double)], []
    for start, end in ((0, 1), (1, 3), (3, 9)):
        carried = Carried(past)
        parts.append(conv(sequence[:, start:end], carried))
        past = carried.present

    torch.testing.assert_close(torch.cat(parts, 1), conv(sequence))


def test_a_language_model_reads_on_with_it():
    """Token by token the scores are those of the whole text; the state names what each block saw,
    and places are counted by the keys, wherever they stand in it."""
    torch.manual_seed(0)
    model = build(WRITER).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (ids,) = examples(WRITER, 2).values()
    carrying = Carrying(model, WRITER.outputs, WRITER.signature).eval()
    state = WRITER.signature.state
    past = [torch.zeros(one.sizes(2, 0, 0)) for one in state]
    found = []
    with torch.inference_mode():
        for place in range(ids.shape[1]):
            assert Carried(past).places == place
            made = carrying.written(ids[:, place : place + 1], [], past)
            past = made[len(WRITER.signature.outputs) :]
            found.append(made[0])
        whole = model(ids)

    names = ["inputs", "0.attention_inputs", "0.key", "0.value", "0.mlp_inputs"]
    assert [f"past.{name}" for name in names] == [one.name for one in state]
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=2e-5)


def test_no_place_sees_what_comes_after_it():
    """Another last token changes the last scores alone."""
    model = build(WRITER).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv" in name:
                parameter.normal_()
    (ids,) = examples(WRITER, 2).values()
    other = ids.clone()
    other[:, -1] = ids[:, -1] % 50 + 5
    with torch.inference_mode():
        found, changed = model(ids), model(other)

    torch.testing.assert_close(found[:, :-1], changed[:, :-1])
    assert not torch.allclose(found[:, -1], changed[:, -1])


def test_muon_leaves_it_alone():
    """Its weights are no matrix over features, whose rows could be made orthogonal."""
    model = build(WRITER)
    moved = {id(one) for one in hidden_matrices(model)}
    convs = [one for name, one in model.named_parameters() if "conv" in name]

    assert 3 == len(convs)
    assert not moved & {id(one) for one in convs}


def test_under_autocast_it_takes_what_products_take():
    """bfloat16 goes in and comes out, as of the product behind it; elsewhere nothing changes."""
    features = torch.randn(2, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        taken = as_products_take(features)

    assert taken.dtype == ShortConv(5, 4)(taken).dtype == torch.bfloat16
    assert as_products_take(features) is features
