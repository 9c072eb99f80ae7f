"""Wrong graphs are caught, whatever is wrong with them, and the node is named."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from modelwright.core.errors import DataError, Exit, ParityError
from modelwright.export.edges import edge_inputs
from modelwright.export.locate import against_graph, against_model
from modelwright.export.parity import (
    check_hop,
    check_kernels,
    parity_report,
    require,
)
from modelwright.models.catalog import ModelSpec
from modelwright.tasks.catalog import TASKS

from .conftest import spec_of

pytestmark = pytest.mark.xdist_group("exports")  # what the fixture exports is made once
IMAGES = TASKS["image-classification"]
JUDGE = spec_of(), IMAGES
CONTRACT_KEYS = {
    "name", "rows", "edge_inputs", "max_error", "tolerance", "decisions_equal",
    "decisions_total", "metric_before", "metric_after", "passed", "first_differing_node",
}  # fmt: skip


def node_of(graph, op_type, index=0):
    return [node for node in graph.node if node.op_type == op_type][index]


def change_weight(graph, name, change):
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    value = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))


def relu_to_sigmoid(graph):
    node_of(graph, "Relu", 2).op_type = "Sigmoid"


def scaled_weight(graph):
    change_weight(graph, node_of(graph, "Conv", 3).input[1], lambda weight: weight * 1.01)


def swapped_classes(graph):
    gemm = node_of(graph, "Gemm")
    order = [1, 0, *range(2, 10)]
    change_weight(graph, gemm.input[1], lambda weight: weight[order])
    change_weight(graph, gemm.input[2], lambda bias: bias[order])


def nan_weight(graph):
    def plant(weight):
        weight.flat[0] = np.nan
        return weight

    change_weight(graph, node_of(graph, "Conv", 1).input[1], plant)


def wrong_softmax_axis(graph):
    softmax = node_of(graph, "Softmax", -1)
    del softmax.attribute[:]
    softmax.attribute.append(onnx.helper.make_attribute("axis", 0))


def wrong_mean(graph):
    change_weight(graph, node_of(graph, "Sub").input[1], lambda mean: mean + 1)


def skipped_residual(graph):
    add = node_of(graph, "Add", 1)
    add.input[1] = add.input[0]


def mean_over_batch(graph):
    """Adds the mean over the batch to the logits, which then depend on the neighbours."""
    gemm = node_of(graph, "Gemm")
    gemm.output[0] = "own"
    axes = onnx.numpy_helper.from_array(np.array([0]), "batch_axis")
    graph.initializer.append(axes)
    place = list(graph.node).index(gemm) + 1
    graph.node.insert(place, onnx.helper.make_node("Add", ["own", "mean_row"], ["logits"]))
    graph.node.insert(
        place, onnx.helper.make_node("ReduceMean", ["own", "batch_axis"], ["mean_row"])
    )


def test_a_true_export_passes(exports):
    """Every family's own graph agrees with PyTorch on real rows, edge inputs and batches, and so
    does one that answers with the mean over a picture and its mirror image."""
    plain = [exports(family) for family in ("cnn", "rnn", "transformer")]
    for exported in (*plain, exports("cnn", mirror=True)):
        hop = check_hop(
            "trained → onnx",
            exported.before,
            exported.after(),
            exported.rows,
            exported.spec,
            IMAGES,
        )

        assert [] == hop["failures"], exported.spec
        assert hop["passed"] and hop["max_error"] < 1e-5 and hop["batch_error"] < 1e-5
        assert (70, 70, 1.0) == (
            hop["decisions_equal"],
            hop["decisions_total"],
            hop["metric_after"],
        )


@pytest.mark.parametrize(
    ("plant", "node"),
    [
        (relu_to_sigmoid, "relu_2 (Sigmoid)"),
        (scaled_weight, "getitem_9 (Conv)"),
        (swapped_classes, "logits (Gemm)"),
        (nan_weight, "getitem_3 (Conv)"),
        (wrong_softmax_axis, "probabilities (Softmax)"),
        (wrong_mean, "sub_1 (Sub)"),
        (skipped_residual, "add_101 (Add)"),
    ],
)
def test_a_planted_fault_is_caught_and_its_node_named(plant, node, cnn, tmp_path):
    """One wrong node in an exported graph fails the hop, and that node is the one named."""
    path = cnn.tampered(tmp_path, plant)

    hop = check_hop(
        "trained → onnx", cnn.before, cnn.after(path), cnn.rows, *JUDGE,
        locate=cnn.against(path),
    )  # fmt: skip

    assert node == hop["first_differing_node"]
    assert not hop["passed"] and hop["failures"]
    json.dumps(parity_report([hop]), allow_nan=False)


def test_a_fault_between_two_torch_nodes_is_found(exports, tmp_path):
    """A wrong operator inside what PyTorch sees as one attention call is named itself."""
    exported = exports("transformer")

    def inner_softmax(graph):
        node_of(graph, "Softmax", 0).attribute[0].i = 1

    path = exported.tampered(tmp_path, inner_softmax)
    hop = check_hop(
        "trained → onnx", exported.before, exported.after(path), exported.rows,
        exported.spec, IMAGES, locate=exported.against(path),
    )  # fmt: skip

    assert hop["first_differing_node"].endswith("(Softmax)")
    assert hop["first_differing_node"].startswith("val_")


def test_a_graph_with_other_names_is_compared_by_place(cnn, tmp_path):
    """Names that do not line up fall back to a fresh export's values, and the hop says so."""

    def rename_and_break(graph):
        relu_to_sigmoid(graph)
        made = {output for node in graph.node for output in node.output}
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name in made and name not in ("logits", "probabilities"):
                        names[index] = f"v_{name}"

    path = cnn.tampered(tmp_path, rename_and_break)
    located = against_model(cnn.model, path, cnn.spec)({"image": cnn.images[:2]})

    assert "v_relu_2 (Sigmoid)" == located.node
    assert "by place" in located.how


def test_a_row_that_depends_on_its_batch_is_refused(cnn, tmp_path):
    """A graph that mixes the rows of a batch fails even where single numbers look right."""
    path = cnn.tampered(tmp_path, mean_over_batch)

    hop = check_hop("trained → onnx", cnn.after(path), cnn.after(path), cnn.rows, *JUDGE)

    assert not hop["passed"] and 0.0 == hop["max_error"]
    assert "depend on the batch" in hop["failures"][0]


def test_a_fixed_batch_fails_the_hop(cnn, tmp_path):
    """A form that cannot run a batch of another size fails with that batch in the text."""

    def fix_batch(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64

    path = cnn.tampered(tmp_path, fix_batch)
    few = cnn.rows.take(np.arange(64))
    hop = check_hop("trained → onnx", cnn.before, cnn.after(path), few, *JUDGE)

    assert not hop["passed"]
    assert "the form after cannot run a batch of" in hop["failures"][0]


def test_ties_may_flip_and_nothing_else(cnn):
    """Rows whose two best logits are equal within the tolerance are counted apart."""

    class Fixed:
        signature = cnn.signature

        def __init__(self, logits):
            self.logits = np.array(logits)

        def __call__(self, batch):
            logits = np.repeat(self.logits[None], len(batch["image"]), 0)
            exponent = np.exp(logits)
            return {"logits": logits, "probabilities": exponent / exponent.sum(1, keepdims=True)}

        def close(self):
            pass

    rows = dataclasses.replace(cnn.rows, targets=np.zeros(70, np.int64))
    tie = check_hop("hop", Fixed([1.0, 1.00001]), Fixed([1.00001, 1.0]), rows, *JUDGE)
    flip = check_hop("hop", Fixed([1.0, 1.01]), Fixed([1.01, 1.0]), rows, *JUDGE)

    assert tie["passed"] and (70, 0) == (tie["ties"], tie["decisions_equal"])
    assert not flip["passed"] and 0 == flip["ties"]


def test_a_fault_in_a_mirrored_graph_is_named(exports, tmp_path):
    """As in any other."""
    one = exports("cnn", mirror=True)
    path = one.tampered(tmp_path, scaled_weight)
    hop = check_hop(
        "trained → onnx", one.before, one.after(path), one.rows, one.spec, IMAGES,
        locate=one.against(path),
    )  # fmt: skip

    assert not hop["passed"] and "(Conv)" in hop["first_differing_node"]


def test_the_hop_has_the_keys_of_the_contract(cnn):
    """parity.json holds what docs/reference/run-folder.md promises."""
    hop = check_hop("trained → onnx", cnn.before, cnn.after(), cnn.rows, *JUDGE)

    assert set(hop) >= CONTRACT_KEYS
    assert ["zeros", "full", "noise", "bright_pixel", "checkerboard"] == hop["edge_inputs"]
    assert ("accuracy", 1.0) == (hop["metric"], hop["metric_before"])


def test_no_rows_prove_nothing(cnn):
    """A hop without rows is refused as input."""
    with pytest.raises(DataError, match="no rows"):
        check_hop("hop", cnn.before, cnn.after(), cnn.rows.take(np.arange(0)), *JUDGE)


def test_require_names_hop_numbers_and_node(cnn, tmp_path):
    """The error that stops the run says which hop, how far off, and at which node; exit 4."""
    path = cnn.tampered(tmp_path, relu_to_sigmoid)
    hop = check_hop(
        "trained → onnx", cnn.before, cnn.after(path), cnn.rows, *JUDGE,
        locate=cnn.against(path),
    )  # fmt: skip

    with pytest.raises(ParityError) as caught:
        require(parity_report([hop]))

    assert Exit.REFUSED == caught.value.exit_code
    assert "trained → onnx" in caught.value.what
    assert "a number is off by" in caught.value.what
    assert "relu_2 (Sigmoid)" in caught.value.what
    assert "parity.json" in caught.value.repair


def test_require_accepts_what_passed_and_refuses_no_proof(cnn):
    """Passed hops go on; a report without any hop is no proof."""
    hop = check_hop("trained → onnx", cnn.before, cnn.after(), cnn.rows, *JUDGE)

    require(parity_report([hop]))
    require(hop)
    assert parity_report([])["passed"] is False
    with pytest.raises(ParityError, match="no hop was checked"):
        require(parity_report([]))


def test_edge_inputs_cover_the_extremes():
    """Edge inputs are of the given shape and reach both ends of the byte range."""
    image = {"kind": "image", "shape": (3, 5, 4)}
    made = edge_inputs(ModelSpec("cnn", "tiny", image, {}))
    edges = dict(zip(made.origins, made.images, strict=True))

    assert (5, 3, 5, 4) == made.images.shape
    assert (0, 255) == (edges["zeros"].max(), edges["full"].min())
    assert 3 * 255 == int(edges["bright_pixel"].sum())


class Reader(quantization.CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter([{"image": images}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def quantized(cnn, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    quantization.quantize_static(
        cnn.path, path, Reader(cnn.images), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
    )  # fmt: skip
    return path


def test_an_int8_graph_is_judged_by_decisions(cnn, quantized):
    """A good int8 graph passes the quantized bounds and fails the float ones."""
    bounds = {"decision_tolerance": 0.15, "metric_tolerance": 0.15}
    as_int8 = check_hop(
        "onnx → int8", cnn.after(), cnn.after(quantized), cnn.rows, *JUDGE, tolerance=None, **bounds
    )
    as_float = check_hop("onnx → int8", cnn.after(), cnn.after(quantized), cnn.rows, *JUDGE)

    assert [] == as_int8["failures"]
    assert as_int8["max_error"] > 1e-3
    assert not as_float["passed"]


def test_a_broken_scale_in_an_int8_graph_is_named(cnn, quantized, tmp_path):
    """A wrong quantization scale is found at the first shared value below 10 dB."""
    proto = onnx.load(quantized)
    conv = node_of(proto.graph, "Conv", 3)
    dequantize = next(node for node in proto.graph.node if conv.input[1] in node.output)
    change_weight(proto.graph, dequantize.input[1], lambda scale: scale * 3)
    path = tmp_path / "broken.onnx"
    onnx.save(proto, path)

    hop = check_hop(
        "onnx → int8", cnn.after(), cnn.after(path), cnn.rows, *JUDGE, tolerance=None,
        locate=against_graph(cnn.path, path),
    )  # fmt: skip

    assert not hop["passed"]
    assert "relu_3 (Conv)" == hop["first_differing_node"]
    assert "dB" in hop["located"]


def test_the_int8_kernels_do_what_the_graph_says(cnn, quantized):
    """The optimised int8 graph gives the same answers as the graph run as written."""
    hop = check_kernels(quantized, cnn.rows, *JUDGE, decision_tolerance=0.05)

    assert [] == hop["failures"]
    assert "int8 graph → int8 kernels" == hop["name"]


def test_wrong_kernels_are_caught(cnn, quantized, monkeypatch):
    """Kernels that saturate, here played by a graph of wrong weights, fail and are blamed."""
    from modelwright.export import parity

    def saturating(path, threads):
        proto = onnx.load(path)
        for node in proto.graph.node:
            if node.op_type == "DequantizeLinear" and "weight" in node.input[0]:
                change_weight(proto.graph, node.input[1], lambda scale: scale * 0.3)
        return parity.unoptimised(proto.SerializeToString())

    monkeypatch.setattr(parity, "inference_session", saturating)
    hop = check_kernels(quantized, cnn.rows, *JUDGE)

    assert not hop["passed"]
    assert "kernels for this processor" in hop["located"]
