"""Errors of configs within configs name their keys as a user types them."""

from __future__ import annotations

import pytest

from telic.build_anchors import BuildAnchorsConfig
from telic.configs.launch import compose
from telic.train import TrainConfig


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("policy.sampling.steps=0", "policy.sampling.steps=0 must be at least 1 and at most 10000"),
        ("policy.sampling.sigmas=[1,2]", "policy.sampling.sigmas=[1.0, 2.0] must be positive and"),
        ("policy.future.sampling.eta=3", "policy.future.sampling.eta=3.0 must lie between 0 and 1"),
        (
            "policy.future.edm.sigma_min=-1",
            "policy.future.edm.sigma_min=-1.0 and policy.future.edm",
        ),
        ("policy.state.std_floor=-1", "policy.state.std_floor=-1.0 must be more than 0"),
        ("policy.action.clamp=0", "policy.action.clamp=0.0 must be more than 0"),
        ("policy.images.absent=-1", "policy.images.absent=-1 must be at least 0"),
        ("policy.goal.image.absent=-1", "policy.goal.image.absent=-1 must be at least 0"),
        (
            "policy.goal.image.absent=1",
            "policy.goal.image.absent=1 needs policy.goal.image.share_t",
        ),
        ("policy.images.perceiver.depth=0", "policy.images.perceiver.depth=0 must be at least 1"),
        ("policy.goal.image.perceiver.depth=0", "policy.goal.image.perceiver.depth=0 must be at l"),
        ("policy.goal.image.clip.side=3", "policy.goal.image.clip.side=3 must be a multiple of"),
        ("policy.anchors.start.best=-1", "policy.anchors.start.best=-1 anchors to begin from must"),
        ("policy.prefix.max_delay=9", "policy.prefix.max_delay=9 must be below policy.action_hori"),
        ("data.held_out=2", "data.held_out=2.0 must lie in [0, 1)"),
    ],
)
def test_a_key_is_named_where_it_stands(given: str, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        compose(TrainConfig, "train", ["data.stores=[a]", given])
    assert str(refused.value).startswith(says) and "\n" not in str(refused.value)


def test_a_group_of_a_chosen_kind_is_named_likewise() -> None:
    given = ["data.stores=[a]", "policy/formulation=flow", "policy.formulation.t_max=2"]
    with pytest.raises(ValueError, match=r"^policy\.formulation\.t_max=2\.0 must lie between"):
        compose(TrainConfig, "train", given)


def test_a_key_of_the_command_itself_has_no_place() -> None:
    with pytest.raises(ValueError, match=r"^count=0 must be"):
        compose(BuildAnchorsConfig, "build_anchors", ["stores=[a]", "count=0"])
