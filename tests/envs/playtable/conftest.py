"""The symbolic table, importable here and in worker processes."""

from pathlib import Path

import pytest


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of the chains on the symbolic table."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "symbolic_table:symbolic/lh_mtlc"
