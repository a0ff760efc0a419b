"""A resumed run is the one that stopped: its data, split, statistics, settings; else one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from safetensors.numpy import load_file

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import read_config
from telic.policy.digests import write_digests
from telic.spec import Array, ArraySpec
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

SMALL = [
    "policy.denoiser.width=16",
    "policy.denoiser.num_layers=1",
    "policy.denoiser.num_heads=2",
    "policy.denoiser.feed_forward=16",
    "steps=4",
    "batch_size=8",
    "log_every=1",
    "validate_every=0",
    "checkpoint_every=2",
    "data.held_out=0.4",
    *ALONE,
]
REFUSED = "this would be another run: "


def episode(seed: int) -> tuple[dict[str, Array], list[Segment]]:
    """Return an episode."""
    rng = np.random.default_rng(seed)
    state = rng.normal(0, 1 + seed, (8 + seed % 3, 3)).astype(np.float32)
    segment = Segment(start=0, end=len(state), instruction="reach", task="reach")
    return {"state": state, "action": np.tanh(state[:, :2])}, [segment]


def store(path: Path, seeds: range) -> Path:
    """Write a store of an episode for each seed; return its path."""
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
    }
    with EpisodeStore.create(path, fields, rate_hz=10.0) as made:
        for seed in seeds:
            made.append(*episode(seed))
    return path


def config(demos: Path, out: Path, *overrides: str) -> TrainConfig:
    """Return the config of a tiny run."""
    named = [f"data.stores=[{demos}]", f"out={out}"]
    return compose(TrainConfig, "train", [*named, *SMALL, *overrides])


def tensors(checkpoint: Path) -> dict[str, Array]:
    """Return every tensor of a checkpoint, by file and name."""
    return {
        f"{file.relative_to(checkpoint)}:{name}": value
        for file in sorted(checkpoint.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def same(one: Path, other: Path) -> bool:
    """Return whether two checkpoints hold the same tensors, bit for bit."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, a whole run of 4 steps, and one that stopped after 2."""
    folder = tmp_path_factory.mktemp("made")
    demos = store(folder / "demos.zarr", range(5))
    run(config(demos, folder / "whole"))
    run(config(demos, folder / "half", "steps=2", "policy.anchors.count=0"))
    was = folder / "half" / "checkpoints" / "last" / "config.yaml"
    was.write_text(was.read_text().replace("  steps: 2\n", "  steps: 4\n"))
    write_digests(was.parent)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """Return a copy of `made`'s store and stopped run."""
    for name in ("demos.zarr", "half"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def resume(folder: Path, *overrides: str) -> dict[str, float]:
    """Go on with the stopped run."""
    return run(config(folder / "demos.zarr", folder / "half", "resume=true", *overrides))


def refusal(folder: Path, *overrides: str) -> str:
    """Return the one line in which going on is refused; nothing is written."""
    before = {p: p.read_bytes() for p in (folder / "half").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"resume=true goes on from") as error:
        resume(folder, *overrides)
    assert {p: p.read_bytes() for p in (folder / "half").rglob("*") if p.is_file()} == before
    assert "\n" not in str(error.value) and "init_from=" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "listed"),
    [
        ("batch_size=4", "batch_size=4 (it has 8)"),
        ("seed=2", "seed=2 (it has 1)"),
        ("policy.state.scaling=min_max", "policy.state.scaling=min_max (it has mean_std)"),
        ("policy/formulation=flow", "policy.formulation=flow (it has null)"),
        ("policy.action_horizon=4", "policy.action_horizon=4 (it has 8)"),
        ("policy.denoiser.width=32", "policy.denoiser.width=32 (it has 16)"),
        ("optimizer.learning_rate=0.1", "optimizer.learning_rate=0.1 (it has 0.001)"),
        ("ema.decay=0.5", "ema.decay=0.5 (it has 0.999)"),
        ("data.held_out=0.2", "data.held_out=0.2 (it has 0.4)"),
        ("data.goal.text=optional", "data.goal.text=optional (it has required)"),
        ("best_by=success", "best_by=success (it has action_error)"),
    ],
)
def test_what_would_be_another_run_is_refused_by_key(
    here: Path, override: str, listed: str
) -> None:
    more = ["rollouts.tasks=[detour]"] if override.startswith("best_by") else []
    says = refusal(here, override, *more)
    assert REFUSED in says and listed in says


def test_other_parts_of_a_batch_are_refused(here: Path) -> None:
    assert "1 processes x accumulate=2 make 2; choose accumulate so" in refusal(
        here, "accumulate=2"
    )


def test_what_may_change_is_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume(here, "log_every=3", "data.memory_mb=8", "steps=3")
    said = " ".join(capsys.readouterr().err.split())
    for line in ("log_every=3 (was 1)", "data.memory_mb=8 (was 256)", "steps=3 (was 4); the learn"):
        assert f"changed: {line}" in said
    assert f"goes on from {here}/half/checkpoints/last at step 2; reads state of 3" in said


@pytest.mark.parametrize("steps", [1, 2])
def test_where_nothing_is_left_to_train_it_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    assert resume(here, f"steps={steps}")["step"] == 2
    said = capsys.readouterr()
    assert f"is of step 2 and steps={steps}; a larger steps= goes on" in " ".join(
        (said.out + said.err).split()
    )


def test_a_store_that_is_named_twice_is_refused(here: Path) -> None:
    twice = f"data.stores=[{here / 'demos.zarr'},{here / 'half/../demos.zarr'}]"
    with pytest.raises(ValueError, match=r"data.stores names .*demos.zarr twice, so that its"):
        run(config(here / "demos.zarr", here / "new", twice))
    assert not (here / "new").exists()


def test_another_store_is_refused_and_a_moved_one_is_not(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "demos.zarr").rename(here / "mine.zarr")
    store(here / "demos.zarr", range(5, 10))
    assert "does not begin with these; give data.stores=" in refusal(here)
    shutil.rmtree(here / "demos.zarr")
    store(here / "demos.zarr", range(4))
    assert f"({4} episodes) does not begin" in refusal(here)
    listed = f"data.stores=[{here / 'mine.zarr'},{here / 'demos.zarr'}]"
    assert f"{REFUSED}data.stores=" in refusal(here, listed)
    resume(here, f"data.stores=[{here / 'mine.zarr'}]")
    assert "the same episodes" in " ".join(capsys.readouterr().err.split())
    assert same(made / "whole" / "checkpoints" / "last", here / "half" / "checkpoints" / "last")


def test_a_store_that_has_grown_changes_nothing_and_is_said(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Statistics, split and order of the windows are those of the run, bit for bit."""
    with EpisodeStore.open(here / "demos.zarr", "a") as grown:
        for seed in range(50, 54):
            grown.append(*episode(seed))
    resume(here)
    said = " ".join(capsys.readouterr().err.split())
    assert "demos.zarr has grown from 5 to 9 episodes: the run goes on with those" in said
    assert same(made / "whole" / "checkpoints" / "last", here / "half" / "checkpoints" / "last")
    record = read_config(here / "half" / "checkpoints" / "last")["run"]["stores"][0]
    assert record["episodes"] == 5 and len(record["held_out"]) == 2


def test_a_relabelled_store_is_another_one(here: Path) -> None:
    zarr.open_group(here / "demos.zarr", mode="a")["meta/segments"][0, 1] -= 1
    assert "does not begin with these" in refusal(here)


def test_statistics_are_the_checkpoints(here: Path, tmp_path: Path) -> None:
    before = load_file(here / "half" / "checkpoints" / "last" / "stats.safetensors")
    with EpisodeStore.open(here / "demos.zarr", "a") as grown:
        grown.append(*episode(90))
    resume(here)
    after = load_file(here / "half" / "checkpoints" / "last" / "stats.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert len(before) == len(after)


def test_a_run_without_a_record_still_resumes(made: Path, here: Path) -> None:
    """As checkpoints were before there was one: settings are compared, the stores by path."""
    path = here / "half" / "checkpoints" / "last" / "config.yaml"
    was: dict[str, Any] = yaml.safe_load(path.read_text())
    del was["run"]
    was["train"]["data"]["stores"] = [str(here / "demos.zarr")]
    path.write_text(yaml.safe_dump(was, sort_keys=False))
    write_digests(path.parent)
    assert "data.stores=[elsewhere.zarr]" in refusal(here, "data.stores=[elsewhere.zarr]")
    resume(here)
    assert same(made / "whole" / "checkpoints" / "last", here / "half" / "checkpoints" / "last")


@pytest.mark.parametrize("what", ["best", "put aside"])
def test_a_run_killed_before_its_last_resumes_from_what_there_is(
    made: Path, here: Path, what: str
) -> None:
    checkpoints = here / "half" / "checkpoints"
    last = checkpoints / "last"
    aside = checkpoints / ".last.0a1b2c3d.telic"
    aside.mkdir()
    shutil.rmtree(checkpoints / "best")
    last.rename(checkpoints / "best" if what == "best" else aside / "previous")
    with pytest.raises(ValueError, match="holds a run already; resume=true goes on with it"):
        run(config(here / "demos.zarr", here / "half"))
    resume(here)
    assert same(made / "whole" / "checkpoints" / "last", last)


def test_where_nothing_is_there_to_go_on_from_it_starts_anew(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for resumes in ("resume=true", "resume=false"):
        shutil.rmtree(here / "half" / "checkpoints")
        (here / "half" / "checkpoints" / ".last.0a1b2c3d.telic").mkdir(parents=True)
        run(config(here / "demos.zarr", here / "half", resumes))
        assert same(made / "whole" / "checkpoints" / "last", here / "half" / "checkpoints" / "last")
    assert "begins anew, for" in capsys.readouterr().err


def test_what_training_cannot_go_on_from_is_not_written_over(here: Path) -> None:
    shutil.rmtree(here / "half" / "checkpoints" / "last" / "train_state")
    shutil.rmtree(here / "half" / "checkpoints" / "best")
    for resumes in ("resume=true", "resume=false"):
        with pytest.raises(ValueError, match=r"no train_state.*, overwrite=true starts") as error:
            run(config(here / "demos.zarr", here / "half", resumes))
        assert "resume=true" not in str(error.value)


def test_a_bad_step_leaves_what_was_learnt_before_it(here: Path) -> None:
    """Though no checkpoint was due: the steps since the last one are not lost."""
    shutil.copytree(here / "demos.zarr", here / "bad.zarr")
    group = zarr.open_group(here / "bad.zarr", mode="a")
    group["data/state"][int(group["meta/episode_ends"][0]) - 1] = np.nan
    out = here / "half"
    with pytest.raises(ValueError, match=r"of seed 1: .*, in episodes .*bad\.zarr \(tasks reach\)"):
        run(
            config(
                here / "bad.zarr",
                out,
                "overwrite=true",
                "checkpoint_every=1000",
                "steps=50",
                "data.held_out=0",
                "batch_size=2",
            )
        )
    state = json.loads((out / "checkpoints" / "last" / "train_state" / "tree.json").read_text())
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps and dict(dict(state["dict"])["progress"]["dict"])["step"] == steps[-1] < 50
    weights = load_file(out / "checkpoints" / "last" / "train_state" / "tensors.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())
