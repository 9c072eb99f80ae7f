"""A PyTorch model to one ONNX file, and what such a file must be before anyone uses it.

Reads a model and its spec; writes a graph with the inputs and outputs of the spec's signature,
free in the batch size, and in time where rows differ in length. The graph's values keep the names
of the torch.export program's nodes, by which export/parity.py finds the first one that differs.
"""

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from modelwright.core.errors import ModelwrightError, ParityError, Unsupported
from modelwright.core.files import write_bytes
from modelwright.core.signature import Signature, TensorSpec
from modelwright.models.catalog import Carrying, ModelSpec, WithAnswers, examples
from modelwright.runtime.onnx_session import inference_session, run

OPSET = 20  # the newest whose operators the quantizer knows: from 23 on, attention is one node
MAX_BYTES = 2**31 - 1  # of one protobuf message; larger graphs need a second file
# At least 2, or the exporter takes the size for a constant; odd, so that no fold can halve it.
EXAMPLE_BATCH = 3
EXAMPLE_LENGTH = 24
EXAMPLE_PAST = 5
COUNTED = re.compile(r"val_\d+")  # what the exporter calls values of its own


def export_onnx(model: nn.Module, path: Path, spec: ModelSpec) -> Signature:
    """Write the model as an ONNX graph and check that it runs.

    Batch norms are folded into the convolutions before them. The same weights give the same
    bytes. The model given is left as it is: mode, device, memory format, random state.

    Raises: Unsupported if PyTorch cannot export an operation, or the graph is too large for one
        file; ParityError if the file is not what `check_graph` asks for.
    """
    graph = traced(model, spec).model_proto
    strip(graph)
    renumber(graph)
    _name_sizes(graph, spec)
    content = graph.SerializeToString(deterministic=True) if graph.ByteSize() <= MAX_BYTES else b""
    if not content:
        raise Unsupported(
            f"export: the graph takes {graph.ByteSize() / 1e9:.2f} GB",
            expected="at most 2.14 GB, which is what one ONNX file holds",
            repair="choose a smaller model with model.size",
        )
    write_bytes(path, content)
    return check_graph(path, spec)


def traced(model: nn.Module, spec: ModelSpec) -> torch.onnx.ONNXProgram:
    """A copy of the model, in evaluation mode on the CPU, as ONNX and as torch.export program.

    Raises: Unsupported if PyTorch cannot export an operation.
    """
    from modelwright.export import recurrence  # onnxscript is slow to import

    twin = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    signature = spec.signature
    given = (*signature.inputs, *signature.state)
    free = {size: torch.export.Dim(size) for one in given for size in one.shape
            if isinstance(size, str)}  # fmt: skip
    shapes = tuple(
        {dim: free[size] for dim, size in enumerate(one.shape) if isinstance(size, str)}
        for one in given
    )
    state = [torch.zeros(one.sizes(EXAMPLE_BATCH, 0, EXAMPLE_PAST)) for one in signature.state]
    wrapped = WithAnswers(twin, spec.outputs)
    if state:
        wrapped = Carrying(twin, spec.outputs, signature)
    length = max(EXAMPLE_LENGTH, spec.inputs.get("length", 0))
    try:
        with _silence(), _uncached(), torch.random.fork_rng(devices=[]):
            program = torch.onnx.export(
                wrapped.eval(),
                (*examples(spec, EXAMPLE_BATCH, length).values(), *state),
                dynamo=True,
                opset_version=OPSET,
                input_names=[one.name for one in given],
                output_names=outputs_of(signature),
                dynamic_shapes=(shapes,),
                custom_translation_table={
                    torch.ops.modelwright.recur.default: recurrence.recurrent_node,
                    torch.ops.modelwright.carry_on.default: recurrence.carrying_node,
                },
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise Unsupported(
            f"export: PyTorch {torch.__version__} cannot export {type(model).__name__} to ONNX: "
            f"{str(cause).strip().splitlines()[0]}",
            expected="operations that have an ONNX form, free in the batch size",
            repair="choose another model.family, or rewrite the operation in plain tensor ones",
        ) from error
    assert program is not None  # None belongs to the older exporter alone
    return program


def outputs_of(signature: Signature) -> list[str]:
    """The names of all that a graph gives, in its order."""
    memory = [one.name for one in signature.memory]
    return [*(one.name for one in signature.outputs), *signature.present, *memory]


def strip(graph: onnx.ModelProto) -> None:
    """Drop what no runtime reads: stack traces, source paths, names of modules, inferred shapes.

    They are most of a small graph's bytes, they tell strangers where it was made, and stale
    inferred shapes make ONNX Runtime's dynamic quantizer fail.
    """
    graph.doc_string = ""
    del graph.metadata_props[:]
    for function in graph.functions:
        _strip_nodes(function)
    _strip_graph(graph.graph)


def renumber(graph: onnx.ModelProto) -> None:
    """Count the exporter's own values ("val_7") from 0 in order, and name nodes by their output.

    Its counter depends on what the process exported before; names from the torch.export program
    do not and stay. Only outermost values are renamed: those that subgraphs use keep their names.
    """
    inner = {
        name
        for node in graph.graph.node
        for attribute in node.attribute
        for below in (attribute.g, *attribute.graphs)
        for part in below.node
        for name in (*part.input, *part.output)
    }
    names: dict[str, str] = {}

    def name_of(old: str) -> str:
        if COUNTED.fullmatch(old) and old not in inner:
            return names.setdefault(old, f"val_{len(names)}")
        return old

    for node in graph.graph.node:
        node.input[:] = [name_of(name) for name in node.input]
        node.output[:] = [name_of(name) for name in node.output]
        node.name = f"{node.op_type}_{next(filter(None, node.output), '')}"
    for tensor in graph.graph.initializer:
        tensor.name = name_of(tensor.name)


def _name_sizes(graph: onnx.ModelProto, spec: ModelSpec) -> None:
    """Free sizes of the answers as the signature spells them; `check_graph` sees if they are so."""
    for value, wanted in zip(graph.graph.output, spec.signature.outputs, strict=False):
        for size, name in zip(value.type.tensor_type.shape.dim, wanted.shape, strict=False):
            if size.dim_param and isinstance(name, str):
                size.dim_param = name


def check_graph(path: Path, spec: ModelSpec) -> Signature:
    """What goes in and out of a graph, once it has run with one row and with three.

    Raises: ParityError if names, types or sizes are not the artifact's, a free size is fixed,
        or the graph does not run.
    """
    expected = spec.signature
    graph = onnx.load(path, load_external_data=False)
    if any(tensor.data_location for tensor in graph.graph.initializer):
        raise ParityError(f"{path.name} keeps weights in a second file", expected="one file")
    found = _signature(graph.graph, expected)
    if found != expected:
        raise ParityError(
            f"{path.name} takes and gives {_words(found)}",
            expected=_words(expected),
            repair="the batch size must stay free: no whole-batch constants in the model",
        )
    try:
        session = inference_session(path, 1)
        length = spec.inputs.get("length", 1)
        other = length + EXAMPLE_LENGTH
        if other > (spec.most_places or other):
            other = length // 2
        for batch, time in ((1, length), (EXAMPLE_BATCH, other)):
            made = examples(spec, batch, time if spec.has_time else None)
            inputs = {name: value.numpy() for name, value in made.items()}
            names = [one.name for one in expected.outputs]
            for one, value in zip(
                expected.outputs, run(session, inputs, names).values(), strict=True
            ):
                shape = one.sizes(batch, time)
                if value.shape != shape:
                    raise ParityError(
                        f"{path.name}: {one.name} has the shape {value.shape} for {batch} rows",
                        expected=str(shape),
                    )
    except ModelwrightError:
        raise
    except Exception as error:  # the runtime's own errors share no base class
        raise ParityError(
            f"{path.name} does not run: {error}", expected="answers for any number of rows"
        ) from error
    return expected


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    _strip_nodes(graph)


def _strip_nodes(graph: Any) -> None:
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for inner in attribute.graphs:
                _strip_graph(inner)


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
        specs.append(TensorSpec(value.name, str(dtype), shape))
    return tuple(specs)


def _signature(graph: Any, expected: Signature) -> Signature:
    """What a graph takes and gives. What it leaves to the next call has sizes that only grow, so
    names count there."""
    given, made = _specs(graph.input), _specs(graph.output)
    inputs, outputs = len(expected.inputs), len(expected.outputs)
    present = [one.name for one in made[outputs : len(made) - len(expected.memory)]]
    if present != list(expected.present):
        made = (*made, TensorSpec(f"present: {present}", "", ()))
    return Signature(given[:inputs], made[:outputs], made[outputs + len(present) :], given[inputs:])


def _words(signature: Signature) -> str:
    def side(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)

    given, made = signature.inputs + signature.state, signature.outputs + signature.memory
    return f"{side(given)} → {side(made)}"


def _uncached() -> AbstractContextManager[None]:
    """To find what it knows of an operation over free sizes takes PyTorch longer than to work it
    out again: a tiny transformer that carries a state was exported in 10.7 s instead of 12.6."""
    import torch._dynamo.config as dynamo  # slow to import

    return dynamo.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-any-return]


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter reports skipped optional libraries and deprecations; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
