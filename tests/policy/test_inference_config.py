"""What commands choose of a trained policy: all of it is checked before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.sampling import SamplingConfig, preset
from telic.policy.inference.precision import PackedLinear
from telic.policy.inference.prefix import PrefixConfig, Prefixing
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.inference_config import InferenceConfig, SamplingChoice
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
    chosen = InferenceConfig(
        sampling=SamplingChoice(preset="2"),
        anchors=2,
        temperature=0.5,
        precision="fp32_packed",
        prefixing="none",
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
    InferenceConfig().apply(policy, "it")
    for a, b in zip(before, policy.act_batch(requests), strict=True):
        assert np.array_equal(a.actions, b.actions)
    InferenceConfig().apply(Still(), "it")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"sampling": SamplingChoice(preset="3")}, "sampling '3' is not one of 1, 2, 4, 5, 10"),
        ({"precision": "int9"}, "precision='int9' is not one of .*; did you mean int8"),
        ({"prefixing": "guide"}, "prefixing='guide' is not one of .*; did you mean guided"),
        ({"anchors": -1}, "anchors=-1 to begin from must be 0 or more; 0 begins at noise alone"),
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 or positive; 0 begins from the best"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 or positive"),
    ],
)
def test_no_policy_is_needed_to_refuse_a_bad_name(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        InferenceConfig(**choice).require_known()
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
            {"sampling": SamplingChoice(preset="2")},
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
            InferenceConfig(**choice).apply(build(config).eval(), "it")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "choice", [{"sampling": SamplingChoice(preset="2")}, {"anchors": 0}, {"precision": "fp32"}]
)
def test_who_does_not_denoise_is_asked_for_nothing(choice: dict[str, Any]) -> None:
    (name,) = choice
    with pytest.raises(ValueError, match=f"{name}=.*: the arm does not denoise; leave {name} out"):
        InferenceConfig(**choice).apply(Still(), "the arm")


OWN = {
    "exponential": SamplingConfig(steps=5, sigma_max=40.0),
    "karras": SamplingConfig(schedule="karras", steps=4, sigma_min=0.02),
    "flow": SamplingConfig(schedule="flow", shift=3.0),
    "timesteps": SamplingConfig(schedule="timesteps"),
}
CHOICE = SamplingChoice(sampler="heun", steps=3)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_a_chosen_sampler_acts_as_one_that_was_trained_with(
    name: str, anchored: bool, build: Build, make_requests: Any
) -> None:
    anchors = TruncatedConfig(count=3, sigma_trunc=0.3) if anchored else TruncatedConfig()
    config = policy_config(anchors=anchors, sampling=OWN[name])
    chosen = build(config).eval()
    trained = build(replace(config, sampling=replace(OWN[name], sampler="heun", steps=3)))
    trained.eval().load_state_dict(chosen.state_dict())
    requests = make_requests(config)
    before = chosen.act_batch(requests)
    InferenceConfig(sampling=CHOICE).apply(chosen, "it")
    assert chosen.sampling == trained.sampling and chosen.sampling.title == "heun, 3 steps"
    pairs = list(zip(chosen.act_batch(requests), trained.act_batch(requests), strict=True))
    assert all(np.array_equal(ours.actions, theirs.actions) for ours, theirs in pairs)
    assert not any(
        np.array_equal(a.actions, b.actions) for a, (b, _) in zip(before, pairs, strict=True)
    )
    if anchored:
        levels = chosen.sampling.truncated(0.3).levels()
        assert len(levels) == 4 and float(levels[0]) <= 0.3 * (1 + 1e-6)


def test_a_sampler_and_a_schedule_go_with_a_named_sampling() -> None:
    own = SamplingConfig(schedule="karras", steps=7, eta=0.5)
    heun = SamplingChoice(preset="2", sampler="heun").of(own)
    assert heun == replace(preset("2"), sampler="heun")
    listed = SamplingChoice(sigmas=[3.0, 1.0, 0.2]).of(own)
    assert listed.steps == 3 and listed.levels().tolist() == pytest.approx([3.0, 1.0, 0.2, 0.0])
    flow = SamplingChoice(preset="2", schedule="flow", steps=3).of(own)
    assert (flow.schedule, flow.steps, flow.sigmas) == ("flow", 3, None)
    assert SamplingChoice().of(own) == own


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"steps": 0}, "sampling.steps=0 must be at least 1"),
        (
            {"preset": "2", "steps": 3},
            "the schedule of sampling=2 is a list of sigmas, .5.0, 0.5.;",
        ),
        ({"sigmas": [2.0], "steps": 3}, "sampling.sigmas=.2.0. says all of the schedule; leave"),
        ({"sigmas": [1.0, 2.0]}, "sigmas=.1.0, 2.0. must be positive and strictly falling"),
        (
            {"schedule": "timesteps", "steps": 1000},
            "sampling.steps=1000 must be at most 999",
        ),
    ],
)
def test_a_choice_that_no_schedule_has_is_one_line(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        InferenceConfig(sampling=SamplingChoice(**choice)).require_known()
    assert "\n" not in str(caught.value)


def test_steps_of_a_policy_trained_on_a_list_need_a_schedule(build: Build) -> None:
    policy = build(policy_config(sampling=preset("2"))).eval()
    with pytest.raises(ValueError, match="the schedule of the checkpoint is a list of sigmas"):
        InferenceConfig(sampling=SamplingChoice(steps=3)).apply(policy, "it")
    InferenceConfig(sampling=SamplingChoice(sampler="heun")).apply(policy, "it")
    assert policy.sampling == replace(preset("2"), sampler="heun")


def test_a_sampler_is_refused_of_who_does_not_denoise() -> None:
    with pytest.raises(ValueError, match=r"sampling.steps=3: the arm does not denoise"):
        InferenceConfig(sampling=SamplingChoice(steps=3)).apply(Still(), "the arm")
