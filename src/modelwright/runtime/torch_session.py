"""Trained artifacts in PyTorch on the CPU: safetensors into a freshly built model."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from modelwright.core.artifact import Artifact
from modelwright.core.errors import IntegrityError
from modelwright.models.catalog import Model, ModelSpec, WithAnswers, build


class TorchSession:
    """One model, in evaluation mode, float32."""

    def __init__(self, model: torch.nn.Module, spec: ModelSpec, threads: int) -> None:
        self.signature = spec.signature
        self._model = WithAnswers(model, spec.outputs).eval()
        self._threads = threads

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = [np.ascontiguousarray(batch[one.name]) for one in self.signature.inputs]
        with _threads(self._threads), torch.inference_mode():
            outputs = self._model(*map(torch.from_numpy, arrays))
            names = (one.name for one in self.signature.outputs)
            return {name: value.float().numpy() for name, value in zip(names, outputs, strict=True)}

    def close(self) -> None:
        del self._model


def load_model(artifact: Artifact) -> Model:
    """The trained model of an artifact of kind "trained", in evaluation mode.

    Raises: IntegrityError if the weights do not fit the architecture that the manifest names.
    """
    spec = ModelSpec.from_json(artifact.manifest["model"])
    model = build(spec)
    try:
        model.load_state_dict(load_file(artifact.file(artifact.manifest["model_file"])))
    except (RuntimeError, SafetensorError) as error:
        raise IntegrityError(
            f"{artifact.folder}: the weights do not fit {spec.name}: {error}"
        ) from error
    return model.eval()


def open_session(artifact: Artifact, threads: int) -> TorchSession:
    """A trained artifact's model that answers with `threads` threads."""
    spec = ModelSpec.from_json(artifact.manifest["model"])
    return TorchSession(load_model(artifact), spec, threads)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """PyTorch keeps its thread count per process; sums depend on it, so it is given back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
