"""Blocks of the transformer against torch's own operators and the papers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelwright.compress.prune import prune
from modelwright.core.errors import ConfigError
from modelwright.models.catalog import ModelSpec, build, examples
from modelwright.models.cnn import SequenceBlock
from modelwright.models.embed import TokenEmbed
from modelwright.models.layers import (
    ACTIVATIONS,
    NORMS,
    Attention,
    CrossAttention,
    attend,
    feed_forward,
    mel_filters,
    rotate,
    unit_mean_square,
)
from modelwright.plan.count import count

CLOSE = {"rtol": 0, "atol": 1e-5}
STREAM = {"kind": "stream", "vocab_size": 20, "features": 1, "length": 12}
NEXT = {"kind": "next", "num_classes": 20}
MODERN = {"norm": "rms", "activation": "swiglu", "qk_norm": True, "num_kv_heads": 1, "head_dim": 16}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_plain_products_are_torchs_attention(causal, masked):
    """In bfloat16 the products on CPUs give what the fused kernel gives, and its gradients."""
    torch.manual_seed(0)
    heads = [torch.randn(2, 3, 9, 8).bfloat16().requires_grad_() for _ in range(3)]
    seen = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    seen[0, ..., 5:] = False
    seen = seen if masked and not causal else None
    ours = attend(*heads, seen, causal=causal)
    theirs = F.scaled_dot_product_attention(*heads, attn_mask=seen, is_causal=causal)
    first = torch.autograd.grad(ours.float().square().sum(), heads)
    second = torch.autograd.grad(theirs.float().square().sum(), heads)

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.1)


def test_grouped_queries_are_repeated_keys():
    """One head of keys for four of queries is four equal heads of keys: arXiv:2305.13245."""
    torch.manual_seed(0)
    few, many = Attention(32, 4, num_kv_heads=1), Attention(32, 4)
    with torch.no_grad():
        for name in ("weight", "bias"):
            own = getattr(few.qkv, name)
            *queries, key, value = own.split(8)
            each = [torch.cat([query, key, value]) for query in queries]
            getattr(many.qkv, name).copy_(torch.cat(each))
        many.out.load_state_dict(few.out.state_dict())
    sequence = torch.randn(2, 7, 32)

    assert few.qkv.out_features < many.qkv.out_features
    torch.testing.assert_close(few(sequence), many(sequence), **CLOSE)


def test_normed_queries_and_keys_forget_their_length():
    """With qk_norm larger queries and keys change nothing: arXiv:2302.05442."""
    torch.manual_seed(0)
    attention = Attention(32, 4, qk_norm=True)
    sequence = torch.randn(2, 7, 32)
    before = attention(sequence)
    with torch.no_grad():
        attention.qkv.weight.view(4, 3, 8, 32)[:, :2] *= 7
        attention.qkv.bias.view(4, 3, 8)[:, :2] *= 7

    torch.testing.assert_close(before, attention(sequence), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        F.rms_norm(sequence, (32,), eps=1e-6), unit_mean_square(sequence), **CLOSE
    )


def test_activations_are_the_papers():
    """ReLU² of arXiv:2109.08668 and SwiGLU of arXiv:2002.05202."""
    features = torch.randn(3, 8)
    one, other = features.chunk(2, -1)

    torch.testing.assert_close(features.clamp_min(0) ** 2, ACTIVATIONS["relu2"]()(features))
    torch.testing.assert_close(one * one.sigmoid() * other, ACTIVATIONS["swiglu"]()(features))
    for name in ACTIVATIONS:
        assert (3, 8) == feed_forward(8, 12, name)(features).shape


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_units_can_be_pruned(norm, activation):
    """Half the hidden units of any block go, gates with what they gate; the model still runs."""
    torch.manual_seed(0)
    args = {"norm": norm, "activation": activation}
    spec = ModelSpec("transformer", "tiny", STREAM, NEXT, args)
    smaller, kept = prune(build(spec), spec, 0.5)

    assert [64] == list(kept.arguments["mlp_dims"])
    assert (2, 12, 20) == smaller(*examples(kept, 2).values()).shape


def test_a_block_can_start_as_its_skip():
    """With zero_init what comes in goes out, whatever stands between: arXiv:1901.09321."""
    spec = ModelSpec("transformer", "tiny", STREAM, NEXT, {**MODERN, "zero_init": True})
    block = build(spec).body.blocks[0]
    sequence = torch.randn(2, 5, 32)

    torch.testing.assert_close(
        sequence + block.attention.out.bias + block.mlp[2].bias, block(sequence)
    )


def test_each_block_adds_its_share_of_what_came_in():
    """Shares begin at zero, where nothing changes; after that each block sees its own."""
    torch.manual_seed(0)
    plain = build(ModelSpec("transformer", "tiny", STREAM, NEXT, {"num_layers": 2})).body
    body = build(
        ModelSpec("transformer", "tiny", STREAM, NEXT, {"num_layers": 2, "embed_skip": True})
    ).body
    body.load_state_dict(plain.state_dict(), strict=False)
    sequence = torch.randn(2, 5, 32)
    before = body(sequence)
    with torch.no_grad():
        body.shares.copy_(torch.tensor([0.5, -2.0]))
    first = body.blocks[0](1.5 * sequence)
    wanted = body.norm(body.blocks[1](first - 2 * sequence))

    assert (2,) == body.shares.shape
    torch.testing.assert_close(plain(sequence), before)
    torch.testing.assert_close(wanted, body(sequence))


def test_a_soft_cap_bends_the_logits():
    """No logit reaches the cap, and small ones stay as they are: arXiv:2408.00118."""
    torch.manual_seed(0)
    straight, bent = (
        build(ModelSpec("transformer", "tiny", STREAM, NEXT, {"soft_cap": cap})).eval()
        for cap in (0.0, 2.0)
    )
    bent.load_state_dict(straight.state_dict())
    with torch.no_grad():
        for model in (straight, bent):
            model.head.linear.weight *= 3
    inputs = examples(ModelSpec("transformer", "tiny", STREAM, NEXT), 3).values()
    before, after = straight(*inputs), bent(*inputs)

    assert after.abs().max() < 2 < before.abs().max()
    torch.testing.assert_close(2 * torch.tanh(before / 2), after)


def test_a_soft_cap_on_another_answer_is_refused():
    """It would have no effect there."""
    text = {**STREAM, "kind": "text", "max_length": 20}
    spec = ModelSpec(
        "transformer", "tiny", text, {"kind": "classes", "num_classes": 3}, {"soft_cap": 15.0}
    )

    with pytest.raises(ConfigError, match="soft_cap is of the next token's logits"):
        build(spec)


@pytest.mark.parametrize("args", [{"embed_skip": True}, {"soft_cap": 15.0}])
def test_small_parts_cost_no_products(args):
    """A share a block is all that is learned, and no product of matrices is added."""
    plain, more = (
        count(ModelSpec("transformer", "tiny", STREAM, NEXT, {"num_layers": 2, **own}))
        for own in ({}, args)
    )

    assert plain.forward_flops == more.forward_flops
    assert (2 if "embed_skip" in args else 0) == more.num_params - plain.num_params


@pytest.mark.parametrize(("whole", "hidden"), [(True, True), (False, False)])
def test_whole_tokens_are_dropped_where_that_is_asked_for(whole, hidden):
    """A text in classes does without some of its words; what comes next hangs on each letter."""
    torch.manual_seed(0)
    embed = TokenEmbed(10, 64, dropout=0.5, whole=whole).train()
    vectors, _ = embed(torch.ones(1, 100, 1, dtype=torch.int64))

    assert hidden == bool((vectors == 0).all(-1).any())
    assert (vectors == 0).any()


def test_rotary_positions_are_llamas():
    """x · cos + rotate_half(x) · sin over repeated angles, as Llama's published code writes it."""
    torch.manual_seed(0)
    heads = torch.randn(2, 3, 11, 8)
    rates = 1.0 / (10_000 ** (torch.arange(0, 8, 2).float() / 8))
    angle = torch.outer(torch.arange(5, 16).float(), rates)
    angle = torch.cat([angle, angle], -1)
    half = torch.cat([-heads[..., 4:], heads[..., :4]], -1)

    torch.testing.assert_close(heads * angle.cos() + half * angle.sin(), rotate(heads, 5), **CLOSE)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries_are_torchs(kind, causal):
    """Two heads of keys for six of queries, as torch's own enable_gqa deals them out."""
    torch.manual_seed(0)
    query = torch.randn(2, 6, 7, 8, dtype=getattr(torch, kind))
    key, value = torch.randn(2, 2, 2, 7, 8, dtype=query.dtype)
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)

    close = CLOSE if kind == "float32" else {"rtol": 0, "atol": 0.03}
    torch.testing.assert_close(theirs, attend(query, key, value, causal=causal), **close)


def test_attention_to_another_sequence_is_torchs():
    """A skip around nn.MultiheadAttention behind a norm, with the same weights and padding."""
    torch.manual_seed(0)
    ours = CrossAttention(12, 3, memory_dim=10)
    theirs = nn.MultiheadAttention(12, 3, kdim=10, vdim=10, batch_first=True)
    rows = torch.arange(24).view(3, 2, 4).transpose(0, 1).reshape(2, 12)  # of keys, of values
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.query.weight)
        theirs.k_proj_weight.copy_(ours.key_value.weight[rows[0]])
        theirs.v_proj_weight.copy_(ours.key_value.weight[rows[1]])
        bias = ours.key_value.bias
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, bias[rows[0]], bias[rows[1]]]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    sequence, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 10)
    real = torch.arange(7) < torch.tensor([[7], [4]])
    found, _ = theirs(ours.norm(sequence), memory, memory, key_padding_mask=~real)

    torch.testing.assert_close(
        sequence + found, ours(sequence, *ours.remember(memory), real), **CLOSE
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_block_over_time_is_torchs_convolution(causal, dilation):
    """Norm, F.conv1d with its own padding, ReLU, a product, a skip: arXiv:1803.01271."""
    torch.manual_seed(0)
    block = SequenceBlock(6, 10, kernel_size=3, dilation=dilation, causal=causal, dropout=0.0)
    nn.init.normal_(block.out.weight)
    sequence = torch.randn(2, 9, 6)
    normed = F.layer_norm(sequence, (6,), block.norm.weight, block.norm.bias).transpose(1, 2)
    around = 2 * dilation if causal else dilation  # of each side; causal ones drop what is behind
    hidden = F.conv1d(normed, block.conv.weight, block.conv.bias, padding=around, dilation=dilation)
    wanted = sequence + F.linear(hidden[..., :9].relu().mT, block.out.weight, block.out.bias)

    torch.testing.assert_close(wanted, block(sequence), **CLOSE)


@pytest.mark.parametrize(("rate", "size", "number"), [(8000, 256, 20), (16000, 512, 40)])
def test_mel_filters_are_triangles_on_the_mel_scale(rate, size, number):
    """Each rises from its left neighbour's centre to its own and falls to the next one's: the bank
    of HTK, without area norms."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    centres = [700 * (10 ** (top * n / (number + 1) / 2595) - 1) for n in range(number + 2)]
    wanted = torch.zeros(number, size // 2 + 1)
    for row in range(number):
        left, centre, right = centres[row : row + 3]
        for column in range(size // 2 + 1):
            frequency = column * rate / size
            if left < frequency <= centre:
                wanted[row, column] = (frequency - left) / (centre - left)
            elif centre < frequency < right:
                wanted[row, column] = (right - frequency) / (right - centre)

    torch.testing.assert_close(wanted, mel_filters(rate, size, number), rtol=0, atol=1e-5)
