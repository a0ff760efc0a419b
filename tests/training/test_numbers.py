"""Every number that training is given: what no run can use is refused, by its key, at once."""

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from telic.build_anchors import BuildAnchorsConfig
from telic.configs.launch import compose
from telic.policy.denoisers.denoiser import DenoiserConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.routing.routings import ROUTINGS
from telic.train_baseline import TrainBaselineConfig
from telic.training.config import TrainConfig
from telic.training.robomimic_baseline import RobomimicConfig

SIGNED = {"logit_mean", "hysteresis"}  # below 0 is a meaning of theirs


def every_config(schema: type[Any], seen: set[type[Any]] | None = None) -> Iterator[type[Any]]:
    """Yield a config dataclass and those of its fields, each once."""
    seen = set() if seen is None else seen
    if schema in seen:
        return
    seen.add(schema)
    yield schema
    for hint in get_type_hints(schema).values():
        for part in get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from every_config(part, seen)


def numbers(schema: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    """Yield name and type of each field that is an int or a float, or may be."""
    hints = get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint = hints[entry.name]
        for part in get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
            if part in (int, float):
                yield entry.name, part


SCHEMAS = [
    *every_config(TrainConfig),
    *every_config(TrainBaselineConfig),
    *every_config(RobomimicConfig),
    *every_config(BuildAnchorsConfig),
    *KINDS.values(),
    *FORMULATIONS.values(),
    *ROUTINGS.values(),
]
NONSENSE = {int: [-1], float: [float("nan"), float("inf"), -1.0]}
CASES = {
    f"{schema.__module__.rpartition('.')[2]}.{schema.__name__}.{name}={value}": (
        schema,
        name,
        value,
    )
    for schema in SCHEMAS
    if schema is not DenoiserConfig  # a base
    for name, kind in numbers(schema)
    for value in NONSENSE[kind]
    if not (value == -1 and name in SIGNED)
}


def complete(schema: type[Any], **changed: Any) -> Any:
    """Return a config of `schema` at its defaults but for `changed`."""
    if schema is TrainConfig:
        changed["data"] = schema.__dataclass_fields__["data"].default_factory()
        changed["data"].stores = ["demos.zarr"]
    if schema is BuildAnchorsConfig:
        changed["stores"] = ["demos.zarr"]
    return schema(**changed)


@pytest.mark.parametrize("case", CASES)
def test_no_number_is_nan_infinite_or_negative(case: str) -> None:
    schema, name, value = CASES[case]
    complete(schema)
    with pytest.raises(ValueError, match=rf"{name}=") as error:
        complete(schema, **{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "steps=0",
        "batch_size=0",
        "accumulate=0",
        "threads=0",
        "log_every=0",
        "checkpoint_every=0",
        "data.future_steps=0",
        "data.held_out_windows=0",
        "policy.denoiser.width=0",
        "policy.denoiser.num_heads=0",
        "policy.denoiser.num_layers=0",
        "policy.denoiser.feed_forward=0",
        "policy.obs_horizon=0",
        "policy.action_horizon=0",
        "policy.sampling.steps=0",
        "policy.foresight.patch=0",
        "policy.future.num_heads=0",
        "policy.alignment.num_heads=0",
        "policy.images.clip.patch=0",
        "policy.images.perceiver.latents=0",
        "policy.goal.language.dim=0",
        "optimizer.learning_rate=0",
        "rollouts.episodes_per_task=0",
        "rollouts.max_steps=0",
        "optimizer.betas=[0.9]",
        "optimizer.betas=[0.9,1.0]",
        "out=' '",
        "seed=4294967296",
    ],
)
def test_what_no_run_can_be_made_of_is_refused_by_its_key(override: str) -> None:
    key = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"{key}(=| is empty)"):
        compose(TrainConfig, "train", ["data.stores=[demos.zarr]", "policy=mode", override])


def test_rollouts_of_an_unknown_task_are_found_at_once() -> None:
    with pytest.raises(ValueError, match=r"rollouts.tasks: unknown task .*did you mean"):
        compose(TrainConfig, "train", ["data.stores=[a.zarr]", "rollouts.tasks=[arm7/reahc]"])
