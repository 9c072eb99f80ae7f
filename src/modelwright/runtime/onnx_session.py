"""ONNX graphs in ONNX Runtime on the CPU."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from modelwright.core.artifact import Artifact
from modelwright.core.errors import IntegrityError
from modelwright.core.signature import Signature

onnxruntime.disable_telemetry_events()


class OnnxSession:
    """One graph, loaded."""

    def __init__(self, graph: Path, signature: Signature, threads: int) -> None:
        self.signature = signature
        self._session = inference_session(graph, threads)
        self._outputs = [spec.name for spec in signature.outputs]

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(batch)), strict=True))

    def close(self) -> None:
        del self._session


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
