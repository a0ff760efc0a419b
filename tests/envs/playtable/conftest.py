"""The symbolic table, importable here and in worker processes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from telic.envs import registry
from telic.registry import Registry


@pytest.fixture
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the tasks that other tests of the same process have registered."""
    families = ("arm7", "detour", "metaworld", "playtable")
    entries = {task: registry.entry(task) for task in registry.task_ids()}
    own = {task: entry for task, entry in entries.items() if task.startswith(families)}
    monkeypatch.setattr(registry, "_ENTRIES", Registry("task", own))


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of the chains on the symbolic table."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "symbolic_table:symbolic/lh_mtlc"


@pytest.fixture(scope="session")
def fidelity() -> ModuleType:
    """Return benchmarks/playtable_fidelity.py, which measures what is asserted here."""
    path = Path(__file__).parents[3] / "benchmarks" / "playtable_fidelity.py"
    spec = importlib.util.spec_from_file_location("playtable_fidelity", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
