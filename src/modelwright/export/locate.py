"""Which node of a graph is the first to give other values than the model it came from.

Reads a graph file and its reference, a PyTorch model or another graph; gives a function of a few
rows that names the node. export/parity.py calls it when a hop has failed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from modelwright.core.errors import IntegrityError
from modelwright.export.onnx import outputs_of, renumber, strip, traced
from modelwright.models import carried
from modelwright.models.catalog import ModelSpec
from modelwright.runtime.onnx_session import run

LINED_UP_SHARE = 0.5  # of a graph's values, from which names count as lined up
MIN_SNR_DB = 10.0

Values = dict[str, np.ndarray]
Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Located:
    """The first differing value as "name (operator)", or None; and how it was searched."""

    node: str | None
    how: str


def against_model(
    model: nn.Module, graph: Path, spec: ModelSpec, *, tolerance: float = 1e-4
) -> Callable[[Inputs], Located]:
    """Compare a graph's values to those of the PyTorch model, in the graph's order.

    Values that keep the name of a torch.export node are compared to PyTorch. The others, which
    the exporter made, are compared to a fresh export of the same model if the graph has all its
    names. Where few names line up, the two graphs are compared node by node, if they have as
    many.

    Args:
        tolerance: largest error of a value relative to its own largest.
    """

    def locate(inputs: Inputs) -> Located:
        program = traced(model, spec)
        fresh = program.model_proto
        strip(fresh)
        renumber(fresh)
        proto = onnx.load(graph)
        found, remade = graph_values(proto, inputs), graph_values(fresh, inputs)
        assert program.exported_program is not None  # it is for programs traced just now
        state = carried.fresh(spec.signature.state, len(next(iter(inputs.values()))))
        wanted = program_values(
            program.exported_program, {**inputs, **state}, outputs_of(spec.signature)
        )
        nodes = list(_outputs(proto))
        if not remade.keys() <= found.keys():
            remade = {}  # the file's own names are counted otherwise, so they mean other values
        known = [name for name, _ in nodes if name in wanted or name in remade]
        if len(known) >= LINED_UP_SHARE * len(nodes):
            how = f"{len(known)} of {len(nodes)} values by name, against PyTorch"
            pairs = {name: (wanted.get(name), remade.get(name)) for name in known}
        else:
            fresh_nodes = list(_outputs(fresh))
            if len(fresh_nodes) != len(nodes):
                return Located(
                    None,
                    f"only {len(known)} of {len(nodes)} values have names that a fresh export "
                    f"of the model has, and that one has {len(fresh_nodes)} values",
                )
            how = f"{len(nodes)} values by place, against a fresh export of the model"
            again = graph_values(fresh, inputs)
            pairs = {
                name: (None, again[twin])
                for (name, _), (twin, _) in zip(nodes, fresh_nodes, strict=True)
            }
        for name, op_type in nodes:
            if name not in pairs:
                continue
            error = _error(found[name], *pairs[name])
            if error > tolerance:
                off = "of another shape" if error == np.inf else f"off by {error:.2g} of its scale"
                if not np.isfinite(found[name]).all():
                    off = "not finite"
                return Located(f"{name} ({op_type})", f"{how}; {off}")
        return Located(
            None,
            f"{how}: none differs while every value is kept, so the fault lies in the runtime's "
            "graph optimisation or outside the graph",
        )

    return locate


def against_graph(
    before: Path, after: Path, *, min_snr_db: float = MIN_SNR_DB
) -> Callable[[Inputs], Located]:
    """Compare the values that a quantized graph shares by name with the graph it was made from.

    An operator that the quantizer fused with the next one is named with that one's value.

    Args:
        min_snr_db: signal-to-noise ratio below which a value counts as different; int8 leaves
            20 to 40 dB where it works.
    """

    def locate(inputs: Inputs) -> Located:
        quantized = onnx.load(after)
        wanted = graph_values(onnx.load(before), inputs)
        found = _as_read(quantized, graph_values(quantized, inputs))
        shared = [
            (name, op_type)
            for name, op_type in _outputs(quantized)
            if name in wanted
            and np.issubdtype(wanted[name].dtype, np.floating)
            and wanted[name].shape == found[name].shape
        ]
        how = f"{len(shared)} values that both graphs share, in order"
        for name, op_type in shared:
            ratio = signal_to_noise_db(wanted[name], found[name])
            if not ratio >= min_snr_db:
                return Located(
                    f"{name} ({op_type})", f"{how}; {ratio:.1f} dB (at least {min_snr_db:g})"
                )
        return Located(None, f"{how}: none is below {min_snr_db:g} dB")

    return locate


def signal_to_noise_db(signal: np.ndarray, other: np.ndarray) -> float:
    """Power of the signal over power of the difference; -infinity if not finite.

    >>> round(signal_to_noise_db(np.array([1.0, -1.0]), np.array([1.1, -1.1])), 6)
    20.0
    """
    noise = float(np.square(signal.astype(np.float64) - other).sum())
    power = float(np.square(signal.astype(np.float64)).sum())
    if not np.isfinite(noise):
        return -np.inf
    if noise == 0:
        return np.inf
    return float(10 * np.log10(power / noise)) if power else -np.inf


def program_values(
    program: torch.export.ExportedProgram, inputs: Inputs, outputs: Sequence[str]
) -> Values:
    """Every tensor of a torch.export program by its node's name, run node by node.

    Its outputs also stand under the names given.
    """
    values: Values = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and n.op == "call_function":
                values[n.name] = result.numpy()
            return result

    state = {**program.state_dict, **program.constants}
    given = iter(inputs.values())
    arguments = [
        torch.from_numpy(np.ascontiguousarray(next(given)))
        if spec.kind is InputKind.USER_INPUT
        else state[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    with torch.inference_mode():
        Recorder(program.graph_module).run(*arguments)
    for name, node in zip(outputs, program.graph_signature.user_outputs, strict=True):
        values[name] = values[str(node)]
    return values


def graph_values(graph: onnx.ModelProto, inputs: Inputs) -> Values:
    """Every value of a graph by its name, run as written: all made outputs, nothing optimised."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    have = {value.name for value in exposed.graph.output}
    names = [name for name, _ in _outputs(graph)]
    exposed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in have
    )
    session = unoptimised(exposed.SerializeToString())
    return run(session, inputs, names)


def unoptimised(graph: bytes) -> onnxruntime.InferenceSession:
    """A graph run as it is written, operator by operator.

    Raises: IntegrityError if ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors share no base class
        raise IntegrityError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}",
            expected="a graph that it supports",
        ) from error


def _outputs(graph: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Name and operator of each value that a node gives, in the graph's order."""
    for node in graph.graph.node:
        for name in node.output:
            if name:
                yield name, node.op_type


def _as_read(graph: onnx.ModelProto, values: Values) -> Values:
    """The values as the next node reads them: after quantizing and dequantizing, if they are.

    The quantizer drops a ReLU whose clipping the quantization does, so a value between the two
    is not yet what its name says.
    """
    dequantized = {
        node.input[0]: node.output[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear"
    }
    read = dict(values)
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in dequantized:
            read[node.input[0]] = values[dequantized[node.output[0]]]
    return read


def _error(found: np.ndarray, wanted: np.ndarray | None, remade: np.ndarray | None) -> float:
    """Relative to the reference's largest value; PyTorch's where it has the same shape.

    The exporter may give a name to the same values in another layout; a fresh export then shows
    them as they should be.
    """
    reference = wanted if wanted is not None and wanted.shape == found.shape else remade
    if reference is None:
        return 0.0
    if reference.shape != found.shape:
        return np.inf
    if not reference.size:
        return 0.0
    wide = reference.astype(np.float64)
    error = np.abs(found.astype(np.float64) - wide).max() / max(np.abs(wide).max(), 1e-6)
    return float(error) if np.isfinite(error) else np.inf
