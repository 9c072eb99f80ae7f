"""What every test has: a cache of its own session, never yours; short timings, quick exports."""

import copy
import functools
import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep an xdist group's tests in one process, so that what they share is made once.

    pytest-xdist 3.8 writes the group into `_nodeid`, which pytest 9.2 no longer reads.
    """
    for item in items:
        grouped = getattr(item, "_nodeid", item.nodeid)
        if item.nodeid != grouped:
            item._id = type(item._id).parse(grouped)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Calibrations are measured once a session, by whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELWRIGHT_CACHE", str(base / "modelwright-cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """Where torch is there: short timings of latency, whose length no test is about but those of
    tests/measure, and exports that begin at once.

    For each export PyTorch reads anew how it translates 500 operations, from their source, which
    takes a second and comes to the same.
    """
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from modelwright.compress import certify, search

    read = functools.cache(ONNXRegistry.from_torchlib)

    def registry(opset_version: int) -> Any:
        found = copy.copy(read(opset_version))
        found.functions = {name: [*rows] for name, rows in found.functions.items()}  # of its own
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(registry))
        for module in (certify, search):
            patch.setattr(module, "TIMED_SECONDS", 0.1)
        yield
