"""Parts against their papers and against PyTorch's own modules with the same weights."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelwright.models.catalog import Model, count_params
from modelwright.models.cnn import BasicBlock, Bottleneck, PlainBlock, ResidualBody
from modelwright.models.embed import Normalize, Patches
from modelwright.models.heads import ClassHead
from modelwright.models.layers import Attention, Dropout, SquaredReLU, sinusoidal_positions
from modelwright.models.rnn import RecurrentBody
from modelwright.models.transformer import EncoderBlock, EncoderBody

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Plain(nn.Module):
    """What a module gives, every place of it real."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner or nn.Identity()

    def forward(self, features):
        return self.inner(features), None


def residual(block: str, depths: tuple[int, ...]) -> Model:
    body = ResidualBody(3, widths=(64, 128, 256, 512), depths=depths, strides=(1, 2, 2, 2),
                        block=block, stem="imagenet")  # fmt: skip
    return Model(Plain(), body, ClassHead(body.out_dim, 1000))


@pytest.mark.parametrize(
    ("block", "depths", "params"),
    [("basic", (2, 2, 2, 2), 11_689_512), ("basic", (3, 4, 6, 3), 21_797_672),
     ("bottleneck", (3, 4, 6, 3), 25_557_032), ("bottleneck", (3, 4, 23, 3), 44_549_160)],
    ids=["ResNet-18", "ResNet-34", "ResNet-50", "ResNet-101"],
)  # fmt: skip
def test_residual_nets_have_the_published_size(block, depths, params):
    """The parts put together as in arXiv:1512.03385, table 1; counts as torchvision lists them."""
    with torch.device("meta"):
        model = residual(block, depths)
        logits = model(torch.empty(2, 3, 224, 224))

    assert params == count_params(model)
    assert (2, 1000) == logits.shape


def test_the_grid_of_a_published_net():
    """ResNet-50 turns 224 x 224 pixels into 7 x 7 places of 2048 numbers."""
    with torch.device("meta"):
        features = residual("bottleneck", (3, 4, 6, 3)).body(torch.empty(1, 3, 224, 224))

    assert (1, 2048, 7, 7) == features.shape


def test_the_vision_transformer_has_the_published_size():
    """ViT-B/16 as in arXiv:2010.11929, table 1; 86,567,656 as torchvision lists it."""
    with torch.device("meta"):
        body = EncoderBody(768, num_heads=12, mlp_dims=[3072] * 12, max_len=196, class_token=True)
        model = Model(Plain(Patches(3, (16, 16), 768)), body, ClassHead(768, 1000, pool="first"))
        logits = model(torch.empty(2, 3, 224, 224))

    assert 86_567_656 == count_params(model)
    assert (2, 1000) == logits.shape


@pytest.mark.parametrize(("dim", "heads", "mlp"), [(16, 2, 32), (24, 3, 20), (8, 1, 8)])
def test_an_encoder_block_is_pytorchs(dim, heads, mlp):
    """The same numbers as TransformerEncoderLayer, norm first, with the same weights."""
    block = EncoderBlock(dim, heads, mlp, dropout=0.0)
    other = nn.TransformerEncoderLayer(
        dim, heads, mlp, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    qkv = block.attention.qkv  # theirs has all queries first
    other.self_attn.in_proj_weight.data = (
        qkv.weight.data.view(heads, 3, -1, dim).transpose(0, 1).reshape(3 * dim, dim)
    )
    other.self_attn.in_proj_bias.data = qkv.bias.data.view(heads, 3, -1).transpose(0, 1).flatten()
    pairs = [(other.self_attn.out_proj, block.attention.out), (other.norm1, block.attention_norm),
             (other.norm2, block.mlp_norm), (other.linear1, block.mlp[0]),
             (other.linear2, block.mlp[2])]  # fmt: skip
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    sequence = torch.randn(3, 7, dim)

    torch.testing.assert_close(other(sequence), block(sequence), **CLOSE)


def test_attention_is_the_papers_formula():
    """softmax(Q K^T / sqrt(d)) V, head by head, as in arXiv:1706.03762, section 3.2."""
    attention, sequence = Attention(12, 3), torch.randn(2, 5, 12)
    heads = []
    parts = attention.qkv(sequence).split(4, dim=-1)
    for query, key, value in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        scores = query @ key.transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(-1) @ value)

    torch.testing.assert_close(attention.out(torch.cat(heads, -1)), attention(sequence), **CLOSE)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_body_is_pytorchs(cell, bidirectional):
    """The same numbers as nn.LSTM and nn.GRU with the same weights, and out_dim is their width."""
    body = RecurrentBody(5, hidden_dim=6, num_layers=2, cell=cell, bidirectional=bidirectional)
    make = nn.LSTM if cell == "lstm" else nn.GRU
    other = make(5, 6, 2, batch_first=True, bidirectional=bidirectional)
    other.load_state_dict(body.layers.state_dict())
    sequence = torch.randn(3, 7, 5)

    torch.testing.assert_close(other(sequence)[0], body(sequence), rtol=0, atol=0)
    assert (3, 7, body.out_dim) == body(sequence).shape


def test_an_lstm_is_the_papers_formula():
    """Input, forget, cell and output gates step by step, as Hochreiter and Schmidhuber wrote."""
    body = RecurrentBody(4, hidden_dim=3, num_layers=1, bidirectional=False)
    weights, sequence = dict(body.layers.named_parameters()), torch.randn(2, 6, 4)
    state, cell, found = torch.zeros(2, 3), torch.zeros(2, 3), []
    for step in range(6):
        gates = (
            sequence[:, step] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
            + state @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        )  # fmt: skip
        put, keep, new, show = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + put.sigmoid() * new.tanh()
        state = show.sigmoid() * cell.tanh()
        found.append(state)

    torch.testing.assert_close(torch.stack(found, 1), body(sequence), **CLOSE)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_forget_gate_starts_open(bidirectional):
    """Its bias is 1 in sum and every other bias 0: Jozefowicz et al. 2015, section 2.2."""
    body = RecurrentBody(4, hidden_dim=3, num_layers=2, bidirectional=bidirectional)
    weights = dict(body.layers.named_parameters())
    for name in weights:
        if name.startswith("bias_ih"):
            total = weights[name] + weights[name.replace("_ih", "_hh")]

            assert [0.0] * 3 + [1.0] * 3 + [0.0] * 6 == total.tolist()


def batch_norm(features, norm):
    """Arithmetic of batch norm in evaluation."""
    mean, var, weight, bias = (
        value.view(1, -1, 1, 1) for value in (norm.running_mean, norm.running_var, norm.weight,
                                              norm.bias)
    )  # fmt: skip
    return (features - mean) / (var + norm.eps).sqrt() * weight + bias


def conv_norm(features, unit, stride=1):
    weight = unit[0].weight
    return batch_norm(
        F.conv2d(features, weight, stride=stride, padding=weight.shape[-1] // 2), unit[1]
    )


def shaken(module: nn.Module) -> nn.Module:
    """Every number of the module is random, the statistics of norms too."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.0)
            tensor.data *= 0.5
    return module.eval()


@pytest.mark.parametrize(("channels", "width", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
def test_a_basic_block_is_the_papers(channels, width, stride):
    """relu(conv-norm-relu-conv-norm + skip); a projection only where shapes differ."""
    block = shaken(BasicBlock(channels, width, stride))
    features = torch.randn(2, channels, 6, 6)
    inner = conv_norm(features, block.body[0], stride).relu()
    skip = features
    if stride != 1 or channels != width:
        skip = conv_norm(features, block.skip, stride)
    expected = (conv_norm(inner, block.body[2]) + skip).relu()

    torch.testing.assert_close(expected, block(features), **CLOSE)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_plain_block_is_two_convolutions(stride):
    """conv-norm-relu twice; where it strides, the largest of each four places behind the first."""
    block = shaken(PlainBlock(4, 8, stride))
    features = torch.randn(2, 4, 7, 6)
    inner = conv_norm(features, block.body[0]).relu()
    if stride == 2:
        inner = torch.nn.functional.max_pool2d(inner, 2, ceil_mode=True)

    torch.testing.assert_close(conv_norm(inner, block.body[2]).relu(), block(features), **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_a_pooled_norm_may_come_before_or_after(training):
    """The norm sees the largest places alone while training, and comes first afterwards: after
    some steps both orders give the same values, bit for bit."""
    torch.manual_seed(0)
    block = PlainBlock(3, 8, 2)
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        block(torch.randn(4, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    block.train(training)
    features = torch.randn(2, 3, 7, 6)
    (conv, norm), relu, *rest = copy.deepcopy(block.body)
    pooled = torch.nn.MaxPool2d(2, ceil_mode=True)(conv(features))
    expected = torch.nn.Sequential(norm, relu, *rest)(pooled)

    assert torch.equal(expected, block(features))
    assert torch.equal(norm.running_mean, block.body[0][1].running_mean)
    assert torch.equal(torch.ones(8), norm.weight)


def test_a_bottleneck_is_the_papers():
    """1x1, 3x3 with the stride, 1x1 up to four times the width, and the skip."""
    block = shaken(Bottleneck(8, 4, 2))
    features = torch.randn(2, 8, 6, 6)
    inner = conv_norm(features, block.body[0]).relu()
    inner = conv_norm(inner, block.body[2], 2).relu()
    expected = (conv_norm(inner, block.body[4]) + conv_norm(features, block.skip, 2)).relu()

    torch.testing.assert_close(expected, block(features), **CLOSE)


@pytest.mark.parametrize("block", [BasicBlock(4, 4, 1), Bottleneck(16, 4, 1)])
def test_a_block_starts_as_its_skip(block):
    """With the last norm at zero a new block passes positive features on: arXiv:1812.01187."""
    features = torch.rand(2, 4 * block.expansion, 5, 5)

    torch.testing.assert_close(features, block(features), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("channels", "grid", "patch"),
    [(1, (8, 8), (2, 2)), (3, (20, 28), (4, 4)), (1, (28, 28), (1, 28)), (3, (6, 8), (3, 2)),
     (2, (4, 4), (4, 4)), (2, (4, 6), (1, 1))],
)  # fmt: skip
def test_patches_are_a_strided_convolution(channels, grid, patch):
    """The same numbers as the convolution of the paper, with as large a stride as its kernel."""
    patches = Patches(channels, patch, 6)
    conv = nn.Conv2d(channels, 6, patch, stride=patch)
    conv.weight.data = patches.project.weight.data.view(6, channels, *patch)
    conv.bias.data = patches.project.bias.data
    features = torch.randn(2, channels, *grid)

    torch.testing.assert_close(
        conv(features).flatten(2).transpose(1, 2), patches(features), **CLOSE
    )


@pytest.mark.parametrize(("length", "dim"), [(1, 2), (7, 8), (50, 32), (5, 7)])
def test_positions_are_the_papers(length, dim):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of it: arXiv:1706.03762, 3.5."""
    expected = [
        [
            (math.sin, math.cos)[place % 2](position / 10_000 ** (place // 2 * 2 / dim))
            for place in range(dim)
        ]
        for position in range(length)
    ]

    torch.testing.assert_close(
        torch.tensor(expected), sinusoidal_positions(length, dim), rtol=1e-5, atol=1e-5
    )


def test_positions_make_order_matter():
    """Without positions one order of patches is as good as another; with them it is not."""
    for positions in ("sinusoidal", "learned"):
        body = EncoderBody(8, num_heads=2, mlp_dims=[8], max_len=5, positions=positions).eval()
        if body.positions is not None:
            body.positions.data.normal_()
        sequence = torch.randn(1, 5, 8)

        assert not torch.allclose(body(sequence).mean(1), body(sequence.flip(1)).mean(1), atol=1e-3)


def test_a_class_token_goes_first():
    """The sequence is longer by one, and the head reads that place alone."""
    body = EncoderBody(8, num_heads=2, mlp_dims=[8], max_len=5, class_token=True).eval()
    features = body(torch.randn(2, 5, 8))
    head = ClassHead(8, 3, pool="first")

    assert (2, 6, 8) == features.shape
    torch.testing.assert_close(head.linear(features[:, 0]), head(features), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 8, 3, 4), (2, 12, 8)])
def test_a_head_pools_over_every_place(shape):
    """The mean over a grid's places or a sequence's steps, then one linear layer."""
    features, head = torch.randn(shape), ClassHead(8, 3)
    places = features.flatten(2).mean(-1) if len(shape) == 4 else features.mean(1)

    torch.testing.assert_close(head.linear(places), head(features), **CLOSE)


def test_normalize_is_part_of_the_model():
    """Bytes become (value - mean) / std per channel, in float32, and mean and std are saved."""
    normalize = Normalize((10.0, 100.0), (2.0, 50.0))
    images = torch.tensor([[[[0, 10]], [[100, 200]]]], dtype=torch.uint8)

    assert [[[[-5.0, 0.0]], [[0.0, 2.0]]]] == normalize(images).tolist()
    assert {"mean", "inverse_std"} == set(normalize.state_dict())


def test_squared_relu_and_its_gradient():
    """Its own gradient is the one that automatic differentiation finds, bit for bit."""
    torch.manual_seed(0)
    features = torch.randn(64, 33, dtype=torch.bfloat16)
    upstream = torch.randn_like(features)
    found = []
    for function in (SquaredReLU(), lambda x: x.relu().square()):
        asked = features.clone().requires_grad_()
        values = function(asked)
        values.backward(upstream)
        found.append((values.detach(), asked.grad))

    assert torch.equal(found[1][0], found[0][0])
    assert torch.equal(found[1][1], found[0][1])
    with torch.no_grad():
        assert torch.equal(found[1][0], SquaredReLU()(features))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.5, 0.999])
def test_dropout_keeps_a_share_and_the_mean(share):
    """About that share of places, each as likely as the next, is zero; the others grow."""
    torch.manual_seed(0)
    layer, features = Dropout(share), torch.ones(400, 8, 33)
    kept = layer(features)
    exact = min(max(round(256 * share), 1), 255) / 256
    spread = 4 * math.sqrt(exact * (1 - exact))

    assert [0.0, pytest.approx(1 / (1 - exact))] == kept.unique().tolist()
    for dims, rows in (((), kept.numel()), ((0, 2), 400 * 33), ((0, 1), 400 * 8)):
        zero = (kept == 0).float().mean(dims) if dims else (kept == 0).float().mean()
        assert (zero - exact).abs().max() < spread / math.sqrt(rows)
    assert layer.eval()(features) is features


def test_dropout_draws_by_torchs_seed():
    """One seed gives one mask, the next call another."""
    layer, features = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = layer(features), layer(features)
    torch.manual_seed(3)

    assert torch.equal(first, layer(features))
    assert not torch.equal(first, second)
