"""Numbers and blanks on the command lines of evaluation and collection: one line names the key."""

from typing import Any

import pytest

from telic.collect import CollectConfig
from telic.configs.launch import compose
from telic.envs.rollout.rollout import RolloutConfig
from telic.evaluate import EvaluateConfig
from telic.policy.inference_config import SamplingChoice
from telic.recipe import RecipeConfig
from telic.spec import Goal
from telic.train_baseline import TrainBaselineConfig

MADE: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "evaluate": (EvaluateConfig, {"checkpoint": "expert"}),
    "collect": (CollectConfig, {}),
    "train_baseline": (TrainBaselineConfig, {}),
    "recipe": (RecipeConfig, {"out": "runs/x", "collect": {"demos": []}}),
}


@pytest.mark.parametrize(
    ("command", "key", "value", "says"),
    [
        ("evaluate", "threads", 0, "threads=0 must be at least 1"),
        ("evaluate", "envs_per_worker", 0, "envs_per_worker=0 must be at least 1"),
        ("evaluate", "num_workers", -1, "num_workers=-1 must be at least 0"),
        ("evaluate", "videos", -1, "videos=-1 must be at least 0"),
        ("evaluate", "num_chains", 0, "num_chains=0 must be at least 1"),
        ("evaluate", "seed", -1, "seed=-1 must be at least 0"),
        ("evaluate", "temperature", float("nan"), "temperature=nan must be a finite number"),
        ("evaluate", "temperature", float("inf"), "temperature=inf must be a finite number"),
        ("evaluate", "out", "", "out='' is blank; give it a value, or leave it out"),
        ("evaluate", "out", " ", "out=' ' is blank"),
        ("evaluate", "compare", "", "compare='' is blank"),
        (
            "evaluate",
            "tasks",
            ["reach-v2"],
            "unknown task or tag 'reach-v2'; did you mean reach",
        ),
        ("evaluate", "tasks", [], "no tasks named"),
        ("evaluate", "sampling", SamplingChoice(preset="3"), "sampling '3' is not one of"),
        ("collect", "annotated", float("nan"), "annotated=nan must be at least 0 and at most 1"),
        ("collect", "num_workers", -1, "num_workers=-1 must be at least 0"),
        ("collect", "max_steps", 0, "max_steps=0 must be at least 1"),
        ("collect", "out", "", "out='' is blank"),
        ("collect", "env", "", "env='' is blank"),
        ("collect", "tasks", ["reach-v2"], "unknown task or tag 'reach-v2'"),
        ("train_baseline", "threads", 0, "threads=0 must be at least 1"),
        ("train_baseline", "minutes", float("inf"), "minutes=inf must be more than 0 and finite"),
        ("train_baseline", "minutes", -1.0, "minutes=-1.0 must be more than 0"),
        ("train_baseline", "seed", -1, "seed=-1 must be at least 0"),
        ("train_baseline", "out", "", "out='' is blank"),
        ("recipe", "control_s", 0.0, "control_s=0.0 must be more than 0"),
        ("recipe", "control_s", float("inf"), "control_s=inf must be more than 0 and finite"),
        ("recipe", "control_task", "reach-v2", "unknown task 'reach-v2'; did you mean reach-v3"),
        ("recipe", "samplings", ["10", "3"], "sampling '3' is not one of"),
        ("recipe", "out", " ", "out=' ' is blank"),
    ],
)
def test_what_cannot_be_is_one_line(command: str, key: str, value: object, says: str) -> None:
    schema, given = MADE[command]
    schema(**given)
    with pytest.raises(ValueError) as refused:
        schema(**(given | {key: value}))
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_blank_on_the_command_line_is_a_blank() -> None:
    with pytest.raises(ValueError, match="out='' is blank; give it a value, or leave it out"):
        compose(CollectConfig, "collect", ["out="])


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout_s", float("inf")), ("video_fps", 0.0), ("video_height", 0), ("num_workers", -1)],
)
def test_rollouts_name_their_keys(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"rollout.{name}={value} must be"):
        RolloutConfig(**{name: value})  # type: ignore[arg-type]


def test_a_sentence_must_say_something() -> None:
    with pytest.raises(ValueError, match="a goal's sentence must say something, it is ' '"):
        Goal(text=" ")
