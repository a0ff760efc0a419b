"""`run-recipe`: every recipe composes for every command, runs through real ones, and sums up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telic.configs.launch import CONFIGS, compose
from telic.datasets.store import EpisodeStore
from telic.envs.evaluation.playtable import IN_A_ROW, ChainProtocol
from telic.envs.evaluation.protocol import EvaluationProtocol, TaskProtocol
from telic.envs.evaluation.results import Evaluation, Latency
from telic.envs.playtable.protocol import evaluation_chains
from telic.envs.rollout.rollout import EpisodeResult
from telic.evaluate import EvaluateConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.recipe import COMMANDS, RecipeConfig, Stage, run, stages, summarize, table
from telic.train import TrainConfig

RECIPES = sorted(path.stem for path in (CONFIGS / "recipe" / "experiment").glob("*.yaml"))
PLAYTABLE = [name for name in RECIPES if name.startswith("playtable")]
TOY = [
    "experiment=debug",
    "control_task=null",
    "collect.num_workers=0",
    "train.threads=1",
    "evaluate.threads=1",
    "evaluate.num_workers=0",
    "evaluate.tasks=[reach-v3]",
]


def planned(*overrides: str) -> list[Stage]:
    """Return the stages that this command line runs."""
    return list(stages(compose(RecipeConfig, "recipe", overrides)))


def command_lines(*overrides: str) -> list[str]:
    """Return what this command line runs, as it prints it."""
    return [
        " ".join([COMMANDS[stage.command].script, *stage.arguments])
        for stage in planned(*overrides)
    ]


def launched(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Return the command, started in `tmp_path`."""
    return subprocess.Popen(
        [sys.executable, "-m", "telic.recipe", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage_of_every_recipe_composes(recipe: str) -> None:
    found = planned(f"experiment={recipe}")
    for stage in found:
        stage.require_composes()
    assert {stage.command for stage in found} >= {"collect", "train", "evaluate"}


def test_without_a_name_it_is_the_demo_and_that_runs_what_it_always_ran() -> None:
    demo = [
        "collect-demos experiment=metaworld_mt10 out=runs/demo/demos.zarr resume=true",
        "train-policy experiment=metaworld_mt10 out=runs/demo "
        "data.stores=[runs/demo/demos.zarr] resume=true",
        "evaluate-policy experiment=metaworld_mt10 checkpoint=runs/demo/checkpoints/best "
        "sampling=10 out=runs/demo/eval_10",
        "evaluate-policy experiment=metaworld_mt10 checkpoint=runs/demo/checkpoints/best "
        "sampling=2 out=runs/demo/eval_2",
        "control-daemon checkpoint=runs/demo/checkpoints/best task=drawer-open-v3 sampling=2 "
        "duration_s=10.0 out=runs/demo/control.json overwrite=true",
    ]
    assert command_lines("experiment=metaworld_mt10", "out=runs/demo") == demo
    assert command_lines("out=runs/demo") == demo


@pytest.mark.parametrize("recipe", PLAYTABLE)
@pytest.mark.parametrize(("policy", "kind"), [(None, MdtConfig), ("mode", ModeConfig)])
def test_playtable_trains_either_kind(recipe: str, policy: str | None, kind: type) -> None:
    chosen = [] if policy is None else [f"train.policy={policy}"]
    train = next(s for s in planned(f"experiment={recipe}", *chosen) if s.command == "train")
    config = compose(TrainConfig, "train", train.arguments)
    assert isinstance(config.policy.denoiser, kind)
    assert config.policy.action_horizon == 10
    assert config.policy.goal.images == ("image" in recipe)


def test_more_for_a_stage_follows_what_the_recipe_says() -> None:
    tasks, play, train, evaluate = command_lines(
        "experiment=playtable_state",
        "out=here",
        "collect.num_workers=0",
        "collect.play.scenes=[A,B]",
        "train.policy=mode",
        "train.policy.angles=['*_yaw']",
        "evaluate.num_chains=2",
    )
    ends = "num_workers=0 out=here/tasks.zarr resume=true"
    assert tasks == f"collect-demos env=playtable scenes=[D] episodes_per_task=100 {ends}"
    assert "scenes=[D] episodes_per_task=1200 num_workers=0 scenes=[A,B] out=here/play" in play
    assert train == (
        "train-policy experiment=playtable_state policy=mdt policy=mode policy.angles=['*_yaw'] "
        "out=here data.stores=[here/tasks.zarr,here/play.zarr] resume=true"
    )
    assert evaluate.startswith("evaluate-policy experiment=playtable_state num_chains=2 checkpoint")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("collect.plya.scenes=[D]", "collect.plya: the recipe collects tasks, play; did you mean"),
        ("collect.play=[mode=play]", "collect.play is a store; give it collect.play.KEY=VALUE"),
        ("train.out=elsewhere", "train.out=elsewhere: run-recipe says where things lie"),
        ("collect.tasks.overwrite=true", "collect.tasks.overwrite=true: run-recipe says where"),
        ("samplings=[]", "samplings must not be empty; choose a recipe"),
    ],
)
def test_what_a_recipe_cannot_be_given(override: str, says: str) -> None:
    with pytest.raises(ValueError) as raised:
        planned("experiment=playtable_state", override)
    assert says in str(raised.value)


def test_a_mistake_in_a_late_stage_is_found_before_the_first_begins(tmp_path: Path) -> None:
    given = ["experiment=playtable_state", f"out={tmp_path / 'out'}", "evaluate.num_chain=2"]
    with pytest.raises(
        ValueError, match=r"^evaluate_2: num_chain is .* did you mean num_chains\?$"
    ):
        run(compose(RecipeConfig, "recipe", given))
    assert not list(tmp_path.iterdir())


def test_a_recipe_interrupted_goes_on_to_its_end(tmp_path: Path) -> None:
    with launched(tmp_path, *TOY, "out=toy") as process:
        try:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("$ collect-demos"):
                assert line, "it ended before it collected"
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "toy" / "checkpoints").exists()
    out = tmp_path / "toy"
    summary = run(compose(RecipeConfig, "recipe", [*TOY, f"out={out}"]))
    assert EpisodeStore.open(out / "demos.zarr").num_episodes == 4
    assert (out / "checkpoints" / "best" / "model.safetensors").is_file()
    assert summary["episodes"] == {"2": 1}
    assert list(summary["per_task"]["2"]) == ["metaworld/reach-v3"]
    assert list(summary["seconds"]) == ["collect_demos", "train", "evaluate_2"]
    assert json.loads((out / "summary.json").read_text()) == summary


def measured(protocol: EvaluationProtocol, episodes: list[EpisodeResult]) -> dict[str, Any]:
    """Return the results.json of these episodes."""
    latency = Latency(median=3.0, p95=4.0, calls=100)
    return Evaluation(
        policy="mdt", protocol=protocol, episodes=episodes, chunk_latency_ms=latency
    ).to_json()


def episode(task: str, seed: int, success: bool, goal_steps: list[int]) -> EpisodeResult:
    """Return how an episode of 400 steps went."""
    return EpisodeResult(
        task=task,
        seed=seed,
        instruction="",
        success=success,
        steps=400,
        first_success_step=400 if success else None,
        crashed=None,
        policy_latency_ms=[],
        wall_s=1.0,
        goal_steps=goal_steps,
    )


def shown(summary: dict[str, Any]) -> dict[str, list[str]]:
    """Return first cell -> the other cells of each row of the summary's table."""
    label, *columns = [list(column.cells) for column in table(summary).columns]
    return dict(zip(label, map(list, zip(*columns, strict=True)), strict=True))


def test_the_summary_of_chains() -> None:
    done = {"10": (0, 2, 5), "2": (0, 0, 1)}  # tasks of each chain
    protocol = ChainProtocol(num_chains=3)
    results = {
        name: measured(
            protocol,
            [
                episode(
                    "playtable/lh_mtlc", chain, count == 5, [60 * (i + 1) for i in range(count)]
                )
                for chain, count in enumerate(counts)
            ],
        )
        for name, counts in done.items()
    }
    summary = summarize(results, None)
    assert summary["in_a_row"]["10"] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert summary["in_a_row"]["2"] == pytest.approx([1 / 3, 0, 0, 0, 0])
    assert summary["average_length"]["10"]["mean"] == pytest.approx(7 / 3)
    rows = shown(summary)
    met = {task for chain in evaluation_chains(3) for task in chain.tasks}
    assert list(rows)[-7:-1] == [*IN_A_ROW, "average length [95 %]"]
    assert set(list(rows)[:-7]) == met
    assert rows["1 in a row"] == ["0.667", "0.333"]
    assert [cell[:5] for cell in rows["average length [95 %]"]] == ["2.333", "0.333"]
    first, never = evaluation_chains(3)[0].tasks[:2]
    assert rows[first][1] == "0.00"
    assert rows[never][1] == "-"


def test_the_summary_of_success_rates() -> None:
    protocol = TaskProtocol(tasks=["a", "b"], episodes_per_task=2, seed=0, max_steps=400)
    won = [episode("a", 0, True, []), episode("a", 1, True, []), episode("b", 0, True, [])]
    summary = summarize({"2": measured(protocol, [*won, episode("b", 1, False, [])])}, None)
    assert "average_length" not in summary
    assert shown(summary) == {
        "a": ["1.00"],
        "b": ["0.50"],
        "all (Wilson 95 %)": ["0.750 [0.301, 0.954]"],
        "chunk latency, median ms": ["3.0"],
    }


def test_a_folder_with_any_name_and_plain_text_reach_the_stages() -> None:
    folder = "runs/it's (here), ö=1"
    added = ["train.wandb.project=what's (this), a=b", "evaluate.device=it's"]
    config = compose(RecipeConfig, "recipe", ["experiment=debug", f"out={folder}", *added])
    assert config.more == {
        "train": ["wandb.project=what's (this), a=b"],
        "evaluate": ["device=it's"],
    }
    for stage in stages(config):
        if stage.name == "train":
            made = compose(TrainConfig, stage.command, stage.arguments)
            assert (made.out, made.wandb.project) == (folder, "what's (this), a=b")
            assert made.data.stores == [f"{folder}/demos.zarr"]
        if stage.command == "evaluate":
            told = compose(EvaluateConfig, stage.command, stage.arguments)
            assert (told.out, told.device) == (f"{folder}/eval_2", "it's")
