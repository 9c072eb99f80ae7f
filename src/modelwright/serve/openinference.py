"""The Open Inference Protocol, version 2, over REST: bytes to arrays and arrays to bytes.

Strict on purpose: what a signature does not say is refused, because a model that gets a wrong
shape or a clipped value answers with confidence. Knows nothing of sockets or routes.
Source: https://github.com/kserve/open-inference-protocol (inference_rest.md), and the binary
tensor extension of Triton (extension_binary_data.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from modelwright.core.signature import TARGET_TIME, Signature, TensorSpec
from modelwright.serve.limits import Limits, Refused

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip

EXTENSIONS = ["binary_tensor_data"]
JSON_LENGTH = "Inference-Header-Content-Length"

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
MOST_LISTS = 2**18  # of a tensor whose sizes a request may choose


@dataclass(frozen=True)
class InferRequest:
    """A request that fits the signature."""

    inputs: dict[str, np.ndarray]
    id: str | None
    outputs: tuple[tuple[str, bool], ...]  # name, and whether its data goes out as raw bytes


def metadata(name: str, version: str, signature: Signature) -> dict[str, Any]:
    """The body of GET /v2/models/{name}; a free size is -1."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "datatype": DATATYPES[spec.dtype],
                "shape": [-1 if isinstance(size, str) else size for size in spec.shape],
            }
            for spec in specs
        ]

    return {
        "name": name,
        "versions": [version],
        "platform": "onnxruntime_onnx",
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
    }


def answer_numbers(signature: Signature, inputs: Mapping[str, np.ndarray]) -> int:
    """How many numbers all outputs hold for these inputs."""
    free = {
        size: length
        for one in signature.inputs
        for size, length in zip(one.shape, inputs[one.name].shape, strict=True)
        if isinstance(size, str)
    }
    rows = len(next(iter(inputs.values())))
    places = {**free, TARGET_TIME: free.get(TARGET_TIME, 1) - 1}  # `sizes` counts the beginning
    return sum(math.prod(one.sizes(rows, places.get(one.follows, 0))) for one in signature.outputs)


def read(
    body: bytes, json_length: str | None, signature: Signature, limits: Limits,
    ids: Mapping[str, int],
) -> InferRequest:  # fmt: skip
    """The request in `body`.

    Args:
        json_length: the header of the binary extension; None for plain JSON, "0" for a body that
            is one row of the only input as raw bytes.
        ids: how many there are of those that an input holds, by its name.
    Raises: Refused 400, with words that a client can act on.
    """
    request = _read(body, json_length, signature, limits)
    for name, size in ids.items():  # a model has no vector for others, or answers with another's
        if not 0 <= request.inputs[name].min() <= request.inputs[name].max() < size:
            raise Refused(400, f"input {name!r}: ids are whole numbers from 0 to {size - 1}")
    return request


def _read(
    body: bytes, json_length: str | None, signature: Signature, limits: Limits
) -> InferRequest:
    if json_length is None:
        return _read_json(body, b"", signature, limits)
    if not json_length.isascii() or not json_length.isdigit() or len(json_length) > 15:
        raise Refused(400, f"{JSON_LENGTH} must be a whole number")
    length = int(json_length)
    if length > len(body):
        raise Refused(400, f"{JSON_LENGTH} is {length}, but the body has {len(body)} bytes")
    if length == 0:
        return _read_raw(body, signature)
    return _read_json(body[:length], body[length:], signature, limits)


def write(
    request: InferRequest, outputs: Mapping[str, np.ndarray], name: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """The response body and its headers.

    Raises: Refused 500 if the model gave a value that JSON cannot carry.
    """
    head: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    entries: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output, binary in request.outputs:
        array = np.ascontiguousarray(outputs[output])
        entry: dict[str, Any] = {
            "name": output,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary:
            content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(content)}
            raw.append(content)
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Refused(500, f"output {output!r} holds a value that is not a finite number")
            flat = array.reshape(-1)
            entry["data"] = flat.astype(np.float32) if flat.dtype == np.float16 else flat
        entries.append(entry)
    head["outputs"] = entries
    content = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return content, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(content))}
    return b"".join([content, *raw]), headers


def _read_json(body: bytes, raw: bytes, signature: Signature, limits: Limits) -> InferRequest:
    _check_brackets(body, signature, limits)
    try:
        head = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not valid JSON in UTF-8: {error.msg}") from None
    head = _object(head, "the body", {"id", "parameters", "inputs", "outputs"})
    name = head.get("id")
    if name is not None and not isinstance(name, str):
        raise Refused(400, "'id' must be a string")
    all_binary = _flag(_parameters(head, "the body"), "binary_data_output", False)
    inputs = _read_inputs(head.get("inputs"), raw, signature, limits)
    outputs = _read_outputs(head.get("outputs"), signature, all_binary)
    return InferRequest(inputs, name, outputs)


def _read_raw(body: bytes, signature: Signature) -> InferRequest:
    if len(signature.inputs) != 1:
        raise Refused(400, f"{JSON_LENGTH}: 0 needs a model with one input")
    (spec,) = signature.inputs
    if any(isinstance(size, str) for size in spec.shape[1:]):
        raise Refused(400, f"{JSON_LENGTH}: 0 needs an input of fixed size")
    shape = [1, *(int(size) for size in spec.shape[1:])]
    array = _from_bytes(memoryview(body), shape, spec)
    return InferRequest({spec.name: array}, None, tuple((s.name, True) for s in signature.outputs))


def _check_brackets(body: bytes, signature: Signature, limits: Limits) -> None:
    """Refuse depth bombs and floods of empty lists before they become objects.

    Brackets inside strings count too; they are few in an honest request. The parser has a limit
    of its own (1,024), and every list is checked against its shape afterwards.
    """
    brackets = body.translate(None, _NOT_BRACKETS)
    lists = 0
    for spec in signature.inputs:
        inner = spec.shape[1:-1]
        places = (
            min(_most_places(limits), MOST_LISTS)
            if any(isinstance(s, str) for s in inner)
            else limits.request_rows
        )
        lists += places * math.prod(s for s in inner if isinstance(s, int))
        lists += limits.request_rows * len(spec.shape)
    if len(brackets) > 2 * (1000 + lists * 2):
        raise Refused(400, "the body holds more lists than any request to this model needs")
    if len(brackets) > limits.json_depth:
        codes = np.frombuffer(brackets, dtype=np.uint8)
        opens = (codes == ord("[")) | (codes == ord("{"))
        if int(np.cumsum(np.where(opens, 1, -1)).max()) > limits.json_depth:
            raise Refused(400, f"the body is nested deeper than {limits.json_depth} levels")


def _read_inputs(
    entries: Any, raw: bytes, signature: Signature, limits: Limits
) -> dict[str, np.ndarray]:
    specs = {spec.name: spec for spec in signature.inputs}
    if not isinstance(entries, list) or not entries:
        raise Refused(400, "'inputs' must be a list with at least one tensor")
    if len(entries) > len(specs):
        raise Refused(400, f"{len(entries)} inputs, but the model has {len(specs)}")
    arrays: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}  # what each free size is in this request
    start = 0
    view = memoryview(raw)
    for entry in entries:
        entry = _object(entry, "an input", {"name", "shape", "datatype", "parameters", "data"})
        spec = _known(entry, specs, "input")
        if spec.name in arrays:
            raise Refused(400, f"input {spec.name!r} is given twice")
        if entry.get("datatype") != DATATYPES[spec.dtype]:
            raise Refused(400, f"input {spec.name!r}: datatype must be {DATATYPES[spec.dtype]!r}")
        shape = _shape(entry.get("shape"), spec, sizes)
        if spec is signature.inputs[0] and shape and shape[0] > limits.request_rows:
            raise Refused(400, f"{shape[0]} rows; one request may bring {limits.request_rows}")
        _check_places(shape, spec, limits)
        size = _parameters(entry, f"input {spec.name!r}").get("binary_data_size")
        if size is None:
            arrays[spec.name] = _from_json(entry.get("data"), shape, spec)
            continue
        if "data" in entry:
            raise Refused(400, f"input {spec.name!r} has both 'data' and 'binary_data_size'")
        if type(size) is not int or not 0 <= size <= len(raw) - start:
            raise Refused(400, f"input {spec.name!r}: binary_data_size does not fit the body")
        arrays[spec.name] = _from_bytes(view[start : start + size], shape, spec)
        start += size
    if missing := [name for name in specs if name not in arrays]:
        raise Refused(400, f"input {missing[0]!r} is missing")
    if start != len(raw):
        raise Refused(400, f"{len(raw) - start} bytes after the last tensor")
    return arrays


def _read_outputs(
    entries: Any, signature: Signature, all_binary: bool
) -> tuple[tuple[str, bool], ...]:
    specs = {spec.name: spec for spec in signature.outputs}
    if entries is None or entries == []:
        return tuple((name, all_binary) for name in specs)
    if not isinstance(entries, list):
        raise Refused(400, "'outputs' must be a list")
    chosen: dict[str, bool] = {}
    for entry in entries:
        entry = _object(entry, "an output", {"name", "parameters"})
        spec = _known(entry, specs, "output")
        if spec.name in chosen:
            raise Refused(400, f"output {spec.name!r} is asked for twice")
        parameters = _parameters(entry, f"output {spec.name!r}")
        if "classification" in parameters:
            raise Refused(400, "the classification extension is not offered here")
        chosen[spec.name] = _flag(parameters, "binary_data", all_binary)
    return tuple(chosen.items())


def _object(value: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, f"{what} must be an object")
    if not value.keys() <= known:
        raise Refused(400, f"{what} has a key beside {', '.join(sorted(known))}")
    return value


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    """Parameters are the protocol's free place: unknown ones are accepted, odd ones are not."""
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict) or not all(
        isinstance(value, str | bool | int | float) for value in parameters.values()
    ):
        raise Refused(400, f"'parameters' of {what} must map names to strings, numbers or booleans")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"parameter {name!r} must be true or false")
    return value


def _known(entry: dict[str, Any], specs: dict[str, TensorSpec], what: str) -> TensorSpec:
    name = entry.get("name")
    if not isinstance(name, str) or name not in specs:
        raise Refused(400, f"unknown {what}; the model has {', '.join(map(repr, specs))}")
    return specs[name]


def _shape(value: Any, spec: TensorSpec, sizes: dict[str, int]) -> list[int]:
    """The shape a client declared, when it is one that the signature allows."""
    if not isinstance(value, list) or not all(type(size) is int and size > 0 for size in value):
        raise Refused(400, f"input {spec.name!r}: shape must be a list of whole numbers above 0")
    wanted = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
    if len(value) != len(wanted) or any(
        want not in (-1, size) for want, size in zip(wanted, value, strict=True)
    ):
        raise Refused(400, f"input {spec.name!r}: shape must be {wanted} (-1 is any size)")
    sizes |= {
        free: size for free, size in zip(spec.shape, value, strict=True) if isinstance(free, str)
    }
    return value


def _check_places(shape: list[int], spec: TensorSpec, limits: Limits) -> None:
    """Refuse rows longer than the model is meant for, and more places than a full batch has.

    A model may take time by the square of a row's length, so the size of the body is no bound.
    """
    free = [
        size for size, own in zip(shape[1:], spec.shape[1:], strict=True) if isinstance(own, str)
    ]
    if free and max(free) > limits.free_size:
        raise Refused(400, f"input {spec.name!r}: a row may have {limits.free_size} places at most")
    if free and shape[0] * math.prod(free) > _most_places(limits):
        raise Refused(
            400, f"input {spec.name!r}: one request may bring {_most_places(limits)} places in all"
        )


def _most_places(limits: Limits) -> int:
    """Rows times free sizes that one request may bring: those of a full batch of longest rows."""
    return limits.batch_rows * limits.free_size


def _from_json(data: Any, shape: list[int], spec: TensorSpec) -> np.ndarray:
    """Flat or fully nested numbers as an array; no number is rounded, clipped or guessed."""
    where = f"input {spec.name!r}"
    if not isinstance(data, list):
        raise Refused(400, f"{where}: data must be a list")
    if len(shape) > 1 and data and isinstance(data[0], list):
        fits = len(data) == shape[0]
        for size in shape[1:]:  # one level down each turn
            fits = fits and set(map(type, data)) == {list} and set(map(len, data)) == {size}
            if not fits:
                raise Refused(400, f"{where}: nested data does not have shape {shape}")
            data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape):
        raise Refused(400, f"{where}: {len(data)} values for shape {shape}")
    dtype = np.dtype(spec.dtype)
    allowed: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}
    if not set(map(type, data)) <= allowed.get(dtype.kind, {int}):
        words = {"b": "true or false", "f": "numbers"}.get(dtype.kind, "whole numbers")
        raise Refused(400, f"{where}: data must be {words}")
    try:
        with np.errstate(over="ignore"):  # an infinity is refused below
            array = np.array(data, dtype=dtype)
    except (OverflowError, ValueError):
        raise Refused(400, f"{where}: a value is outside {DATATYPES[spec.dtype]}") from None
    return _finite(array, spec).reshape(shape)


def _from_bytes(data: memoryview, shape: list[int], spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise Refused(
            400, f"input {spec.name!r}: {len(data)} bytes; shape {shape} takes {expected}"
        )
    if dtype.kind == "b" and data and max(data) > 1:
        raise Refused(400, f"input {spec.name!r}: a BOOL byte must be 0 or 1")
    array = np.frombuffer(data, dtype=dtype).astype(spec.dtype)  # a copy: aligned, native order
    return _finite(array, spec).reshape(shape)


def _finite(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(400, f"input {spec.name!r}: every value must be a finite {spec.dtype}")
    return array
