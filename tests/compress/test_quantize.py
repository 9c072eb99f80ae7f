"""Static int8: smaller, of one mind with the float graph, and refused where it cannot work."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelwright.compress.calibrate import CALIBRATIONS, observe
from modelwright.compress.quantize import (
    BETWEEN,
    FEWEST_SUMMED,
    PRODUCTS,
    quantize_graph,
    rounded_values,
)
from modelwright.core.errors import Exit, NothingChanged, Unsupported
from modelwright.data.rows import Rows
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import ModelSpec
from modelwright.plan.time import made_up
from modelwright.runtime.onnx_session import OnnxSession

from .conftest import INPUTS, OUTPUTS, randomised, rows

pytestmark = pytest.mark.xdist_group("trained")  # what the fixture trains is trained once


@pytest.fixture(scope="session")
def histograms(trained):
    return observe(trained.graph, rows(128))


def answers(trained, path):
    session = OnnxSession(path, trained.signature, 1)
    return session({"image": trained.unseen.images})["logits"].argmax(1)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_int8_is_smaller_and_agrees(trained, histograms, tmp_path, calibration):
    """On unseen rows at least 95 % of the answers stay, and the file shrinks."""
    path = tmp_path / "int8.onnx"
    changed = quantize_graph(trained.graph, histograms, calibration, path)
    before, after = answers(trained, trained.path), answers(trained, path)

    assert 0.9 <= (before == trained.unseen.targets).mean()
    assert 0.95 <= (before == after).mean()
    assert path.stat().st_size < trained.path.stat().st_size
    assert 5 <= changed


def test_weights_are_bytes(trained, histograms, tmp_path):
    """Weights are int8, one scale a channel, but for convolutions that sum only a few values."""
    path = tmp_path / "int8.onnx"
    changed = quantize_graph(trained.graph, histograms, "minmax", path)
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    in_float = [conv.input[1] for conv in convs if conv.input[1] in constants]

    assert all(np.prod(constants[name].dims[1:]) < FEWEST_SUMMED for name in in_float)
    assert 1 <= len(in_float) < len(convs) <= changed + len(in_float)
    for conv in convs:
        if conv.input[1] not in in_float:
            weight, scale = reads[conv.input[1]].input[:2]
            assert TensorProto.INT8 == constants[weight].data_type
            assert [constants[weight].dims[0]] == list(constants[scale].dims)


def test_the_largest_of_bytes_are_bytes(tmp_path):
    """A pool reads and gives numbers of one scale, so that a runtime never leaves 8 bits for it."""
    spec = ModelSpec("cnn", "small", {**INPUTS, "shape": [1, 16, 16]}, OUTPUTS, {"block": "plain"})
    export_onnx(randomised(spec), tmp_path / "model.onnx", spec)
    float_graph = onnx.load(tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 16, 16), np.uint8)
    found = observe(float_graph, Rows({"image": images}, np.zeros(64, np.int64), [""] * 64))
    quantize_graph(float_graph, found, "minmax", tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    gives = {node.output[0]: node for node in graph.node}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]

    assert 2 <= len(pools)
    for pool in pools:
        before = gives[pool.input[0]]
        (after,) = [node for node in graph.node if pool.output[0] in node.input]
        assert ("DequantizeLinear", "QuantizeLinear") == (before.op_type, after.op_type)
        assert constants[before.input[1]] == constants[after.input[1]]


STREAM = {"kind": "stream", "vocab_size": 60, "features": 1, "length": 12, "max_length": 40}
WRITER = ModelSpec("transformer", "tiny", STREAM, {"kind": "next", "num_classes": 60})
TAGGER = ModelSpec(
    "transformer", "tiny", {**STREAM, "kind": "text", "features": 2},
    {"kind": "tags", "num_classes": 5, "labels": list("OABCD")},
    {"norm": "rms", "qk_norm": True, "activation": "relu2"},
)  # fmt: skip


@pytest.mark.parametrize("spec", [WRITER, TAGGER], ids=["writer", "tagger"])
def test_between_matrices_all_is_float(tmp_path, spec):
    """Products of matrices give float32: no norm and no activation between them leaves it for 8
    bits and comes back at once. The means of normed queries are such norms, and RMS norms too."""
    export_onnx(randomised(spec), tmp_path / "model.onnx", spec)
    float_graph = onnx.load(tmp_path / "model.onnx")
    wanted = rounded_values(float_graph)
    found = observe(float_graph, made_up(spec, 8), wanted)
    quantize_graph(float_graph, found, "minmax", tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    coded = {one.output[0] for one in graph.node if one.op_type == "DequantizeLinear"}
    readers = {one.op_type for one in graph.node if coded & set(one.input)}

    assert {"ReduceMean", "Add", "Relu"} <= {one.op_type for one in graph.node}
    assert readers <= set(PRODUCTS)
    assert not readers & set(BETWEEN)
    assert set(found) <= wanted
    assert not {one.name for one in float_graph.graph.output} & set(found)


def test_no_pair_of_products_overflows(trained, histograms, tmp_path):
    """Kernels without 8-bit dot products add two products in 16 bits: the largest pair fits."""
    path = tmp_path / "int8.onnx"
    quantize_graph(trained.graph, histograms, "minmax", path)
    weights = [
        numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer
        if one.data_type == TensorProto.INT8 and len(one.dims) > 1
    ]  # fmt: skip

    assert len(weights) >= 5
    assert 63 <= max(np.abs(one.astype(int)).max() for one in weights)
    assert 2 * 255 * max(np.abs(one.astype(int)).max() for one in weights) < 2**15


def test_the_float_graph_is_left_alone(trained, histograms, tmp_path):
    """Quantizing works on a copy."""
    before = trained.graph.SerializeToString(deterministic=True)
    quantize_graph(trained.graph, histograms, "mse", tmp_path / "int8.onnx")

    assert before == trained.graph.SerializeToString(deterministic=True)


def test_same_ranges_same_bytes(trained, histograms, tmp_path):
    """Quantizing twice gives one file."""
    for name in ("a", "b"):
        quantize_graph(trained.graph, histograms, "entropy", tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def made(node, *constants):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, 2])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "made", [image], [output], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_graphs_are_refused(tmp_path, kind):
    """There is no static int8 kernel for recurrences; the error says what to do instead."""
    graph = made(helper.make_node(kind, ["image", "w", "r"], ["logits"], hidden_size=2))
    with pytest.raises(Unsupported, match="no static int8 kernel") as caught:
        quantize_graph(graph, {}, "minmax", tmp_path / "int8.onnx")

    assert "compress: [quantize_weights]" in caught.value.repair
    assert Exit.BAD_INPUT == caught.value.exit_code
    assert not (tmp_path / "int8.onnx").exists()


def test_a_graph_without_products_changes_nothing(tmp_path):
    """Where there is no product to quantize, it is an error, not the same graph once more."""
    graph = made(helper.make_node("Relu", ["image"], ["logits"]))
    with pytest.raises(NothingChanged, match="0 of 0 products"):
        quantize_graph(graph, {}, "minmax", tmp_path / "int8.onnx")

    assert not (tmp_path / "int8.onnx").exists()
