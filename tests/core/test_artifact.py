"""A model's folder: every byte is verified, and it is there whole or not at all."""

import errno
import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.core import artifact
from modelwright.core.artifact import open_artifact
from modelwright.core.errors import ConfigError, IntegrityError, StorageError
from modelwright.core.files import digest_json

from .conftest import SIGNATURE, make, names

FILES = ("manifest.json", "model.bin", "samples.json")
shared = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def folder(tmp_path):
    """A sound artifact."""
    return make(tmp_path / "model", labels=["a", "ä"], measured={"loss": 1.5e-07}).folder


def seal(folder, change):
    """Change the manifest and make its digest right again, as a forger would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    change(manifest)
    manifest["digest"] = digest_json(manifest)
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def test_what_was_written_is_what_is_opened(folder):
    """Kind, signature, labels, files and more fields come back as they were given."""
    made = open_artifact(folder, kinds=("toy", "other"))

    assert "toy" == made.kind
    assert SIGNATURE == made.signature
    assert ["a", "ä"] == made.labels
    assert {"loss": 1.5e-07} == made.manifest["measured"]
    assert folder / "model.bin" == made.file("model.bin")
    assert 160 == made.model_bytes
    assert sorted(FILES) == names(folder)


def test_the_digest_follows_every_file(tmp_path):
    """Equal content has an equal digest wherever it lies; one letter more has another."""
    one, same, other = (make(tmp_path / name, text) for name, text in
                        (("a", "x"), ("b", "x"), ("c", "xy")))  # fmt: skip

    assert one.digest == same.digest != other.digest


@shared
@given(
    name=st.sampled_from(FILES), place=st.integers(0, 10_000), flip=st.integers(1, 255)
)  # fmt: skip
def test_any_changed_byte_is_refused(folder, name, place, flip):
    """One byte of any file, the manifest too: IntegrityError, and it names the file."""
    content = (folder / name).read_bytes()
    changed = bytearray(content)
    changed[place % len(content)] ^= flip
    (folder / name).write_bytes(changed)
    try:
        with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
            open_artifact(folder)
    finally:
        (folder / name).write_bytes(content)


def test_a_manifest_that_only_looks_the_same_is_refused(folder):
    """Another spelling of the same values is not what was written either."""
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("1.5e-07", "1.5E-07"))
    with pytest.raises(IntegrityError, match=r"manifest\.json is not the manifest"):
        open_artifact(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_cut_file_is_refused(folder, name, size):
    """A file that lost its end, wherever, is refused by name."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:size])
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")) as caught:
        open_artifact(folder)

    assert 4 == caught.value.exit_code
    assert "take the folder again" in caught.value.repair


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_refused(folder, name):
    """Bytes after the end are a change too."""
    with open(folder / name, "ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        open_artifact(folder)


@pytest.mark.parametrize("name", ["model.bin", "samples.json"])
def test_a_missing_file_is_refused(folder, name):
    """Every file of the manifest has to be there, the model and what lies beside it."""
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        open_artifact(folder)


def test_a_folder_without_manifest_is_no_model(folder):
    """That is bad input, and the error says what would be a model folder."""
    (folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"has no manifest\.json") as caught:
        open_artifact(folder)

    assert "runs/…/deploy" in caught.value.expected


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_link_in_place_of_a_file_is_refused(folder, tmp_path, where):
    """The same bytes behind a symbolic link are refused: the link can point elsewhere later."""
    target = (folder if where == "inside" else tmp_path) / "elsewhere"
    shutil.move(folder / "model.bin", target)
    (folder / "model.bin").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"'model\.bin' points outside"):
        open_artifact(folder)


def test_a_file_that_the_manifest_does_not_list_is_never_given(folder):
    """An extra link in the folder is not part of the artifact and cannot be reached through it."""
    (folder / "passwd").symlink_to("/etc/passwd")
    made = open_artifact(folder)

    for name in ("passwd", "../secret", "manifest.json", ""):
        with pytest.raises(IntegrityError, match="lists no file"):
            made.file(name)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "."])
def test_a_forged_manifest_cannot_reach_outside(folder, name):
    """A manifest with a right digest whose file lies elsewhere is refused before it is read."""
    (folder.parent / "secret").write_text("secret")
    entry = {"sha256": "0" * 64, "bytes": 6}
    seal(folder, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(IntegrityError, match=r"points outside|is missing"):
        open_artifact(folder)


@pytest.mark.parametrize(
    "change",
    [lambda m: m.pop("files"), lambda m: m.update(files=[]), lambda m: m.pop("kind"),
     lambda m: m["files"].update({"model.bin": {}}), lambda m: m["files"].update({"model.bin": 3}),
     lambda m: m.pop("model_file"), lambda m: m.update(model_file="nowhere"),
     lambda m: m.pop("signature")],
    ids=["no files", "files is a list", "no kind", "no hash", "no entry", "no model file",
         "model file not listed", "no signature"],
)  # fmt: skip
def test_a_forged_manifest_that_lacks_something_is_refused(folder, change):
    """A manifest with a right digest but without what every manifest has ends in words too."""
    seal(folder, change)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        open_artifact(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"digest"', b"{}", b'{"digest": 1}', b"\xff\xfe", b"\0" * 50,
     b'{"format": "modelwright-artifact/1", "digest": "0"}', b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "number", "text", "nothing", "digest", "not UTF-8",
         "zeros", "wrong digest", "deep"],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(folder, content):
    """Any bytes in place of the manifest are refused in words."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json is not the manifest"):
        open_artifact(folder)


def test_a_format_of_another_version_says_so(folder):
    """A manifest of a later version is not called broken."""
    seal(folder, lambda manifest: manifest.update(format="modelwright-artifact/9"))
    with pytest.raises(ConfigError, match="modelwright-artifact/9") as caught:
        open_artifact(folder)

    assert "version of modelwright" in caught.value.repair


def test_a_wrong_kind_is_named(folder):
    """What it is, and what would have been right."""
    with pytest.raises(ConfigError, match="holds a 'toy' model") as caught:
        open_artifact(folder, kinds=("onnx", "deploy"))

    assert "'onnx' or 'deploy'" == caught.value.expected


def test_a_half_written_folder_is_never_visible(tmp_path, monkeypatch):
    """Where the last rename fails, no folder of that name is there, nor a rest of it."""

    def refuse(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        make(tmp_path / "model")

    assert [] == names(tmp_path)


def test_a_crash_while_filling_leaves_nothing(tmp_path):
    """A model that cannot be written leaves no folder that looks like one."""

    def fill(partial):
        (partial / "model.bin").write_bytes(b"half")
        raise MemoryError

    with pytest.raises(MemoryError):
        artifact.write(
            tmp_path / "model", "toy", model_file="model.bin", fill=fill, signature=SIGNATURE,
            extras={},
        )  # fmt: skip

    assert [] == names(tmp_path)


@pytest.mark.parametrize("at", range(1, 13))
def test_a_full_disk_leaves_the_old_artifact(tmp_path, disk, at):
    """At whichever call the disk is full: StorageError, and the old artifact opens as before."""
    old = make(tmp_path / "model", "old")
    disk.calls, disk.at = 0, at
    try:
        new = make(tmp_path / "model", "new")
    except StorageError as error:
        assert "No space left on device" in error.what
        assert open_artifact(tmp_path / "model").digest in (
            old.digest, make(tmp_path / "other", "new").digest,
        )  # fmt: skip
    else:
        assert new.digest == open_artifact(tmp_path / "model").digest


def test_a_full_disk_while_the_model_is_written(tmp_path):
    """The largest write of all, the model's own: StorageError, and the old artifact is intact."""
    old = make(tmp_path / "model", "old")

    def fill(partial):
        (partial / "model.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left on device"):
        artifact.write(
            tmp_path / "model", "toy", model_file="model.bin", fill=fill, signature=SIGNATURE,
            extras={},
        )  # fmt: skip

    assert old.digest == open_artifact(tmp_path / "model").digest
    assert ["model"] == names(tmp_path)
