"""What every test has: a cache of its own session, never yours."""

from collections.abc import Iterator

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
