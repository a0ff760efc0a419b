"""Registering is what gets a part tested, offered and run: a toy of each, from another package.

The toys are plug-ins (toy_parts.py, toy_world.py) of a process of its own, where each conformance
suite takes them from the tables beside the parts of this package.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from telic import plugins
from telic.plugins import load_plugins
from telic.registry import Registry

HERE = Path(__file__).parent
# suite -> least number of toy cases that it runs
SUITES = {
    "plugins/whole_run.py": 3,
    "datasets/test_converters.py": 1,
    "envs/tasks/test_tasks.py": 2,
    "policy/denoisers/test_kinds.py": 50,
    "policy/diffusion/test_formulations.py": 4,
    "policy/diffusion/test_samplers.py": 15,
    "policy/diffusion/test_schedules.py": 6,
    "policy/encoders/test_registered.py": 5,
    "policy/inference/test_plan.py": 80,
    "real_robot/test_simulated.py": 2,
}
# MoDE stands for the kinds that are here; that a chunk is one, saved policies show
CASES = "toy and not (mdt or rdt or mmdit or is_a_chunk_policy)"


def test_toys_of_another_package_pass_every_suite(tmp_path: Path) -> None:
    suites = [str(HERE.parent / name) for name in SUITES]
    environment = os.environ | {
        "TELIC_PLUGINS": "toy_parts, toy_world",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-vv", "-k", CASES, "-m", "not slow", "--basetemp", str(tmp_path / "toys")]
    done = subprocess.run(
        [*command, *suites], env=environment, capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.findall(r"^tests/(\S+?)::.* PASSED", done.stdout, re.M)
    counts = {name: passed.count(name) for name in SUITES}
    assert all(counts[name] >= least for name, least in SUITES.items()), counts


def test_a_name_is_taken_once_and_given_back() -> None:
    table = Registry("sampler", {"euler": 1})
    table.register("toy", 2)
    assert dict(table) == {"euler": 1, "toy": 2} and table["toy"] == 2
    with pytest.raises(ValueError, match="sampler 'toy' is registered already"):
        table.register("toy", 3)
    for bad in ("", "a b", "a=b", "-x"):
        with pytest.raises(ValueError, match="a name is letters, digits and _"):
            table.register(bad, 4)
    with pytest.raises(ValueError, match=r"^here=eulr is not one of euler, toy; did"):
        table.require("eulr", "here")
    table.unregister("toy")
    assert "toy" not in table and len(table) == 1


@pytest.mark.parametrize("how", ["variable", "entry point"])
def test_a_plug_in_is_imported_when_a_name_is_missed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, module = Registry("sampler", {"euler": 1}), f"toy_plugin_{how[0]}"
    (tmp_path / f"{module}.py").write_text("import builtins; builtins.TABLE.register('t', 5)")
    monkeypatch.setattr("builtins.TABLE", table, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    if how == "variable":
        monkeypatch.setenv("TELIC_PLUGINS", module)
    else:
        about = tmp_path / "toy_package-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[telic.plugins]\ntoy = {module}\n")
        plugins._installed.cache_clear()
    assert table["euler"] == 1 and module not in sys.modules
    assert table["t"] == 5 and list(table) == ["euler", "t"]
    plugins._installed.cache_clear()
    plugins._LOADED.discard(module)
    del sys.modules[module]


def test_a_plug_in_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELIC_PLUGINS", "no_such_plugin")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^TELIC_PLUGINS=no_such_plugin: no module"):
            load_plugins()
