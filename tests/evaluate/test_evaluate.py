"""`evaluate-policy` from end to end: seeded episodes, intervals, going on, comparing, bad input."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telic.configs.launch import compose
from telic.envs.evaluation.statistics import wilson_interval
from telic.envs.rendering import choose_backend
from telic.evaluate import EvaluateConfig, run
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.inference_config import SamplingChoice
from telic.tests.interrupted import interrupted

from .conftest import TOY, checkpoint

METAWORLD = ["tasks=[reach-v3,drawer-close-v3]", "episodes_per_task=2", "max_steps=40"]
FAST = ["num_workers=0", "device=cpu", "threads=1", "sampling=2"]


def evaluate(checkpoint: Path | str, out: Path, *overrides: str) -> dict[str, Any]:
    """Return what the command gives in this process."""
    given = [f"checkpoint={checkpoint}", f"out={out}", *FAST, *overrides]
    return run(compose(EvaluateConfig, "evaluate", given))


def test_two_tasks_of_metaworld(metaworld_checkpoint: Path, tmp_path: Path) -> None:
    films = [] if choose_backend() is None else ["videos=1"]
    result = evaluate(metaworld_checkpoint, tmp_path, *METAWORLD, *films)
    assert json.loads((tmp_path / "results.json").read_text()) == result
    tasks = ["metaworld/reach-v3", "metaworld/drawer-close-v3"]
    met = [(episode["task"], episode["seed"]) for episode in result["episodes"]]
    assert met == [(task, seed) for seed in (200_000, 200_001) for task in tasks]
    assert result["complete"]
    overall = result["overall"]
    assert (overall["episodes"], overall["crashed"]) == (4, 0)
    assert overall["success"] == overall["successes"] / 4
    assert overall["interval"] == list(wilson_interval(overall["successes"], 4))
    assert list(result["per_task"]) == tasks
    for latency in (result["chunk_latency_ms"], result["batch_latency_ms"]):
        assert 0 < latency["median"] <= latency["p95"]
    assert result["about"]["machine"]["cores"] >= 1
    assert result["about"]["checkpoint"]["kind"] == "mode"
    report = (tmp_path / "report.md").read_text()
    assert "| drawer-close-v3 | " in report
    assert "](success.png)" in report
    assert (tmp_path / "success.png").stat().st_size > 10_000
    for paths in result["videos"].values():
        for path in paths:
            assert (tmp_path / path).stat().st_size > 1000
            assert path in report
    assert len(result["videos"]) == 2 * len(films)

    again = evaluate(metaworld_checkpoint, tmp_path / "again", *METAWORLD)
    outcomes = ("task", "seed", "success", "steps", "first_success_step")
    assert [[e[name] for name in outcomes] for e in again["episodes"]] == [
        [e[name] for name in outcomes] for e in result["episodes"]
    ]


def test_an_interrupted_evaluation_goes_on(toy: str, toy_checkpoint: Path, tmp_path: Path) -> None:
    few = [f"tasks=['{toy}']", "episodes_per_task=6", "seed=10"]
    whole = evaluate(toy_checkpoint, tmp_path, *few)
    log = tmp_path / "episodes.jsonl"
    header, *lines = log.read_text().splitlines()
    kept = json.loads(lines[2]) | {"wall_s": 1234.5}
    log.write_text("\n".join([header, json.dumps(kept), lines[0][:40]]))  # torn by a kill

    result = evaluate(toy_checkpoint, tmp_path, *few)
    assert [e["seed"] for e in result["episodes"]] == list(range(10, 16))
    assert [e["wall_s"] for e in result["episodes"]].count(1234.5) == 1
    assert [e["success"] for e in result["episodes"]] == [e["success"] for e in whole["episodes"]]
    assert len(log.read_text().splitlines()) == 7

    with pytest.raises(ValueError, match=r"episodes.jsonl is of seed=10, this evaluation has 11"):
        evaluate(toy_checkpoint, tmp_path, *few, "seed=11")
    with pytest.raises(ValueError, match="is of sampling="):
        evaluate(toy_checkpoint, tmp_path, *few, "sampling=5")
    with pytest.raises(ValueError, match=r"jsonl: is already there; resume=true .* overwrite=true"):
        evaluate(toy_checkpoint, tmp_path, *few, "resume=false")
    other = evaluate(toy_checkpoint, tmp_path, *few, "seed=11", "overwrite=true")
    assert [e["seed"] for e in other["episodes"]] == list(range(11, 17))


def test_one_observation_that_is_not_finite_is_one_crash_at_each_try(
    toy: str, toy_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second time that episode alone is run, and crashes again
        result = evaluate(
            toy_checkpoint, tmp_path, f"tasks=['{toy}']", "seed=969", "episodes_per_task=2"
        )
        assert result["complete"] and result["overall"]["crashed"] == 1
        assert result["overall"]["episodes"] == 1
        assert (
            "1 crashed episodes are not counted: toy_tasks:toy/sum, seed 969: step 3: the "
            "observation's state: entry (1,) is not finite"
        ) in " ".join(capsys.readouterr().out.split())
    assert "toy_tasks:toy/sum, seed 969: step 3" in (tmp_path / "report.md").read_text()


def test_crashed_episodes_are_counted_apart(toy: str, tmp_path: Path) -> None:
    result = evaluate_expert(toy, tmp_path, "seed=898", "episodes_per_task=4")  # 900, 901 break
    overall = result["overall"]
    assert (overall["successes"], overall["episodes"], overall["crashed"]) == (2, 2, 2)
    assert overall["success"] == 1.0
    report = (tmp_path / "report.md").read_text()
    assert "2 crashed, not counted" in report
    assert "seed 900: ZeroDivisionError: the toy broke" in report

    with pytest.raises(ValueError, match=r"all 2 episodes crashed: .*toy/sum, seed 90.: Zero"):
        evaluate_expert(toy, tmp_path / "all", "seed=900", "episodes_per_task=2")


def test_the_expert_is_the_reference_row(toy: str, toy_checkpoint: Path, tmp_path: Path) -> None:
    expert = evaluate_expert(toy, tmp_path / "expert", "seed=5", "episodes_per_task=5")
    assert [e["success"] for e in expert["episodes"]] == [True, True, False, True, True]  # 7 fails
    assert expert["chunk_latency_ms"] is None
    result = evaluate(
        toy_checkpoint,
        tmp_path / "policy",
        f"tasks=['{toy}']",
        "seed=5",
        "episodes_per_task=5",
        f"compare={tmp_path / 'expert'}",
    )
    compared = result["comparison"]["overall"]
    wins = sum(
        mine["success"] > theirs["success"]
        for mine, theirs in zip(result["episodes"], expert["episodes"], strict=True)
    )
    assert (compared["pairs"], compared["only_first"]) == (5, wins)
    mean = result["overall"]["success"] - expert["overall"]["success"]
    assert compared["difference"] == pytest.approx(mean)
    assert "minus scripted expert" in (tmp_path / "policy" / "report.md").read_text()

    for change, says in (
        ("max_steps=10", "max_steps=200, this evaluation 10"),
        ("seed=6", "seed=5, this evaluation 6"),
        ("episodes_per_task=3", "episodes_per_task=5, this evaluation 3"),
        ("instructions=all", "all_phrasings=False, this evaluation True"),
    ):
        with pytest.raises(ValueError, match=says):
            evaluate_expert(
                toy,
                tmp_path / "other",
                "seed=5",
                "episodes_per_task=5",
                f"compare={tmp_path / 'expert' / 'results.json'}",
                change,
            )


def test_all_phrasings_take_turns(toy: str, toy_checkpoint: Path, tmp_path: Path) -> None:
    overrides = [f"tasks=['{toy}']", "episodes_per_task=6", "instructions=all"]
    result = evaluate(toy_checkpoint, tmp_path, *overrides)
    assert [e["instruction"] for e in result["episodes"]] == [
        "add up",
        "b",
        "c",
        "d",
        "add up",
        "b",
    ]


def test_titles_and_comparisons_name_the_sampler(toy: str, tmp_path: Path) -> None:
    samplings = {
        "euler": SamplingConfig(steps=2),
        "heun": SamplingConfig(steps=2, sampler="heun"),
    }
    few = [f"tasks=['{toy}']", "episodes_per_task=1", "sampling=null"]
    for name, sampling in samplings.items():
        saved = checkpoint(tmp_path / name / "best", TOY, ["add up"], sampling)
        compared = [] if name == "euler" else [f"compare={tmp_path / 'euler'}"]
        result = evaluate(saved, tmp_path / name, *few, *compared)
        assert result["policy"] == f"mode, {name}, 2 steps"
    assert result["comparison"]["second"] == "mode, euler, 2 steps"
    report = (tmp_path / "heun" / "report.md").read_text()
    assert "# mode, heun, 2 steps: 1 tasks" in report
    assert "mode, heun, 2 steps minus mode, euler, 2 steps" in report

    again = evaluate(saved, tmp_path / "again", *few, f"compare={tmp_path / 'heun'}")
    assert again["comparison"]["second"] == f"mode, heun, 2 steps ({saved})"


def test_a_sampler_can_be_chosen_and_is_recorded(toy: str, tmp_path: Path) -> None:
    own = SamplingConfig(sigma_max=9.0)
    heun = SamplingConfig(sigma_max=9.0, sampler="heun", steps=3)
    few = [f"tasks=['{toy}']", "episodes_per_task=1", "sampling=null"]
    ours, theirs = (
        checkpoint(tmp_path / str(n), TOY, ["add up"], sampling)
        for n, sampling in enumerate((own, heun))
    )
    chosen = ["sampling.sampler=heun", "sampling.steps=3"]
    result = evaluate(ours, tmp_path / "chosen", *few, *chosen)
    assert result["policy"] == "mode, heun, 3 steps"
    assert (
        result["about"]["sampling"] == evaluate(theirs, tmp_path / "own", *few)["about"]["sampling"]
    )
    assert result["about"]["config"]["sampling"]["sampler"] == "heun"
    words = shlex.split(result["about"]["command"])
    assert words[-2:] == chosen
    again = compose(EvaluateConfig, "evaluate", words[1:])
    assert again.sampling == SamplingChoice(sampler="heun", steps=3)


def test_the_recorded_command_runs_again_in_a_shell(toy: str, tmp_path: Path) -> None:
    out = tmp_path / "it's (here) [/b], ö=1"
    result = evaluate_expert(toy, out, "seed=20", "episodes_per_task=1")
    line = result["about"]["command"]
    assert line.startswith("evaluate-policy checkpoint=expert ")
    script = Path(sys.executable).with_name("evaluate-policy")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    (out / "results.json").unlink()
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {script.parent}/{line}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1 episodes were run before" in done.stderr
    again = json.loads((out / "results.json").read_text())
    assert again["about"]["command"] == line and again["episodes"] == result["episodes"]


def evaluate_expert(toy: str, out: Path, *overrides: str) -> dict[str, Any]:
    """Return what the scripted expert of the toy task reaches."""
    given = ["checkpoint=expert", f"out={out}", f"tasks=['{toy}']", "num_workers=0", *overrides]
    return run(compose(EvaluateConfig, "evaluate", given))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tasks=[reach-v2]"], "unknown task or tag 'reach-v2'; did you mean reach-v3"),
        (["checkpoint=nowhere"], "nowhere: no checkpoint directory there"),
        (["checkpoint=''"], "checkpoint is empty"),
        (["sampling=3"], "sampling '3' is not one of 1, 2, 4, 5, 10"),
        (["device=cuda:77"], "device=cuda:77 is asked for"),
        (["anchors=1"], "the policy has no anchors to begin from; train it with"),
        (["temperature=-1"], "temperature=-1.0 must be 0 or positive; 0 begins from the best"),
        (["precision=int9"], "precision='int9' is not one of .*; did you mean int8"),
        (
            ["precision=fp32_packed"],
            "precision=fp32_packed: no matrix of the denoiser is 256 or",
        ),
        (["prefixing=trained"], "trained without prefixes; use prefixing=guided"),
        (
            ["checkpoint=expert", "sampling=null", "anchors=2"],
            "anchors=2: the scripted expert do",
        ),
        (["checkpoint=expert", "sampling=3"], "sampling '3' is not one of"),
        (["compare=nowhere.json"], "no results at nowhere.json"),
        (["episodes_per_task=0"], "episodes_per_task=0 must be at least 1"),
        (["checkpoint=expert", "sampling=null", "videos=1"], "experts are not filmed"),
        (
            ["tasks=[reach-v3]", "episodes_per_task=1", "state=robot"],
            r"state has shape \(4,\), expected \(39,\) by the policy",
        ),
    ],
)
def test_bad_input_is_one_line(
    overrides: list[str], says: str, metaworld_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        evaluate(metaworld_checkpoint, tmp_path, *overrides)
    assert "\n" not in str(error.value)


def test_another_file_is_not_compared_with(toy: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": "something else"}')
    with pytest.raises(ValueError, match="format is 'something else', expected"):
        evaluate_expert(toy, tmp_path / "out", f"compare={tmp_path}")


def command(toy: str, checkpoint: Path, out: Path, *overrides: str) -> list[str]:
    """Return the command line of an evaluation on the toy task."""
    words = [f"checkpoint={checkpoint}", f"tasks=['{toy}']", f"out={out}", *FAST, *overrides]
    return [sys.executable, "-m", "telic.evaluate", *words]


def environment() -> dict[str, str]:
    """Return an environment in which the toy task can be imported."""
    path = [str(Path(__file__).parents[1] / "envs"), *filter(None, sys.path)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def test_without_rendering_the_figures_stand_alone(
    toy: str, toy_checkpoint: Path, tmp_path: Path
) -> None:
    words = command("toy_tasks:toy/sum", toy_checkpoint, tmp_path, "videos=1")
    off = environment() | {"MUJOCO_GL": "disable"}
    done = subprocess.run(words, env=off, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no videos: cannot draw camera pictures" in done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["videos"] == {}


def test_ctrl_c_leaves_a_partial_table(toy_checkpoint: Path, tmp_path: Path) -> None:
    toy = "toy_tasks:toy/sum"
    log = tmp_path / "episodes.jsonl"
    words = command(toy, toy_checkpoint, tmp_path, "seed=1000", "episodes_per_task=100000")
    output, errors = interrupted(words, environment(), log, lines=12, within_s=60)
    assert "unfinished" in output
    assert errors.strip().splitlines()[-1] == "evaluate: stopped by SIGINT"
    result = json.loads((tmp_path / "results.json").read_text())
    assert not result["complete"]
    assert len(result["episodes"]) == len(log.read_text().splitlines()) - 1
