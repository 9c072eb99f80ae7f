"""Trained artifacts in PyTorch on the CPU: safetensors into a freshly built model."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from modelwright.core.artifact import Artifact
from modelwright.core.errors import IntegrityError
from modelwright.core.signature import TensorSpec
from modelwright.models.catalog import Carrying, Model, ModelSpec, WithAnswers, build
from modelwright.runtime.decode import Writes


class TorchSession(Writes):
    """One model, in evaluation mode, float32."""

    def __init__(self, model: torch.nn.Module, spec: ModelSpec, threads: int) -> None:
        self.signature = spec.signature
        self._model = WithAnswers(model, spec.outputs).eval()
        self._outputs = spec.outputs
        self._threads = threads
        self._device = next(model.parameters()).device  # of a model in training, a GPU maybe

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _threads(self._threads), torch.inference_mode():
            outputs = self._model(*self._tensors(batch, self.signature.inputs))
            names = (one.name for one in self.signature.outputs)
            return {
                name: value.float().cpu().numpy()
                for name, value in zip(names, outputs, strict=True)
            }

    @functools.cached_property
    def _carrying(self) -> Carrying:
        model = self._model.model
        assert isinstance(model, Model)
        return Carrying(model, self._outputs, self.signature).eval()

    def encode(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The memory of all inputs but the last."""
        with _threads(self._threads), torch.inference_mode():
            found = self._carrying.encode(*self._tensors(batch, self.signature.inputs[:-1]))
            return {
                one.name: value.to("cpu", getattr(torch, one.dtype)).numpy()
                for one, value in zip(self.signature.memory, found, strict=True)
            }

    def step(
        self, ids: np.ndarray, carried: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits of each place of the last input, and the new past, from memory and past."""
        memory, past = (
            self._tensors(carried, part) for part in (self.signature.memory, self.signature.state)
        )
        with _threads(self._threads), torch.inference_mode():
            outputs = self._carrying.written(torch.from_numpy(ids).to(self._device), memory, past)
        present = outputs[len(self.signature.outputs) :]
        return outputs[0].float().cpu().numpy(), {
            one.name: value.float().cpu().numpy()
            for one, value in zip(self.signature.state, present, strict=True)
        }

    def _tensors(
        self, arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]
    ) -> list[torch.Tensor]:
        whole = (np.ascontiguousarray(arrays[one.name]) for one in specs)
        return [torch.from_numpy(one).to(self._device) for one in whole]

    def close(self) -> None:
        del self._model
        self.__dict__.pop("_carrying", None)


def load_model(artifact: Artifact) -> Model:
    """The trained model of an artifact of kind "trained", in evaluation mode.

    Raises: IntegrityError if the weights do not fit the architecture that the manifest names, or
        it is one of another version's.
    """
    spec = ModelSpec.from_json(artifact.manifest["model"])
    try:
        model = build(spec)
        model.load_state_dict(load_file(artifact.file(artifact.manifest["model_file"])))
    except (RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise IntegrityError(
            f"{artifact.folder}: the weights do not fit {spec.name}: {error}",
            repair="open it with the version of Modelwright that made it, or train again",
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
