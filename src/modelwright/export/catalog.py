"""FORMATS: what a trained model can be handed over as. To add one: write a file, add a row."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from modelwright.core.artifact import Artifact, kept, write
from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.signature import Signature
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import ModelSpec

# artifact kind -> how to write the model's file; the file is named model.<kind>
FORMATS: dict[str, Callable[..., Signature]] = {
    "onnx": export_onnx,
}


def export(
    model: nn.Module,
    manifest: Mapping[str, Any],
    folder: Path,
    *,
    extras: Mapping[str, bytes],
    format: str = "onnx",
    **fields: Any,
) -> Artifact:
    """Write a trained model as an artifact of another format.

    Args:
        manifest: of the artifact that the model comes from; its digest becomes the parent, and
            what holds for any form of the model is taken over.
        extras: what travels with the model, of the same artifact.
        fields: manifest entries that are new or replace those, such as target, measured, or
            parent where the model is not the manifest's own.
    Raises: ConfigError for an unknown format; what the format's own function raises.
    """
    if format not in FORMATS:
        raise ConfigError(f"no format {format!r}", expected=did_you_mean(format, FORMATS))
    entries: dict[str, Any] = {
        **kept(manifest),
        "parent": manifest.get("digest"),
        "measured": {},
        **fields,
    }
    spec = ModelSpec.from_json(entries["model"])
    model_file = f"model.{format}"
    # The signature is known only once the file is written, and `write` wants it first: the
    # format's function writes beside the folder, and `fill` moves the file in.
    beside = folder.with_name(f".{folder.name}.{model_file}")

    def move_in(partial: Path) -> None:
        beside.replace(partial / model_file)

    try:
        signature = FORMATS[format](model, beside, spec)
        return write(
            folder,
            format,
            model_file=model_file,
            fill=move_in,
            signature=signature,
            extras=extras,
            **entries,
        )
    finally:
        beside.unlink(missing_ok=True)
