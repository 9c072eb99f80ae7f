"""A trained model as an artifact folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from modelwright.core.artifact import Artifact, kept, write
from modelwright.core.files import write_bytes
from modelwright.models.catalog import ModelSpec, count_params


def write_trained(
    folder: Path,
    model: nn.Module,
    spec: ModelSpec,
    manifest: Mapping[str, Any],
    extras: Mapping[str, bytes],
) -> Artifact:
    """Write model.safetensors and its manifest.

    Args:
        extras: what travels with the model, such as a tokenizer, by name.
        manifest: where task, labels, preprocess, target and decode are taken from; its digest, if
            it has one, becomes the parent.
    """
    # the ladder's arguments too: what a size stands for may change with the product
    described = spec.to_json() | {"args": spec.arguments}
    model_entry = {**described, "num_params": count_params(model)}
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    return write(
        folder,
        "trained",
        model_file="model.safetensors",
        fill=lambda partial: write_bytes(
            partial / "model.safetensors", safetensors.torch.save(tensors)
        ),
        extras=extras,
        signature=spec.signature,
        parent=manifest.get("digest"),
        measured={},
        **{**kept(manifest), "model": model_entry},
    )
