"""A model's folder: files, their hashes, where it came from, what was measured. Never a pickle.

`write` fills a folder and closes it with manifest.json; `open_artifact` verifies every byte
before anything is used. Kinds: "trained" (safetensors), "onnx" (graph), "deploy" (graph that has
a certificate).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.core.errors import ConfigError, IntegrityError
from modelwright.core.files import (
    digest_json,
    json_bytes,
    new_folder,
    reading,
    sha256,
    write_bytes,
    write_json,
)
from modelwright.core.signature import Signature

FORMAT = "modelwright-artifact/1"
MANIFEST = "manifest.json"
# entries that hold for the same model in another form
KEPT = ("task", "labels", "preprocess", "model", "target", "decode")


@dataclass(frozen=True)
class Artifact:
    """A verified folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and through its hashes of every file."""
        return str(self.manifest["digest"])

    @property
    def signature(self) -> Signature:
        return Signature.from_json(self.manifest["signature"])

    @property
    def labels(self) -> list[str]:
        return list(self.manifest["labels"])

    def file(self, name: str) -> Path:
        """The path of one of the artifact's own files.

        Raises: IntegrityError for a name that the manifest does not list.
        """
        if name not in self.manifest["files"]:
            raise IntegrityError(f"{self.folder}: the manifest lists no file {name!r}")
        return self.folder / name

    @property
    def extras(self) -> dict[str, bytes]:
        """What travels with the model besides its weights, such as a tokenizer, by name."""
        names = self.manifest["preprocess"].get("files", [])
        return {name: self.file(name).read_bytes() for name in names}

    @property
    def model_bytes(self) -> int:
        """What the runtime has to load, in bytes."""
        return int(self.manifest["files"][self.manifest["model_file"]]["bytes"])


def kept(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a manifest's entries that the same model in another form takes over."""
    return {name: manifest[name] for name in KEPT if name in manifest}


def write(
    folder: Path,
    kind: str,
    *,
    model_file: str,
    fill: Callable[[Path], None],
    signature: Signature,
    extras: Mapping[str, bytes],
    **fields: Any,
) -> Artifact:
    """Make an artifact folder, whole or not at all.

    Args:
        fill: writes the files into the folder it is given.
        extras: files that travel with the model, named in the manifest's preprocess entry.
        fields: more manifest entries: task, labels, model, preprocess, parent, measured.
    """
    with new_folder(folder) as partial:
        fill(partial)
        for name, content in extras.items():
            write_bytes(partial / name, content)
        files = {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(partial.iterdir())
        }
        manifest = {
            "format": FORMAT,
            "kind": kind,
            "model_file": model_file,
            "signature": signature.to_json(),
            **fields,
            "files": files,
        }
        manifest["digest"] = digest_json(manifest)
        write_json(partial / MANIFEST, manifest)
    return Artifact(folder, manifest)


def open_artifact(folder: Path, *, kinds: tuple[str, ...] = ()) -> Artifact:
    """Read a folder's manifest and verify every file against it.

    Raises: ConfigError if it is no artifact or not one of `kinds`; IntegrityError if any byte
        differs from what was written, naming the file.
    """
    path = folder / MANIFEST
    with reading(path):
        content = path.read_bytes() if path.is_file() else None
    if content is None:
        raise ConfigError(
            f"{folder} is not a model folder: it has no {MANIFEST}",
            expected="a folder written by train, compress, export or run, such as runs/…/deploy",
        )
    try:
        manifest = json.loads(content)
        sound = _is_sound(manifest, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise IntegrityError(
            f"{path} is not the manifest that was written",
            expected="the digest inside it to match its content",
            repair="take the folder again from the run that made it",
        )
    if manifest["format"] != FORMAT:
        raise ConfigError(
            f"{path}: format {manifest['format']!r}", expected=f"{FORMAT!r}",
            repair="open it with the version of modelwright that wrote it",
        )  # fmt: skip
    for name, entry in manifest["files"].items():
        _verify(folder, name, entry)
    if kinds and manifest["kind"] not in kinds:
        raise ConfigError(
            f"{folder} holds a {manifest['kind']!r} model",
            expected=" or ".join(repr(kind) for kind in kinds),
        )
    return Artifact(folder, manifest)


def _is_sound(manifest: dict[str, Any], content: bytes) -> bool:
    """Whether a manifest is byte for byte what `write` left, and has what every manifest has."""
    own = {name: value for name, value in manifest.items() if name != "digest"}
    if digest_json(own) != manifest["digest"] or content != json_bytes(manifest):
        return False
    if manifest["format"] != FORMAT:
        return True
    Signature.from_json(manifest["signature"])
    entries = [(entry["sha256"], entry["bytes"]) for entry in manifest["files"].values()]
    return (
        all(isinstance(digest, str) and isinstance(size, int) for digest, size in entries)
        and manifest["model_file"] in manifest["files"]
        and isinstance(manifest["kind"], str)
    )


def _verify(folder: Path, name: str, entry: dict[str, Any]) -> None:
    file = folder / name
    if Path(name).name != name or file.is_symlink():
        raise IntegrityError(f"{folder}: {name!r} points outside the folder")
    with reading(file):
        if not file.is_file():
            raise IntegrityError(f"{file} is missing", repair="take the folder again from its run")
        same = file.stat().st_size == entry["bytes"] and sha256(file) == entry["sha256"]
    if not same:
        raise IntegrityError(
            f"{file} is not the file that was written: its SHA-256 differs",
            expected=f"{entry['sha256'][:16]}… ({entry['bytes']} bytes)",
            repair="take the folder again from the run that made it",
        )
