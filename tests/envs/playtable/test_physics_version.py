"""PlayTable's physics has a version: in stores, policies and results, told apart in one line."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from telic.collect import CollectConfig
from telic.collect import run as collect
from telic.datasets.store import EpisodeStore
from telic.envs import registry
from telic.envs.playtable.control import PHYSICS
from telic.evaluate import EvaluateConfig
from telic.evaluate import run as evaluate

TASK = "playtable/turn_on_led"


def test_every_task_of_playtable_states_its_physics_and_its_environment_the_same() -> None:
    entries = [registry.entry(task) for task in registry.task_ids() if task.startswith("playtable")]
    assert {entry.physics for entry in entries} == {PHYSICS}
    assert registry.make(TASK).interface.action.physics == PHYSICS
    assert registry.entry("detour/pillar").physics == ""


def test_a_store_states_it_and_one_of_before_is_told_apart(tmp_path: Path) -> None:
    collect(
        CollectConfig(tasks=[TASK], episodes_per_task=1, num_workers=0, out=str(tmp_path / "s"))
    )
    new = EpisodeStore.open(tmp_path / "s")
    assert new.interface.action.physics == PHYSICS
    fields = {name: replace(spec, physics="") for name, spec in new.fields.items()}
    old = EpisodeStore.create(tmp_path / "old", fields, rate_hz=new.rate_hz)
    with pytest.warns(UserWarning, match=f"store new has physics {PHYSICS}, store old has unsta"):
        old.interface.require(new.interface, "store old", "store new")


def test_results_of_another_physics_are_told_apart(tmp_path: Path) -> None:
    def config(**more: object) -> EvaluateConfig:
        return EvaluateConfig(
            checkpoint="expert", tasks=[TASK], episodes_per_task=1, num_workers=0, **more
        )

    first = evaluate(config(out=str(tmp_path / "a")))
    assert first["about"]["physics"] == PHYSICS
    file = tmp_path / "a" / "results.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(config(out=str(tmp_path / "b"), compare=str(file)))
    data = json.loads(file.read_text())
    del data["about"]["physics"]
    file.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="compare: scripted expert has physics unstated, this ev"):
        evaluate(config(out=str(tmp_path / "c"), compare=str(file)))
