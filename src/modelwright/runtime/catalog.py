"""RUNTIMES: what can run an artifact. To add one: write a file, add a row."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from modelwright.core.artifact import Artifact
from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.signature import Signature
from modelwright.runtime import onnx_session, torch_session
from modelwright.runtime.decode import Steps

Arrays = Mapping[str, np.ndarray]


class Session(Protocol):
    """A loaded model: named arrays in, named arrays out; the same for every runtime."""

    signature: Signature

    def __call__(self, batch: Arrays) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


class WritingSession(Session, Steps, Protocol):
    """A session of this product's runtimes; what it adds is for models that write."""

    decode: Mapping[str, Any]

    def prepare(self) -> None: ...

    def write(self, batch: Arrays, **how: Any) -> list[np.ndarray]: ...


# artifact kind -> how to open it with that many threads
RUNTIMES: dict[str, Callable[[Artifact, int], WritingSession]] = {
    "trained": torch_session.open_session,
    "onnx": onnx_session.open_session,
    "deploy": onnx_session.open_session,
}


def open_session(artifact: Artifact, *, threads: int = 1) -> WritingSession:
    """Load a verified artifact into the runtime that serves its kind; it writes as shipped."""
    if artifact.kind not in RUNTIMES:
        raise ConfigError(
            f"{artifact.folder}: nothing here runs a {artifact.kind!r} model",
            expected=did_you_mean(artifact.kind, RUNTIMES),
        )
    session = RUNTIMES[artifact.kind](artifact, threads)
    if "decode" in artifact.manifest:
        session.decode = artifact.manifest["decode"]
    return session
