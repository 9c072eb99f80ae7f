"""This machine, and the small cache of what was measured on it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.core import hardware
from modelwright.core.hardware import Machine, measured_once, this_machine


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Clock:
    """A measurement that counts how often it was taken."""

    def __init__(self, **more: float) -> None:
        self.taken, self.more = 0, more

    def __call__(self) -> dict[str, float]:
        self.taken += 1
        return {"seconds": float(self.taken), **self.more}


def test_this_machine_is_read():
    """Cores, memory and a name; the same each time, and plain JSON."""
    machine = this_machine()

    assert machine == this_machine()
    assert 1 <= machine.cores
    assert 2**28 < machine.memory_bytes
    assert machine.cpu in machine.name
    assert json.loads(json.dumps(machine.to_json()))["cores"] == machine.cores


@pytest.mark.parametrize(
    ("sets", "expected"),
    [((), False), (("AVX2", "AVX512"), False), (("AVX512-VNNI",), True), (("AVX-VNNI",), True),
     (("AMX-INT8",), True), (("AMX-BF16",), False), (("ARM dot product",), True)],
)  # fmt: skip
def test_int8_is_fast_where_there_are_dot_products(sets, expected):
    """Only 8-bit products count, not wide registers."""
    assert expected == Machine("cpu", 1, 2**30, sets, "Linux").has_int8


@pytest.mark.parametrize(
    ("sets", "expected"),
    [((), False), (("AVX2", "AVX512"), True), (("AVX512", "AVX512-BF16"), False),
     (("AMX-BF16",), False), (("ARM dot product",), True), (("ARM BF16",), False)],
)  # fmt: skip
def test_bf16_is_lacking_where_no_instruction_has_it(sets, expected):
    """Of a machine whose instructions are not known, it is not known either."""
    assert expected == Machine("cpu", 1, 2**30, sets, "Linux").lacks_bf16


def test_a_measurement_is_taken_once(cache):
    """The second time the figures come from the cache."""
    clock = Clock()
    found = [measured_once({"what": "sum"}, clock) for _ in range(3)]

    assert [{"seconds": 1.0}] * 3 == found
    assert 1 == clock.taken


def test_another_question_is_another_measurement(cache):
    """Everything that the result depends on is part of its key."""
    clock = Clock()
    measured_once({"what": "sum", "threads": 1}, clock)
    measured_once({"what": "sum", "threads": 2}, clock)

    assert 2 == clock.taken


def test_another_machine_is_another_measurement(cache, monkeypatch):
    """A cache that was carried to another computer does not speak for it."""
    clock = Clock()
    measured_once({"what": "sum"}, clock)
    other = Machine("other", 64, 2**36, ("AVX2",), "Linux")
    monkeypatch.setattr(hardware, "this_machine", lambda: other)
    measured_once({"what": "sum"}, clock)

    assert 2 == clock.taken


def test_a_disturbed_measurement_is_used_but_not_kept(cache):
    """Figures taken while other work ran are given, and taken again the next time."""
    clock = Clock(spread=hardware.BUSY_SPREAD + 0.1)
    found = [measured_once({"what": "sum"}, clock)["seconds"] for _ in range(2)]

    assert [1.0, 2.0] == found
    assert [] == [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("others", "idle", "taken"), [(1.0, 0.0, 2), (1.0, 5.0, 1), (0.0, 0.0, 1)])
def test_a_busy_machine_is_not_believed_for_long(cache, monkeypatch, others, idle, taken):
    """What was slowed down by other processes, and by those alone, is taken again after a while."""
    spent, now = iter([(0.0, 0.0), (others, idle)] * 2), [1000.0]
    monkeypatch.setattr(hardware, "_core_seconds", lambda: next(spent))
    monkeypatch.setattr(hardware.time, "time", lambda: now[0])
    clock = Clock()
    measured_once({"what": "sum"}, clock)
    measured_once({"what": "sum"}, clock)
    assert 1 == clock.taken
    now[0] += hardware.BUSY_S + 1
    measured_once({"what": "sum"}, clock)

    assert taken == clock.taken


def test_a_quiet_measurement_is_kept(cache):
    """A small spread is no reason to measure again."""
    clock = Clock(spread=1.1)
    for _ in range(2):
        measured_once({"what": "sum"}, clock)

    assert 1 == clock.taken


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b"{}", b'{"key": "another", "result": {}}',
     b'{"key": KEY}', b'{"key": KEY, "result": {"seconds": "soon"}}',
     b'{"key": KEY, "result": {"seconds": null}}', b'{"key": KEY, "result": null}',
     b'{"key": KEY, "result": [1]}'],
)  # fmt: skip
def test_a_broken_cache_file_is_measured_again(cache, content):
    """What cannot be read is not believed; it is measured and replaced."""
    clock = Clock()
    measured_once({"what": "sum"}, clock)
    (file,) = (path for path in cache.rglob("*") if path.is_file())
    key = json.dumps(json.loads(file.read_bytes())["key"]).encode()
    file.write_bytes(content.replace(b"KEY", key))
    found = [measured_once({"what": "sum"}, clock) for _ in range(2)]

    assert [{"seconds": 2.0}] * 2 == found


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [("/a/b", "/c", "/a/b"), ("", "/c", "/c/modelwright"), ("", "", "/h/.cache/modelwright")],
)
def test_where_the_cache_is(monkeypatch, own, xdg, expected):
    """MODELWRIGHT_CACHE, else XDG_CACHE_HOME, else the home folder's .cache."""
    monkeypatch.setenv("MODELWRIGHT_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", "/h")

    assert expected == str(hardware.cache_folder())


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
USED = """
import ctypes, re, sys
from pathlib import Path
from modelwright.core.hardware import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
place = libc.malloc(ctypes.c_size_t(2**26)) + 2**25
inside = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if (found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)):
        inside = int(found[1], 16) <= place < int(found[2], 16)
    elif inside and line.startswith("VmFlags:"):
        print("hg" in line.split())
print(re.search(r"Rss: *(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1])
"""


@pytest.mark.skipif(
    not LARGE_PAGES.is_file() or "[madvise]" not in LARGE_PAGES.read_text(),
    reason="large pages are not left to programs here",
)
@pytest.mark.parametrize(("how", "expected"), [("kept", True), ("as it comes", False)])
def test_a_training_asks_for_large_pages(how, expected):
    """Memory taken after keep_freed_memory may come in pages of 2 MB; none is used before."""
    done = subprocess.run([sys.executable, "-c", USED, how], capture_output=True, text=True)
    asked, used = done.stdout.split()

    assert str(expected) == asked
    assert int(used) < 2**18
