"""Fixtures of the simulated tasks' tests."""

from pathlib import Path

import pytest

from telic.envs.rendering import choose_backend


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of the toy task, importable here and in worker processes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "toy_tasks:toy/sum"


@pytest.fixture(scope="session")
def pictures() -> None:
    """Skip where nothing can be drawn."""
    if choose_backend() is None:
        pytest.skip("no library for off-screen rendering is installed")
