"""Separable convolutions, over grids and over time: what they compute, cost and lose."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from modelwright.compress.calibrate import observe
from modelwright.compress.quantize import quantize_graph
from modelwright.core.recipe import Model
from modelwright.export.onnx import export_onnx
from modelwright.models.carried import Carried
from modelwright.models.catalog import ModelSpec, build, count_params
from modelwright.models.cnn import SequenceBody
from modelwright.models.layers import SeparableConvNorm
from modelwright.plan.time import made_up
from modelwright.runtime.onnx_session import OnnxSession

from .conftest import spec as pictures_of
from .test_sequences import CLOSE, PAIRS, TEXT, answers, shaken, texts

SEPARABLE = {"convolution": "separable"}


def of_texts(head: str, size: str = "tiny") -> ModelSpec:
    return ModelSpec("cnn", size, *PAIRS[f"{head} of texts"], SEPARABLE)


def test_each_channel_alone_then_all_at_each_place():
    """It is torch's convolution in as many groups as channels, and one of a single place."""
    unit = SeparableConvNorm(4, 6, 3, 2).eval()
    features = torch.randn(2, 4, 8, 8)
    alone = F.conv2d(features, unit[0][0].weight, stride=2, padding=1, groups=4)
    wanted = F.conv2d(alone, unit[1][0].weight) / (1 + 1e-5)

    torch.testing.assert_close(unit(features), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["small", "base"])
def test_it_is_smaller_by_the_kernel(size):
    """Over pictures it has a fifth of the weights or less, over texts no more than the full one."""
    full = pictures_of("cnn", size, (1, 28, 28))

    assert count_params(build(full.but(SEPARABLE))) < count_params(build(full)) / 5
    texts_of = ModelSpec("cnn", size, *PAIRS["tags of texts"])
    assert count_params(build(texts_of.but(SEPARABLE)).body) < count_params(build(texts_of).body)


def test_padding_changes_nothing():
    """A text is answered alone as beside longer ones."""
    model, rows = shaken(of_texts("classes")), texts((5, 1, 40, 17))
    together = answers(model, rows, range(4))
    alone = torch.cat([answers(model, rows, [row]) for row in range(4)])
    scale = together.abs().max()

    torch.testing.assert_close(alone / scale, together / scale, **CLOSE)


def test_the_state_carries_on():
    """A text read place by place gives what it gives at once."""
    one = of_texts("next")
    model = shaken(one)
    ids = torch.randint(1, TEXT["vocab_size"], (2, 6, TEXT["features"]))
    past = [torch.zeros(state.sizes(2, 0, 0)) for state in one.signature.state]
    found = []
    with torch.inference_mode():
        for place in range(6):
            carried = Carried(past)
            found.append(model.decode(ids[:, place : place + 1], [], carried))
            past = carried.present

        torch.testing.assert_close(torch.cat(found, 1), model(ids), **CLOSE)


@pytest.mark.parametrize("one", [
    pictures_of("cnn", "small", (1, 28, 28)).but(SEPARABLE), of_texts("classes", "small"),
], ids=["pictures", "texts"])  # fmt: skip
def test_what_mixes_becomes_int8_and_what_does_not_stays(one, tmp_path):
    """The graph answers as the model; in int8 the products over channels are int8, those of single
    channels float32, and most answers stay."""
    model = shaken(one)
    export_onnx(model, tmp_path / "model.onnx", one)
    rows = made_up(one, 64)
    graph = onnx.load(tmp_path / "model.onnx")
    alone = [node.name for node in graph.graph.node if _groups(node) > 1]
    quantize_graph(graph, observe(graph, rows), "minmax", tmp_path / "int8.onnx")
    made = onnx.load(tmp_path / "int8.onnx").graph
    integers = {name for node in made.node if node.op_type == "DequantizeLinear"
                for name in node.output}  # fmt: skip
    batch = rows.batch(np.arange(64))
    found, rounded = (
        OnnxSession(tmp_path / name, one.signature, 1)(batch)["logits"]
        for name in ("model.onnx", "int8.onnx")
    )
    with torch.inference_mode():
        wanted = model(*map(torch.from_numpy, batch.values())).numpy()

    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    assert alone
    kept = [node for node in made.node if node.name in alone]
    assert all(node.input[1] not in integers for node in kept) and len(kept) == len(alone)
    mixed = [node for node in made.node if node.op_type in ("Conv", "MatMul", "Gemm")
             and node.input[1] in integers]  # fmt: skip
    assert mixed
    assert (rounded.argmax(1) == wanted.argmax(1)).mean() > 0.9


def _groups(node: onnx.NodeProto) -> int:
    return next((one.i for one in node.attribute if one.name == "group"), 1)


def test_a_sequence_of_pairs_has_it_on_both_sides():
    """The blocks over time take it wherever they stand."""
    body = SequenceBody(8, inner=[12, 12], convolution="separable")

    assert [block.conv.groups for block in body.blocks] == [8, 8]


def test_another_family_has_no_convolution_to_choose():
    """A key that the family does not read is refused."""
    with pytest.raises(ValueError, match="convolution: only the family cnn reads it"):
        Model(family="transformer", convolution="separable")
