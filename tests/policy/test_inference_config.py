"""What commands choose of a trained policy: all of it is checked before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.sampling import preset
from telic.policy.inference.precision import PackedLinear
from telic.policy.inference.prefix import PrefixConfig, Prefixing
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.inference_config import Inference
from telic.policy.policy import Policy
from telic.spec import ActionChunk, ActRequest, ArraySpec, Interface

Build = Callable[[PolicyConfig], Policy]
WIDE = ModeConfig(width=256, num_layers=1, num_heads=2, feed_forward=256)


class Still:
    """A policy that does not denoise: it answers 0."""

    interface = Interface(state=ArraySpec(shape=(5,)), action=ArraySpec(shape=(3,)), rate_hz=20.0)
    obs_horizon = 1
    action_horizon = 4

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        zeros = np.zeros((4, 3), np.float32)
        return [ActionChunk(actions=zeros, t_obs_ns=0, dt_ns=1) for _ in requests]


def policy_config(**parts: Any) -> PolicyConfig:
    config = PolicyConfig(action_horizon=6, **parts)
    config.images.cameras = []
    return config


def test_what_is_chosen_is_what_acts(build: Build, make_requests: Any) -> None:
    anchors = TruncatedConfig(count=3, sigma_trunc=0.3)
    config = policy_config(denoiser=WIDE, anchors=anchors, prefix=PrefixConfig(max_delay=2))
    policy = build(config).eval()
    chosen = Inference(
        sampling="2", anchors=2, temperature=0.5, precision="fp32_packed", prefixing="none"
    )
    chosen.apply(policy, "it")
    assert policy.sampling == preset("2") and policy.prefixer.way is Prefixing.none
    assert policy.start == StartConfig(best=2, temperature=0.5)
    assert any(isinstance(m, PackedLinear) for m in policy.denoiser.modules())
    assert len(policy.act_batch(make_requests(config))) == 3


def test_without_a_choice_it_acts_as_before(build: Build, make_requests: Any) -> None:
    policy = build(policy_config()).eval()
    requests = make_requests(policy.config)
    before = policy.act_batch(requests)
    Inference().apply(policy, "it")
    for a, b in zip(before, policy.act_batch(requests), strict=True):
        assert np.array_equal(a.actions, b.actions)
    Inference().apply(Still(), "it")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"sampling": "3"}, "sampling '3' is not one of 1, 2, 4, 5, 10"),
        ({"precision": "int9"}, "precision='int9' is not one of .*; did you mean int8"),
        ({"prefixing": "guide"}, "prefixing='guide' is not one of .*; did you mean guided"),
        ({"anchors": -1}, "anchors=-1 to begin from must be 0 or more; 0 begins at noise alone"),
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 or positive; 0 begins from the best"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 or positive"),
    ],
)
def test_no_policy_is_needed_to_refuse_a_bad_name(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Inference(**choice)
    assert "\n" not in str(caught.value)


def test_what_a_policy_does_not_allow_is_one_line(build: Build) -> None:
    anchors = TruncatedConfig(count=3, sigma_trunc=20.0)
    cases: list[tuple[PolicyConfig, dict[str, Any], str]] = [
        (policy_config(), {"anchors": 1}, "no anchors to begin from; train it with policy.anchors"),
        (policy_config(), {"temperature": 1.0}, "has no anchors to begin from"),
        (policy_config(), {"prefixing": "trained"}, "without prefixes; use prefixing=guided"),
        (
            policy_config(),
            {"precision": "int8"},
            "precision=int8: no matrix of the denoiser is",
        ),
        (policy_config(anchors=anchors), {"anchors": 100}, "100 anchors are asked for, the policy"),
        (policy_config(anchors=anchors), {"anchors": 0}, "needs an anchor to begin from; ask for"),
        (
            policy_config(anchors=anchors),
            {"sampling": "2"},
            "sigma_trunc=20 lies outside of the schedule, which goes from 5 to 0; choose another",
        ),
        (
            policy_config(denoiser=WIDE),
            {"precision": "int8", "prefixing": "guided"},
            "prefixing=guided differentiates the denoiser, and these numbers have no gradient;",
        ),
    ]
    for config, choice, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            Inference(**choice).apply(build(config).eval(), "it")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", [{"sampling": "2"}, {"anchors": 0}, {"precision": "fp32"}])
def test_who_does_not_denoise_is_asked_for_nothing(choice: dict[str, Any]) -> None:
    (name,) = choice
    with pytest.raises(ValueError, match=f"{name}=.*: the arm does not denoise; leave {name} out"):
        Inference(**choice).apply(Still(), "the arm")
