"""What every test has: a cache of its own session, never yours."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Calibrations are measured once a session, by whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELWRIGHT_CACHE", str(base / "modelwright-cache"))
        yield
