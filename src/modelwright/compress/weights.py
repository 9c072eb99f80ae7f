"""Weights alone in int8: a quarter of the bytes, computed in float32, so for every layer.

Each weight is kept as int8 with a scale for each channel. The graph turns them into float32 by a
cast and a product, which ONNX Runtime does once, when it loads the graph: the file is small, and an
answer takes as long as before. DequantizeLinear would say the same, but is left to every call
(docs/explanation/int8-and-calibration.md has both times).
Source: Jacob et al. 2017, arXiv:1712.05877, section 2.1, with a zero point of 0.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelwright.compress.quantize import FIXED
from modelwright.core.errors import NothingChanged
from modelwright.core.files import write_bytes

FEWEST = 1024  # numbers of a weight: below, scales and nodes take what rounding gives
LARGEST = 127
# operators that read weights, and those that bring a weight's parts into their order
READERS = ("MatMul", "Gemm", "Conv", "LSTM", "GRU", "Gather", "Split", "Slice", "Transpose")
BIASES = (("LSTM", 3), ("GRU", 3))  # two rows, whose sizes nothing shares


def quantize_weights(graph: onnx.ModelProto, path: Path) -> int:
    """Write a graph with its float32 weights in int8; gives the number of weights.

    What is int8 already stays as it is, and so do weights of fewer than FEWEST numbers and those of
    fixed transforms.

    Raises: NothingChanged if no weight is large enough.
    """
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    inner = result.graph
    made, rounded = [], list(_weights(inner))
    for tensor, axis in rounded:
        values = numpy_helper.to_array(tensor)
        whole, scales = _round(values, axis)
        name = tensor.name
        inner.initializer.extend([
            numpy_helper.from_array(whole, f"{name}_int8"),
            numpy_helper.from_array(scales, f"{name}_scale"),
        ])  # fmt: skip
        inner.initializer.remove(tensor)
        made += [
            helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], f"Cast_{name}",
                             to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name], f"Mul_{name}"),
        ]  # fmt: skip
    if not made:
        raise NothingChanged(
            f"quantize_weights: no weight has {FEWEST:,} numbers in float32",
            expected="at least one",
            repair="leave the step out: there is nothing to save",
        )
    nodes = list(inner.node)
    del inner.node[:]
    inner.node.extend(made + nodes)
    write_bytes(path, result.SerializeToString(deterministic=True))
    return len(rounded)


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, int]]:
    """Weights to be rounded, each with the axis of its channels, that have a scale of their own."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))
    for tensor in list(graph.initializer):
        large = len(tensor.dims) > 1 and math.prod(tensor.dims) >= FEWEST
        if tensor.data_type != TensorProto.FLOAT or not large or tensor.name.endswith(FIXED):
            continue
        own = readers.get(tensor.name, [])
        if own and all(
            node.op_type in READERS and (node.op_type, place) not in BIASES for node, place in own
        ):
            yield tensor, _axis(own[0][0], len(tensor.dims))


def _axis(reader: onnx.NodeProto, dims: int) -> int:
    """Of the outputs: products have them last, unless turned, recurrences behind the directions,
    all others, tables among them, first."""
    turned = any(one.name == "transB" and one.i for one in reader.attribute)
    if reader.op_type in ("MatMul", "Gemm") and not turned:
        return dims - 1
    return 1 if reader.op_type in ("LSTM", "GRU") else 0


def _round(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and the scales that bring them back, (1, …, channels, …, 1).

    >>> whole, scales = _round(np.array([[0.5, -1.0], [0.0, 0.0]], np.float32), 0)
    >>> whole.tolist(), (127 * scales).round(3).tolist()
    ([[64, -127], [0, 0]], [[1.0], [127.0]])
    """
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales
