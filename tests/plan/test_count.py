"""Counts against PyTorch's own counter on a real run."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modelwright.models.catalog import (
    MODELS,
    Model,
    ModelSpec,
    build,
    count_params,
    examples,
)
from modelwright.models.cnn import ResidualBody
from modelwright.models.heads import ClassHead
from modelwright.models.rnn import RecurrentBody
from modelwright.plan.count import count, count_module

# says that there is no Intel GPU
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")

LADDER = [(family, size) for family, row in MODELS.items() for size in row.ladders["image"].sizes]


def spec(family, size, shape):
    channels = shape[0]
    image = {"kind": "image", "shape": shape, "mean": [100.0] * channels, "std": [50.0] * channels}
    return ModelSpec(family, size, image, {"kind": "classes", "num_classes": 10})


def measured(model: nn.Module, shape) -> tuple[int, int]:
    """FLOPs forward and backward that PyTorch counts while one example goes through.

    Kernels of vendors and fused attention hide their products; the plain ones show them.
    """
    return measured_on(model, torch.zeros((1, *shape), dtype=torch.uint8))


def measured_on(model: nn.Module, *inputs) -> tuple[int, int]:
    with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = model(*inputs).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20)], ids=str)
@pytest.mark.parametrize(("family", "size"), LADDER)
def test_counts_are_pytorchs(family, size, shape):
    """Parameters, forward and backward FLOPs equal those of a real run, exactly."""
    one = spec(family, size, shape)
    model, found = build(one), count(one)

    assert count_params(model) == found.num_params
    assert measured(model, shape) == (found.forward_flops, found.backward_flops)


TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 12, "max_length": 40}
SERIES = {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b", "c"],
          "std": [1.0, 0.5, 2.0]}  # fmt: skip
PAIRS = {"kind": "pairs", "vocab_size": 60, "length": 12, "max_length": 40, "end": 59}
ITEMS = {"kind": "items", "vocab_size": 60, "features": 1, "length": 12, "max_length": 40}
SEQUENCES = {
    "classes of texts": (TEXT, {"kind": "classes", "num_classes": 5}),
    "tags of texts": (TEXT, {"kind": "tags", "num_classes": 5}),
    "items": (ITEMS, {"kind": "ranking", "num_classes": 58}),
    "pairs": (PAIRS, {"kind": "sequence", "num_classes": 60, "end": 59}),
    "series": (SERIES, {"kind": "horizon", "horizon": 6, "mean": [0.0] * 3, "std": [1.0] * 3}),
}


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize(("family", "size"), LADDER)
def test_counts_over_sequences_are_pytorchs(family, size, kind):
    """With masks, rotary positions and both directions too, exactly."""
    one = ModelSpec(family, size, *SEQUENCES[kind])
    model, found = build(one), count(one)

    assert count_params(model) == found.num_params
    assert measured_on(model, *examples(one, 1).values()) == (
        found.forward_flops, found.backward_flops,
    )  # fmt: skip


def test_a_target_looks_at_a_source_of_another_length():
    """The products of that attention have places of the target as rows, the source's as columns."""
    with torch.device("meta"):
        model = build(ModelSpec("cnn", "tiny", *SEQUENCES["pairs"]))
    ids = [torch.ones((1, places), dtype=torch.int64, device="meta") for places in (9, 4)]
    real = [torch.ones((1, places), dtype=torch.int64) for places in (9, 4)]
    found = count_module(model, *ids)

    assert measured_on(build(ModelSpec("cnn", "tiny", *SEQUENCES["pairs"])), *real) == (
        found.forward_flops, found.backward_flops,
    )  # fmt: skip


class Floats(nn.Module):
    """Bytes to a sequence of rows, or a grid, of numbers."""

    def __init__(self, rows: bool = False) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, images):
        return (images.float()[:, 0] if self.rows else images.float()), None


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_layers_on_data(cell, bidirectional, layers):
    """Every kind of recurrence directly on the data, whose gradient nobody needs."""
    body = RecurrentBody(6, hidden_dim=5, num_layers=layers, cell=cell, bidirectional=bidirectional)
    model = Model(Floats(rows=True), body, ClassHead(body.out_dim, 3))
    found = count_module(meta(model), image(1, 7, 6))

    assert measured(model, (1, 7, 6)) == (found.forward_flops, found.backward_flops)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_published_residual_nets(block):
    """Stem, strides and projections of the published shape, on a small picture."""
    body = ResidualBody(3, widths=(8, 16), depths=(2, 1), strides=(1, 2), block=block,
                        stem="imagenet", inner=(5, 6, 7))  # fmt: skip
    model = Model(Floats(), body, ClassHead(body.out_dim, 3))
    found = count_module(meta(model), image(3, 33, 40))

    assert measured(model, (3, 33, 40)) == (found.forward_flops, found.backward_flops)


def meta(model: nn.Module) -> nn.Module:
    """A copy of the model without memory."""
    import copy

    return copy.deepcopy(model).to("meta")


def image(*shape: int) -> torch.Tensor:
    """One example without memory."""
    return torch.empty((1, *shape), dtype=torch.uint8, device="meta")


@pytest.mark.parametrize(
    ("block", "depths", "multiply_adds"),
    [("basic", (2, 2, 2, 2), 1.814e9), ("bottleneck", (3, 4, 6, 3), 4.089e9)],
)
def test_published_multiply_adds(block, depths, multiply_adds):
    """ResNet-18 and ResNet-50 at 224 x 224: 1.81 and 4.09 billion, as torchvision lists them."""
    with torch.device("meta"):
        body = ResidualBody(3, widths=(64, 128, 256, 512), depths=depths, strides=(1, 2, 2, 2),
                            block=block, stem="imagenet")  # fmt: skip
        model = Model(Floats(), body, ClassHead(body.out_dim, 1000))
    found = count_module(model, image(3, 224, 224))

    assert pytest.approx(2 * multiply_adds, rel=0.001) == found.forward_flops


@pytest.mark.parametrize("family", MODELS)
def test_layers_add_up(family):
    """The layers' own parameters are all of the model's but norms and positions."""
    one = spec(family, "small", (1, 28, 28))
    found = count(one)
    with torch.device("meta"):
        model = build(one)
    covered = sum(
        p.numel()
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.RNNBase | nn.Embedding)
        for p in module.parameters(recurse=False)
    )

    assert covered == sum(layer.num_params for layer in found.layers)
    assert len(found.layers) == len({layer.name for layer in found.layers})


def test_nothing_is_left_behind():
    """Counting a module leaves neither hooks nor gradients on it."""
    with torch.device("meta"):
        model = build(spec("transformer", "tiny", (1, 8, 8)))
    count_module(model, image(1, 8, 8))

    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counting_works_where_gradients_are_off():
    """Inside no_grad the backward is counted all the same."""
    one = spec("cnn", "tiny", (1, 8, 8))
    with torch.no_grad():
        found = count(one)

    assert count(one) == found
    assert found.backward_flops > found.forward_flops
