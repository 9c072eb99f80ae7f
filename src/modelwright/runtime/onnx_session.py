"""ONNX graphs in ONNX Runtime on the CPU."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime

from modelwright.core.artifact import Artifact
from modelwright.core.errors import IntegrityError
from modelwright.core.signature import Signature, TensorSpec
from modelwright.models.carried import fresh
from modelwright.runtime.decode import Writes

onnxruntime.disable_telemetry_events()


class OnnxSession(Writes):
    """One graph, loaded."""

    def __init__(self, graph: Path, signature: Signature, threads: int) -> None:
        self.signature = signature
        self._graph, self._threads = graph, threads
        self._session = inference_session(graph, threads)
        self._outputs = [spec.name for spec in signature.outputs]

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run(self._session, batch, self._outputs)

    def encode(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The memory of all inputs but the last."""
        return run(self._parts[0], batch, [one.name for one in self.signature.memory])

    def step(
        self, ids: np.ndarray, carried: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits of each place of the last input, and the new past, from memory and past."""
        given = {**self._shapes(carried), self.signature.inputs[-1].name: ids, **carried}
        logits, *present = self._parts[1].run([self._outputs[0], *self.signature.present], given)
        names = [one.name for one in self.signature.state]
        return logits, dict(zip(names, present, strict=True))

    def _shapes(self, carried: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Nothing in the shape of the inputs that the memory came from."""
        free = {
            size: length
            for one in self.signature.memory
            for size, length in zip(one.shape, carried[one.name].shape, strict=True)
        }
        return {
            one.name: np.zeros([int(free.get(size, size)) for size in one.shape], one.dtype)
            for one in self.signature.inputs[:-1]
        }

    def prepare(self) -> None:
        assert self._parts

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        """What makes the memory and what goes on from it, cut out of the one graph."""
        signature = self.signature
        if not signature.memory:
            return None, self._session
        memory = [one.name for one in signature.memory]
        inputs, state = ([one.name for one in part] for part in (signature.inputs, signature.state))
        whole = onnx.utils.Extractor(onnx.load(self._graph))
        halves = (  # both with every input: a graph reads sizes off any of them
            whole.extract_model([*inputs, *state], memory),
            whole.extract_model([*inputs, *state, *memory], [self._outputs[0], *signature.present]),
        )
        encoder, decoder = (
            inference_session(half.SerializeToString(), self._threads) for half in halves
        )
        return encoder, decoder

    def close(self) -> None:
        del self._session
        self.__dict__.pop("_parts", None)


def run(
    session: onnxruntime.InferenceSession, batch: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Those outputs of a graph for a batch, from a fresh state where it has one."""
    rows = len(next(iter(batch.values())))
    state = [
        TensorSpec(one.name, "float32", ("batch", *one.shape[1:]))
        for one in session.get_inputs()
        if one.name.startswith("past.") and one.name not in batch
    ]
    found = session.run(list(outputs), {**batch, **fresh(state, rows)})
    return dict(zip(outputs, found, strict=True))


def inference_session(graph: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime with `threads` compute threads and nothing spinning between calls.

    Raises: IntegrityError if the runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors share no base class
        raise IntegrityError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}",
            expected="a graph that it supports",
        ) from error


def open_session(artifact: Artifact, threads: int) -> OnnxSession:
    """An exported or deployed artifact's graph, loaded with `threads` compute threads."""
    return OnnxSession(artifact.file(artifact.manifest["model_file"]), artifact.signature, threads)
