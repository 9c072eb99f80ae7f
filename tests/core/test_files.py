"""Files and folders: the old one or the new one, whole, whatever the disk says."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

from modelwright.core.errors import StorageError
from modelwright.core.files import digest_json, new_folder, sha256, write_bytes, write_json

from .conftest import names


def test_write_replaces_the_whole_file(tmp_path):
    """A shorter content leaves nothing of the longer one, and no file beside it."""
    write_bytes(tmp_path / "a", b"a long old content")
    write_bytes(tmp_path / "a", b"new")

    assert b"new" == (tmp_path / "a").read_bytes()
    assert ["a"] == names(tmp_path)


def test_write_makes_the_folders_above(tmp_path):
    """A file may be written where no folder is yet."""
    write_bytes(tmp_path / "a" / "b" / "c", b"1")

    assert b"1" == (tmp_path / "a" / "b" / "c").read_bytes()


@pytest.mark.parametrize("at", range(1, 6))
def test_a_full_disk_leaves_the_old_file(tmp_path, disk, at):
    """Wherever the disk says no, the old file or the new one is there whole, and nothing else."""
    write_bytes(tmp_path / "a", b"old")
    disk.calls, disk.at = 0, at
    try:
        write_bytes(tmp_path / "a", b"new")
    except StorageError as error:
        assert "No space left on device" in error.what
        assert "free disk space" in error.repair
    else:  # the refusal did not matter: a folder that is there need not be made
        assert b"new" == (tmp_path / "a").read_bytes()

    assert (tmp_path / "a").read_bytes() in (b"old", b"new")
    assert ["a"] == names(tmp_path)


def test_a_write_that_the_kernel_cuts_off(tmp_path):
    """A real limit of the kernel on a file's size, in a process of its own: the old file stays."""
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from modelwright.core.errors import StorageError\n"
        "from modelwright.core.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except StorageError as error:\n"
        "    print(error.what)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True
    )

    assert f"cannot write {tmp_path / 'a'}: File too large\n" == done.stdout, done.stderr
    assert b"old" == (tmp_path / "a").read_bytes()
    assert ["a"] == names(tmp_path)


def test_two_who_write_one_file(tmp_path, monkeypatch):
    """Neither takes the other's half-written file: whoever ends last has the name."""
    replace = os.replace

    def meanwhile(before, after):
        monkeypatch.setattr(os, "replace", replace)
        write_bytes(tmp_path / "a", b"the other's, longer")
        replace(before, after)

    monkeypatch.setattr(os, "replace", meanwhile)
    write_bytes(tmp_path / "a", b"own")

    assert b"own" == (tmp_path / "a").read_bytes()
    assert ["a"] == names(tmp_path)


def test_a_folder_where_the_file_should_be(tmp_path):
    """A path that cannot be a file is an error with the path, not a traceback."""
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*a: "):
        write_bytes(tmp_path / "a", b"new")

    assert ["a"] == names(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("nan")]}])
def test_json_has_no_nan(tmp_path, value):
    """A figure that is no number is refused, and the old file stays."""
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)

    assert 1 == json.loads((tmp_path / "a.json").read_bytes())


def test_a_new_folder_appears_whole(tmp_path):
    """While it is filled there is no folder of that name; after, there is no other."""
    with new_folder(tmp_path / "a") as partial:
        (partial / "one").write_text("1")
        assert not (tmp_path / "a").exists()
        (partial / "two").write_text("2")

    assert ["a"] == names(tmp_path)
    assert ["one", "two"] == names(tmp_path / "a")


def test_a_new_folder_replaces_the_old(tmp_path):
    """Nothing of the older folder remains."""
    for name in ("old", "new"):
        with new_folder(tmp_path / "a") as partial:
            (partial / name).write_text(name)

    assert ["a"] == names(tmp_path)
    assert ["new"] == names(tmp_path / "a")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_while_filling_leaves_the_old_folder(tmp_path, error):
    """Whatever ends the block, the old folder is as it was and the half-filled one is gone."""
    with new_folder(tmp_path / "a") as partial:
        (partial / "old").write_text("old")
    with pytest.raises(error), new_folder(tmp_path / "a") as partial:
        (partial / "new").write_text("new")
        raise error

    assert ["a"] == names(tmp_path)
    assert ["old"] == names(tmp_path / "a")


@pytest.mark.parametrize("at", range(1, 8))
def test_a_full_disk_leaves_the_old_folder(tmp_path, disk, at):
    """Wherever the disk says no, the old folder or the new one is there whole."""
    with new_folder(tmp_path / "a") as partial:
        (partial / "old").write_text("old")
    disk.calls, disk.at = 0, at
    try:
        with new_folder(tmp_path / "a") as partial:
            (partial / "new").write_text("new")
    except StorageError as error:
        assert "No space left on device" in error.what
    else:
        assert ["new"] == names(tmp_path / "a")

    assert (tmp_path / "a").is_dir()
    assert names(tmp_path / "a") in (["old"], ["new"])


def test_a_full_disk_while_filling_is_a_storage_error(tmp_path):
    """What the block writes may be refused too: the same error, with the same repair."""
    with pytest.raises(StorageError, match="No space left"), new_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert [] == names(tmp_path)


@pytest.mark.parametrize("left", [".a.partial", ".a.old"])
def test_what_a_crash_left_is_cleared(tmp_path, left):
    """The rest of a process that was killed neither disturbs nor stays."""
    (tmp_path / left).mkdir()
    (tmp_path / left / "rest").write_text("rest")
    with new_folder(tmp_path / "a") as partial:
        (partial / "new").write_text("new")

    assert ["a"] == names(tmp_path)
    assert ["new"] == names(tmp_path / "a")


@pytest.mark.parametrize("at", [1, 2])
def test_killed_between_the_renames(tmp_path, at):
    """kill -9 at either rename loses nothing: an attempt after it that fails leaves the old folder.

    Between the two renames the name is free for a moment; what was there has to be put back.
    """
    with new_folder(tmp_path / "a") as partial:
        (partial / "old").write_text("old")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from modelwright.core.files import new_folder\n"
        "replace, calls = os.replace, []\n"
        "def die(*args):\n"
        "    calls.append(args)\n"
        "    if len(calls) == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    replace(*args)\n"
        "os.replace = die\n"
        "with new_folder(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'new').write_text('new')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), str(at)])

    with pytest.raises(ValueError, match="again"), new_folder(tmp_path / "a"):
        raise ValueError("again")

    assert (tmp_path / "a").is_dir()
    assert names(tmp_path / "a") in (["old"], ["new"])


def test_hashes_are_sha256(tmp_path):
    """Of a file's bytes, and of a value in canonical JSON whatever the order of its keys."""
    (tmp_path / "a").write_bytes(b"abc")

    assert hashlib.sha256(b"abc").hexdigest() == sha256(tmp_path / "a")
    assert hashlib.sha256(b'{"a":[1,2.5],"b":null}').hexdigest() == digest_json(
        {"b": None, "a": [1, 2.5]}
    )
