"""Static int8: calibrated activations, weights per channel, as QDQ nodes in the ONNX graph.

The calibration is ours (compress/calibrate.py); ONNX Runtime's quantizer places the nodes.
Source: Jacob et al. 2017, arXiv:1712.05877; ONNX Runtime docs, "Quantize ONNX models".
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from modelwright.compress.calibrate import CALIBRATIONS, Histogram
from modelwright.core.errors import NothingChanged, Unsupported
from modelwright.core.files import write_bytes

PRODUCTS = ("Conv", "Gemm", "MatMul")
# what lies between convolutions, so that values stay in int8
BETWEEN = ("Add", "Relu", "GlobalAveragePool", "ReduceMean", "MaxPool")
GIVE_FLOAT = ("Gemm", "MatMul")  # logits, which may be of thousands of tokens, among others
RECURRENT = ("LSTM", "GRU")
FIXED = ("embed.basis", "embed.filters")  # of models/embed.py: products that compute a spectrum
FEWEST_SUMMED = 32  # input channels x kernel height x kernel width


def quantize_graph(
    graph: onnx.ModelProto, histograms: Mapping[str, Histogram], calibration: str, path: Path
) -> int:
    """Write the int8 form of a float32 graph; gives the number of quantized products.

    Args:
        histograms: of the values that `rounded_values` names, at least.
    Raises: Unsupported for recurrent graphs; NothingChanged if no product could be quantized.
    """
    operators, kept = _what_is_rounded(graph)
    rule = CALIBRATIONS[calibration]
    ranges = {}
    for name, histogram in histograms.items():
        low, high = rule(histogram)
        # zero must have an exact code: padding and ReLU produce it everywhere
        ends = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
        ranges[name] = TensorData(lowest=np.array(ends[0]), highest=np.array(ends[1]))
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the library logs on the root logger
    try:
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: two products always fit into 16 (decision 0019)
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=kept,
            op_types_to_quantize=operators,
            extra_options={
                "ForceQuantizeNoInputCheck": True,
                # logits and what goes into norms stay float32: finer, and no conversion back
                "OpTypesToExcludeOutputQuantization": list(GIVE_FLOAT),
            },
        )
        quantizer.quantize_model()
        result: onnx.ModelProto = quantizer.model.model
    finally:
        logging.root.setLevel(before)
    dequantized = {
        name
        for node in result.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    products = [node for node in result.graph.node if node.op_type in PRODUCTS]
    changed = sum(all(name in dequantized for name in node.input[:2]) for node in products)
    if not changed:
        raise NothingChanged(
            f"quantize: 0 of {len(products)} products became int8",
            expected="at least one Conv, Gemm or MatMul with constant weights",
            repair="leave the quantize step out",
        )
    result.doc_string = ""
    for node in result.graph.node:
        node.doc_string = ""
    write_bytes(path, result.SerializeToString(deterministic=True))
    return changed


def rounded_values(graph: onnx.ModelProto) -> set[str]:
    """Values whose ranges `quantize_graph` reads: what its operators take and, but for those that
    give float32, what they give.

    Raises: Unsupported for recurrent graphs.
    """
    operators, kept = _what_is_rounded(graph)
    return {
        name
        for node in graph.graph.node
        if node.op_type in operators and node.name not in kept
        for name in (*node.input, *(node.output if node.op_type not in GIVE_FLOAT else ()))
    }


def _what_is_rounded(graph: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Operators that become int8, and names of those nodes of them that stay in float32."""
    if any(node.op_type in RECURRENT for node in graph.graph.node):
        raise Unsupported(
            "quantize: the runtime has no static int8 kernel for LSTM and GRU layers",
            expected="a model of the cnn or transformer family",
            repair="use compress: [quantize_weights], which computes in float32, or another family",
        )
    stays = any(node.op_type == "Conv" and _is_learned(node) for node in graph.graph.node)
    stays = stays and all(node.op_type != "LayerNormalization" for node in graph.graph.node)
    # matrices give float32, as norms want it: there anything else would leave int8 at once
    operators = [*PRODUCTS, *(BETWEEN if stays else ())]
    shapes = {one.name: tuple(one.dims) for one in graph.graph.initializer}
    kept = [node.name for node in graph.graph.node if _better_in_float(node, shapes)]
    return operators, kept + _outside(graph.graph) + _on_few_numbers(graph.graph, shapes)


def _outside(graph: onnx.GraphProto) -> list[str]:
    """Nodes before the first learned product and behind the last: scaling there stays exact."""
    before: set[str] = set()  # values that some product is behind
    for node in reversed(graph.node):
        if _is_learned(node) or before & set(node.output):
            before |= set(node.input)
    behind: set[str] = set()  # values that some product is before
    for node in graph.node:
        if _is_learned(node) or behind & set(node.input):
            behind |= set(node.output)
    return [
        node.name
        for node in graph.node
        if not _is_learned(node) and not (before & set(node.output) and behind & set(node.input))
    ]


def _on_few_numbers(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """First products that sum few numbers as they come in.

    Angles and speeds side by side need more than the 256 steps of the widest of them, and little
    is computed there (docs/experiments.md).
    """
    kept: list[str] = []
    behind: set[str] = set()  # values that some product is before
    for node in graph.node:
        first = _is_learned(node) and not behind & set(node.input)
        if first and node.op_type == "MatMul":
            weight = next((shapes[name] for name in node.input if name in shapes), ())
            kept += [node.name] if weight and weight[0] < FEWEST_SUMMED else []
        if _is_learned(node) or behind & set(node.input):
            behind |= set(node.output)
    return kept


def _is_learned(node: onnx.NodeProto) -> bool:
    """Whether a node is a product that is not part of a fixed transform, such as a spectrum."""
    return node.op_type in PRODUCTS and not any(name.endswith(FIXED) for name in node.input)


def _better_in_float(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether conversion costs a product more than int8 gains.

    That is so for products of two activations (attention), and for convolutions that sum few
    values: the first one, on raw pixels, took four times as long in int8 as in float32.
    """
    if node.op_type == "MatMul":
        return not any(name in shapes for name in node.input)
    weight = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
    return bool(weight) and math.prod(weight[1:]) < FEWEST_SUMMED
