"""Rollouts while training: crashes are named, and never end the training."""

import math
from dataclasses import replace

import pytest

from telic.envs.evaluation.selection import SelectionRollouts
from telic.envs.rollout.baselines import RandomPolicy
from telic.spec import ArraySpec, Interface

TOY = Interface(
    state=ArraySpec(shape=(2,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


def test_a_crash_is_named_and_counted_apart(toy: str) -> None:
    rollouts = SelectionRollouts(tasks=[toy], episodes_per_task=3, seed=969, execute_horizon=None)
    with pytest.warns(UserWarning, match=r"1 of 3 .* crashed: toy_tasks:toy/sum, seed 969: step 3"):
        measured = rollouts.measure(RandomPolicy(interface=TOY))
    assert measured["crashed"] == 1
    assert measured["success"] + measured["failure_rate"] == 1


def test_where_all_crash_any_other_checkpoint_is_better(toy: str) -> None:
    rollouts = SelectionRollouts(tasks=[toy], episodes_per_task=5, seed=960, execute_horizon=None)
    with pytest.warns(UserWarning, match=r"5 of 5 .* seed 962: .*; and 2 more"):
        measured = rollouts.measure(RandomPolicy(interface=TOY))
    assert measured == {"failure_rate": math.inf, "crashed": 5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["reach-v2"]}, "rollouts.tasks: unknown task or tag 'reach-v2'; did you mean r"),
        ({"episodes_per_task": 0}, "rollouts.episodes_per_task=0 must be at least 1"),
        ({"seed": -1}, "rollouts.seed=-1 must be at least 0"),
        ({"execute_horizon": 0}, "rollouts.execute_horizon=0 must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionRollouts(**settings)  # type: ignore[arg-type]


def test_tasks_that_do_not_fit_the_policy_are_refused_before_training(toy: str) -> None:
    rollouts = SelectionRollouts(tasks=[toy], execute_horizon=1)
    rollouts.require(RandomPolicy(interface=TOY))
    other = replace(TOY, state=ArraySpec(shape=(5,)))
    with pytest.raises(ValueError, match=r"^rollouts.tasks: task toy_tasks:toy/sum: state"):
        rollouts.require(RandomPolicy(interface=other))
