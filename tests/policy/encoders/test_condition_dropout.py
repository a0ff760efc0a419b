"""What training hides is replaced by what inference shows where a condition is absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.encoders.condition_dropout import ConditionDropoutConfig, hide, hide_frames
from telic.policy.encoders.images import ImageConfig
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES
from telic.spec import FieldStats

SIZE, SHARE = 64, 0.5
Build = Callable[[PolicyConfig], Policy]


def config(cameras: list[str] | None = None, **shares: float) -> PolicyConfig:
    """Return a small RDT that hides these shares; its towers do not shift pictures."""
    return PolicyConfig(
        denoiser=RdtConfig(width=32, num_layers=2, num_heads=2),
        images=ImageConfig(cameras=cameras or [], tower="keypoint_conv", random_shift=0),
        condition_dropout=ConditionDropoutConfig(**shares),
    )


def encoded(policy: Policy, batch: dict[str, Any], seed: int = 0) -> Context:
    """Return what training makes of a batch."""
    with torch.no_grad():
        return policy.train().encode(batch, torch.Generator().manual_seed(seed))


def hidden_rows(values: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """Return which rows are `plain`."""
    return (values == plain).flatten(1).all(1)


def test_the_state_becomes_the_mean_state(
    build: Build, make_batch: Any, stats: dict[str, FieldStats]
) -> None:
    hiding = config(state=SHARE)
    batch = make_batch(hiding, SIZE)
    state = encoded(build(hiding), batch).state
    open_state = encoded(build(config()), batch).state
    mean = torch.from_numpy(stats["state"].mean.astype(np.float32)).expand_as(batch["state"])
    mean_state = encoded(build(config()), {**batch, "state": mean}).state
    hidden = hidden_rows(state, mean_state)
    assert torch.equal(state[~hidden], open_state[~hidden])
    assert SIZE / 4 < hidden.sum() < 3 * SIZE / 4


def test_the_rate_becomes_unknown(build: Build, make_batch: Any) -> None:
    hiding = config(rate=SHARE)
    rate = encoded(build(hiding), make_batch(hiding, SIZE)).rate_hz
    assert rate is not None
    assert set(rate.tolist()) == {0.0, 20.0}


def test_frames_become_plain_each_by_itself(build: Build, make_batch: Any) -> None:
    policy = build(config(cameras=["front", "wrist"], images=SHARE))
    batch = make_batch(policy.config, SIZE)
    assert policy.conditioner.image_encoder is not None
    frames = {camera: batch[f"image/{camera}"] for camera in ("front", "wrist")}
    colours = {c: policy.conditioner.image_encoder.tower(i).mean for i, c in enumerate(frames)}
    shown = hide_frames(frames, colours, SHARE, torch.Generator().manual_seed(0))
    hidden = {}
    for camera, pictures in shown.items():
        colour = (colours[camera] * 255).byte().flatten()
        hidden[camera] = hidden_rows(pictures, colour.expand_as(pictures))
        kept = ~hidden[camera]
        assert torch.equal(pictures[kept], frames[camera][kept])
        assert SIZE / 4 < kept.sum() < 3 * SIZE / 4
    assert not torch.equal(hidden["front"], hidden["wrist"])
    with torch.no_grad():
        tokens = policy.conditioner.image_encoder(shown)
    assert torch.equal(encoded(policy, batch).images, tokens)


def test_each_step_of_a_history_is_drawn_by_itself() -> None:
    frames = {"front": torch.zeros(SIZE, 2, 4, 4, 3, dtype=torch.uint8)}
    colours = {"front": torch.full((3, 1, 1), 0.5)}
    shown = hide_frames(frames, colours, SHARE, torch.Generator().manual_seed(0))["front"]
    hidden = (shown == 127).flatten(2).all(2)
    assert (hidden[:, 0] != hidden[:, 1]).any()


def test_inference_hides_nothing_and_no_share_draws_nothing(build: Build, make_batch: Any) -> None:
    hiding = config(state=SHARE, rate=SHARE)
    batch = make_batch(hiding, SIZE)
    policy = build(hiding).eval()
    with torch.no_grad():
        at_rest = policy.encode(batch, torch.Generator().manual_seed(0))
    assert torch.equal(at_rest.state, encoded(build(config()), batch).state)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    values = torch.ones(4, 2)
    assert hide(values, 0.0, 0.0, generator) is values
    assert torch.equal(generator.get_state(), before)


def test_the_published_rdt_hides_a_tenth_of_everything() -> None:
    published = POLICIES["rdt_published"]
    assert published.condition_dropout == ConditionDropoutConfig(
        images=0.1, state=0.1, action_mask=0.1, rate=0.1
    )
    assert published.goal.dropout == 0.1


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"policy.condition_dropout.state=.* must lie in \[0, 1\)"):
        ConditionDropoutConfig(state=share)
