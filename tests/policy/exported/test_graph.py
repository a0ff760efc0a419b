"""A policy as one traced function: the same chunks as the policy, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.encoders.towers import KEYPOINT_CONV
from telic.policy.exported.graph import GraphSettings, PolicyGraph
from telic.policy.inference.prefix import PrefixConfig
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.policy import Policy
from telic.policy.routing.routings import ROUTINGS
from telic.spec import ActRequest, Goal

Build = Callable[[PolicyConfig], Policy]
TWO = SamplingConfig(sigmas=[5.0, 0.5])
BLIND = ImageConfig(cameras=[])
SEEING = ImageConfig(tower=KEYPOINT_CONV, pooling=Pooling.keypoints)


def require_same(
    policy: Policy, requests: list[ActRequest], settings: GraphSettings | None = None
) -> None:
    """Trace the policy and compare its chunks with those of `act_batch`."""
    settings = settings or GraphSettings(goal="text", batch=len(requests))
    policy.eval()
    graph = PolicyGraph(policy, settings)
    traced = torch.export.export(graph, graph.examples(), strict=False).module()
    fields = inputs_of(policy, graph, requests)
    with torch.no_grad():
        got = traced(*(fields[spec.name] for spec in graph.inputs)).numpy()
    wanted = policy.act_batch(requests)
    np.testing.assert_allclose(got, [chunk.actions for chunk in wanted], rtol=0, atol=1e-5)


def inputs_of(
    policy: Policy, graph: PolicyGraph, requests: list[ActRequest]
) -> dict[str, torch.Tensor]:
    """The graph's inputs for the requests, made by the policy's own parts."""
    from telic.policy.noise import gumbel, uniform_values, unit_noise

    batch: dict[str, Any] = dict(
        policy._batcher.collate(requests, policy.prefixer, policy.denoiser)
    )
    if graph.settings.goal == "text":
        vectors = policy.embed(batch["text"])
        batch["sentence"] = torch.from_numpy(np.stack([vectors[text] for text in batch["text"]]))
    batch["noise"] = unit_noise(requests, (policy.action_horizon, policy.action_dim))[0]
    if policy.num_uniforms:
        batch["gumbel_noise"] = gumbel(uniform_values(requests, policy.num_uniforms))
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(
    kind: str, build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    config = PolicyConfig(denoiser=KINDS[kind].small(), images=SEEING, sampling=TWO, obs_horizon=2)
    require_same(build(config), make_requests(config))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing(
    routing: str, build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    denoiser = replace(KINDS["mode"].small(), routing=ROUTINGS[routing].small())
    config = PolicyConfig(denoiser=denoiser, images=BLIND, sampling=TWO)
    require_same(build(config), make_requests(config))


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_every_formulation(
    formulation: str, build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    form = FORMULATIONS[formulation].small()
    config = PolicyConfig(formulation=form, images=BLIND, sampling=TWO)
    require_same(build(config), make_requests(config))


@pytest.mark.parametrize(
    "sampler", [n for n, s in SAMPLERS.items() if not (s.adds_noise or s.also)]
)
def test_every_sampler_without_noise(
    sampler: str, build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    sampling = SamplingConfig(sampler=sampler, sigmas=[5.0, 1.0, 0.2])
    config = PolicyConfig(images=BLIND, sampling=sampling)
    require_same(build(config), make_requests(config))


def test_a_goal_image_alone(build: Build, make_requests: Callable[..., list[ActRequest]]) -> None:
    goal = GoalConfig(images=True, image=SEEING)
    config = PolicyConfig(goal=goal, images=BLIND, sampling=TWO)
    policy, rng = build(config), np.random.default_rng(0)
    requests = make_requests(config)
    for request in requests:
        cameras = policy.conditioner.request_spec.goal_cameras
        images = {name: policy.interface.images[name].sample(rng) for name in cameras}
        request.goal = Goal(images=images)
    require_same(policy, requests, GraphSettings(goal="images", batch=len(requests)))


def test_a_prefix_that_is_fixed(
    build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    prefix = PrefixConfig(max_delay=2)
    config = PolicyConfig(images=BLIND, sampling=TWO, prefix=prefix, action_horizon=6)
    policy, requests = build(config), make_requests(config)
    rng = np.random.default_rng(3)
    for delay, request in enumerate(requests):
        request.prefix = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
        request.inference_delay = delay
    require_same(policy, requests)


def test_anchors_that_are_drawn(
    build: Build, make_requests: Callable[..., list[ActRequest]]
) -> None:
    start = StartConfig(best=2, temperature=1.0, hysteresis=None)
    anchors = replace(TruncatedConfig.small(), start=start)
    config = PolicyConfig(images=BLIND, sampling=TWO, anchors=anchors)
    policy = build(config)
    assert policy.truncated is not None
    policy.truncated.chunks.normal_()
    require_same(policy, make_requests(config))


def test_what_no_graph_does_is_one_line(build: Build) -> None:
    policy = build(PolicyConfig(images=BLIND, sampling=SamplingConfig(sampler="euler_ancestral")))
    with pytest.raises(ValueError, match=r"sampler=euler_ancestral draws noise in every step"):
        PolicyGraph(policy, GraphSettings(goal="text"))
    policy = build(PolicyConfig(images=BLIND))
    with pytest.raises(ValueError, match="--goal images: the policy was trained on goals by text"):
        PolicyGraph(policy, GraphSettings(goal="images"))
    policy.prefixer.use("guided")
    with pytest.raises(ValueError, match="prefixing=guided differentiates the denoiser"):
        PolicyGraph(policy, GraphSettings(goal="text"))
