"""A task of somebody else: what it must have, and where it is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from telic.collect import CollectConfig, run
from telic.datasets.store import EpisodeStore
from telic.envs import registry
from telic.plugins import import_named

HERE = Path(__file__).parent


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the user is in, where a module of theirs lies."""
    shutil.copy(HERE / "toy_tasks.py", tmp_path / "own_tasks.py")
    text = (tmp_path / "own_tasks.py").read_text().replace('"toy/', '"lab/')
    (tmp_path / "own_tasks.py").write_text(text.replace('f"toy/', 'f"lab/'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_console_script_finds_a_module_beside_the_user(beside: Path, num_workers: int) -> None:
    script = Path(sys.executable).with_name("collect-demos")
    given = [
        "tasks=[own_tasks:lab/sum]",
        "out=demos.zarr",
        "episodes_per_task=2",
        f"num_workers={num_workers}",
    ]
    environment = os.environ | {"HYDRA_FULL_ERROR": "0"}
    done = subprocess.run(
        [sys.executable, str(script), *given], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert EpisodeStore.open(beside / "demos.zarr").num_episodes == 2


def test_without_an_expert_nothing_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    config = CollectConfig(
        tasks=["odd_tasks:odd/bare"], out=str(tmp_path / "x.zarr"), num_workers=0
    )
    with pytest.raises(ValueError, match="task odd/bare has no scripted expert, so nothing can be"):
        run(config)
    with pytest.raises(ValueError, match="odd has no camera 'front'; it is not drawn"):
        registry.make("odd_tasks:odd/bare").picture("front", (8, 8))


def test_a_setting_that_the_task_does_not_take_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"task arm7/raise: .* keyword argument 'state'"):
        registry.make("arm7/raise", state="robot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing_at_all", "here: no module 'no_such_thing_at_all' to import; half_"),
        ("x = 1 +", r"here: module 'half_done' cannot be imported: SyntaxError: .*half_done.py"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(half_done.py:1\)"),
    ],
)
def test_a_module_that_fails_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_done.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message) as refused:
        import_named("half_done", "here")
    assert "\n" not in str(refused.value)
    sys.modules.pop("half_done", None)
