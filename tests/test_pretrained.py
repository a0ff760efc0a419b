"""A checkpoint with its results becomes a folder to hand on; each that the repository has acts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from telic.cards import read_head
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.evaluate import EvaluateConfig
from telic.evaluate import run as evaluate
from telic.policy.checkpoint import load_policy, read_parts
from telic.policy.digests import write_digests
from telic.save_pretrained import LARGEST_DIFFERENCE, NUM_CHUNKS, check, main
from telic.spec import ArraySpec
from telic.tests.training.small_runs import ALONE
from telic.train import run as train
from telic.training.config import TrainConfig
from telic.training_facts import TrainingFacts

SHELF = Path(__file__).resolve().parents[1] / "pretrained"
TOY = "toy_tasks:toy/sum"
PLAN = {"tasks": ["playtable/play"], "scenes": ["D"], "annotated": 0.3, "episodes_per_task": 3}
SMALL = [
    *("policy.denoiser.width=16", "policy.denoiser.num_layers=1", "policy.denoiser.num_heads=2"),
    *("policy.denoiser.feed_forward=16", "steps=2", "batch_size=8", "data.held_out=0.4", *ALONE),
]


def store(path: Path, episodes: int = 3) -> None:
    """Write a store of the toy task, and beside it the log of a collection."""
    fields = {
        "state": ArraySpec(shape=(2,)),
        "action": ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    }
    rng = np.random.default_rng(episodes)
    about = {"robot": "toy", "task_family": "toy", "licence": "MIT", "source": "a test"}
    with EpisodeStore.create(path, fields, rate_hz=20.0, **about) as made:
        for _ in range(episodes):
            action = rng.uniform(-1, 1, (12, 1)).astype(np.float32)
            state = np.stack([np.arange(12), action.cumsum()], 1).astype(np.float32)
            segment = Segment(start=0, end=12, instruction="add up", task=TOY)
            made.append({"state": state, "action": action}, [segment])
        made.write_embeddings("minilm", rng.normal(size=(1, 384)).astype(np.float32))
    log = path.with_name(f"{path.name}.collect.jsonl")
    log.write_text(json.dumps({**PLAN, "max_attempts": 12}) + "\n")


def measure(checkpoint: Path, out: Path, *more: str) -> Path:
    """Evaluate a checkpoint of the toy task in two episodes; return the folder of the results."""
    few = [f"tasks=['{TOY}']", "episodes_per_task=2", "num_workers=0", "sampling=2"]
    keys = [f"checkpoint={checkpoint}", f"out={out}", "execute_horizon=5", *few, *more]
    evaluate(compose(EvaluateConfig, "evaluate", keys))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with a run of two steps, its results, and what was made of both: pre/toy."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "envs"))
        run = folder / "run"
        run.mkdir()
        store(run / "demos.zarr")
        given = [f"data.stores=[{run}/demos.zarr]", f"out={run}", *SMALL]
        train(compose(TrainConfig, "train", given))
        results = measure(run / "checkpoints/best", run / "eval")
        main([str(run / "checkpoints/best"), str(folder / "pre/toy"), "--results", str(results)])
        yield folder


@pytest.fixture
def toy(made: Path, tmp_path: Path) -> Path:
    """Return a copy of pre/toy that a test may change."""
    return Path(shutil.copytree(made / "pre/toy", tmp_path / "toy"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    """Return the line with which the command refuses these arguments."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_each_pretrained_policy_acts_as_when_it_was_stored(made: Path) -> None:
    shelved = sorted(path.parent for path in SHELF.glob("*/config.yaml"))
    for folder in [made / "pre/toy", *shelved]:
        stored = load_file(folder / "chunks.safetensors")["actions"]
        assert len(stored) == NUM_CHUNKS and stored.std() > 0
        assert check(folder) <= LARGEST_DIFFERENCE
        assert read_head(folder / "README.md")["library_name"] == "telic"
        assert not (folder / "train_state").exists()
        compose(EvaluateConfig, "evaluate", [f"checkpoint={folder}"])
    files = [path for path in SHELF.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6


def test_its_files_are_those_of_the_checkpoint(made: Path) -> None:
    best, toy = made / "run/checkpoints/best", made / "pre/toy"
    for name in ("config.yaml", "embeddings.safetensors", "model.safetensors", "spec.json"):
        assert (toy / name).read_bytes() == (best / name).read_bytes()
    assert {path.name for path in toy.iterdir()} - {path.name for path in best.iterdir()} == {
        *("README.md", "chunks.safetensors", "evaluate.yaml")
    }


def test_the_card_says_what_was_done(made: Path) -> None:
    card = (made / "pre/toy/README.md").read_text()
    results = json.loads((made / "run/eval/results.json").read_text())
    config = yaml.safe_load((made / "run/checkpoints/best/config.yaml").read_text())
    head = read_head(made / "pre/toy/README.md")
    assert (head["license"], head["datasets"]) == ("mit", ["toy-demos"])
    assert head["metrics"] == ["success_rate"]
    overall = results["overall"]
    stated = head["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert stated == pytest.approx(overall["success"], abs=1e-4)
    low, high = overall["interval"]
    counts = f"{overall['successes']} of 2"
    assert f"| all | {overall['success']:.3f} | [{low:.3f}, {high:.3f}] | {counts} |" in card
    assert "policy.denoiser.width=16" in card and "train-policy policy=mode" in card
    assert "| started from | new |" in card and "init_from" not in card
    assert "| optimizer steps | 2 of 8 windows |" in card and "| seed | 1 |" in card
    assert f"| machine | {config['machine']['cpu']}, " in card and "| hours | 0.0" in card
    assert f"| git commit | {config['git_commit']} |" in card
    assert "| demos.zarr | 3 | 36 | toy | a test | - | MIT |" in card
    collected = "env=playtable mode=play annotated=0.3 episodes_per_task=3 scenes='[D]'"
    line = next(line for line in card.splitlines() if line.startswith("collect-demos"))
    assert set(collected.replace("'", "").split()) <= set(line.replace("'", "").split())
    assert str(made) not in card and "Weights: MIT." in card


def test_whose_weights_it_began_with_is_said(made: Path) -> None:
    parts = read_parts(made / "run/checkpoints/best")
    parts.config["train"]["init_from"] = "runs/first/checkpoints/last"
    facts = TrainingFacts.of(parts)
    assert ("started from", "the weights of runs/first/checkpoints/last") in facts.rows()
    assert "init_from=runs/first/checkpoints/last" in facts.command


def test_an_evaluation_of_it_repeats_the_cards_where_nothing_else_is_given(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def composed(*more: str) -> EvaluateConfig:
        return compose(EvaluateConfig, "evaluate", [f"checkpoint={made / 'pre/toy'}", *more])

    plain = composed()
    assert (plain.tasks, plain.episodes_per_task, plain.execute_horizon) == ([TOY], 2, 5)
    assert plain.sampling.preset == "2"
    assert "evaluate.yaml: " in capfd.readouterr().err
    given = composed("sampling.steps=4", "episodes_per_task=1", "execute_horizon=3")
    assert (given.sampling.preset, given.sampling.steps, given.execute_horizon) == (None, 4, 3)
    assert (given.tasks, given.episodes_per_task) == ([TOY], 1)
    other = composed("protocol=lh_mtlc")
    assert (other.tasks, other.num_chains, other.execute_horizon) == (["mt10"], 1000, 5)
    assert composed("experiment=metaworld_mt50").execute_horizon == 4
    keys = [f"checkpoint={made / 'pre/toy'}", "num_workers=0", f"out={tmp_path}"]
    again = evaluate(compose(EvaluateConfig, "evaluate", keys))
    before = json.loads((made / "run/eval/results.json").read_text())
    assert again["overall"] == before["overall"] and again["protocol"] == before["protocol"]


def test_other_weights_than_the_cards_are_refused(toy: Path) -> None:
    file = toy / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        load_policy(toy)
    write_digests(toy)
    with pytest.raises(ValueError, match=r"README\.md: is the card of other weights \(checkpoint_"):
        load_policy(toy)
    (toy / "README.md").unlink()
    with pytest.raises(ValueError, match=r"README\.md is missing"):
        load_policy(toy)


def test_a_text_of_somebody_elses_is_no_card(made: Path, tmp_path: Path) -> None:
    best = shutil.copytree(made / "run/checkpoints/best", tmp_path / "best")
    (best / "README.md").write_text("---\ntitle: mine\n---\nNotes.\n")
    assert load_policy(best).action_horizon == load_policy(made / "pre/toy").action_horizon


def test_chunks_that_differ_are_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy / "chunks.safetensors"
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    begin, _ = header["actions"]["data_offsets"]
    raw[start + begin : start + begin + 4] = np.float32(0.5).tobytes()
    file.write_bytes(raw)
    assert "chunks.safetensors: damaged" in refusal(capsys, "--check", toy)
    write_digests(toy)
    assert "a chunk differs from the stored one by 0." in refusal(capsys, "--check", toy)


def test_what_is_not_handed_on(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, out, results = made / "run/checkpoints/best", tmp_path / "out", made / "run/eval"
    assert "--results is missing: a card states results" in refusal(capsys, best, out)
    assert "no results at" in refusal(capsys, best, out, "--results", tmp_path / "none")
    there = refusal(capsys, best, made / "pre/toy", "--results", results)
    assert there.endswith("is already there; --overwrite replaces it, or give another path")
    (tmp_path / "mine").mkdir()
    given = ("--results", results, "--overwrite")
    assert "is not a pretrained policy of ours" in refusal(capsys, best, tmp_path / "mine", *given)
    other = measure(made / "pre/toy", tmp_path / "eval")
    line = refusal(capsys, best, out, "--results", other)
    assert "are results of another checkpoint, " in line and line.endswith(": evaluate it")
    part = json.loads((results / "results.json").read_text())
    del part["episodes"][1]
    (tmp_path / "part.json").write_text(json.dumps(part))
    line = refusal(capsys, best, out, "--results", tmp_path / "part.json")
    assert "has 1 of 2 episodes; run that evaluation again" in line
    assert "--check takes a folder and nothing else" in refusal(capsys, best, "--check", out)
    assert "no pretrained policy there" in refusal(capsys, "--check", best)
    assert not out.exists()


def test_without_the_stores_licence_and_observations_are_asked_for(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, out, demos = made / "run/checkpoints/best", tmp_path / "out", made / "run/demos.zarr"
    given = (best, out, "--results", made / "run/eval")
    aside = demos.rename(tmp_path / "aside.zarr")
    try:
        assert "its data's licence is none stated, this software's MIT" in refusal(capsys, *given)
        line = refusal(capsys, *given, "--licence", "CC-BY-4.0")
        assert line.endswith("there any more; give one of the same robot by --store")
        store(demos, episodes=4)
        line = refusal(capsys, *given)
        assert "is not the store of 3 episodes that" in line
        shutil.rmtree(demos)
        main([*map(str, given), "--licence", "CC-BY-4.0", "--store", str(aside)])
    finally:
        shutil.rmtree(demos, ignore_errors=True)
        aside.rename(demos)
    card = (out / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "written: demos.zarr." in card


def test_from_the_wheel_there_is_a_clear_line() -> None:
    with pytest.raises(ValueError, match=r"pretrained/none: not there; pretrained/ lies in"):
        load_policy("pretrained/none")
