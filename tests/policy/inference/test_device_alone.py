"""A chunk stays on its device and asks it for no number: what a CUDA graph can hold.

On torch's `meta` device a number that is asked for, and a tensor of another device, is an error, so
this much of the GPU's path is tried without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as meta_config

from telic.policy.chunk_sampler import ChunkInputs, ChunkSampling
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.inference.plan import Plan
from telic.policy.inference.prefix import Prefix, PrefixConfig
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.policy import Policy
from telic.policy.routing.routings import ROUTINGS

SAMPLINGS = {sampler: SamplingConfig(sampler=sampler, steps=3) for sampler in SAMPLERS}
DRAWN = TruncatedConfig(count=6, sigma_trunc=0.3, start=StartConfig(best=2, temperature=1.0))
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "anchors": {"anchors": DRAWN},
    "prefix": {"prefix": PrefixConfig(max_delay=2)},
    "anchors, prefix": {"anchors": DRAWN, "prefix": PrefixConfig(max_delay=2)},
}
PLAIN = SamplingConfig(steps=2)
BATCH = 2


@pytest.fixture(autouse=True)
def _meta_as_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `meta` have autocast, as every device that computes has, and count what is not zero.

    The count is asked for once for a schedule, before any graph.
    """
    autocast = torch.autocast

    def on_cpu(device_type: str, **settings: Any) -> Any:
        return autocast("cpu" if device_type == "meta" else device_type, **settings)

    monkeypatch.setattr(torch, "autocast", on_cpu)
    monkeypatch.setattr(meta_config, "meta_nonzero_assume_all_nonzero", True, raising=False)


def draw_on_meta(policy: Policy, batch: dict[str, Any], sampling: SamplingConfig) -> torch.Tensor:
    """Return a chunk drawn on `meta`, which has shapes but no numbers."""
    config = policy.config
    if config.anchors.on:
        assert config.anchors.sigma_trunc is not None
        sampling = sampling.truncated(config.anchors.sigma_trunc)
    shape = (BATCH, policy.action_horizon, policy.action_dim)
    fixed = torch.zeros(shape[:2], dtype=torch.bool, device="meta")
    prefix = None
    if config.prefix.max_delay:
        prefix = Prefix(actions=torch.zeros(shape, device="meta"), fixed=fixed, pull=None)
    with torch.inference_mode():
        draw = ChunkSampling(
            denoiser=policy.denoiser,
            plan=Plan(policy.denoiser, policy.formulation, sampling),
            sampling=sampling,
            padding=config.train_padding,
            truncated=policy.truncated,
            start=policy.start,
            beta=config.prefix.beta,
        )
        inputs = ChunkInputs(
            context=policy.encode(batch),
            noise=torch.zeros((sampling.num_draws, *shape), device="meta"),
            gumbel_noise=torch.zeros((BATCH, 6), device="meta") if config.anchors.on else None,
            prefix=prefix,
            anchored={
                "state": batch["state"],
                "prefix": torch.zeros(shape, device="meta"),
                "prefix_known": fixed,
            },
        )
        return draw.sample(inputs)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("routing", [None, *ROUTINGS])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_in_every_kind_and_routing(
    kind: str,
    routing: str | None,
    variant: str,
    build: Callable[[PolicyConfig], Policy],
    make_batch: Callable[..., dict[str, Any]],
) -> None:
    denoiser = KINDS[kind].small()
    denoiser.routing = None if routing is None else ROUTINGS[routing].small()
    config = PolicyConfig(denoiser=denoiser, **VARIANTS[variant])
    if variant != "plain":
        config.images.cameras = []  # the towers are in "plain"; no other variant changes them
    policy = build(config).eval()
    out = draw_on_meta(policy.to("meta"), on_meta(make_batch(policy.config, BATCH)), PLAIN)
    assert out.device.type == "meta"
    assert out.shape == (BATCH, policy.action_horizon, policy.action_dim)


@pytest.mark.parametrize("sampler", SAMPLINGS)
def test_in_every_sampler(
    sampler: str,
    build: Callable[[PolicyConfig], Policy],
    make_batch: Callable[..., dict[str, Any]],
) -> None:
    policy = build(PolicyConfig(denoiser=KINDS["mdt"].small())).eval().to("meta")
    batch = on_meta(make_batch(policy.config, BATCH))
    assert draw_on_meta(policy, batch, SAMPLINGS[sampler]).device.type == "meta"


def test_a_number_asked_for_is_found(
    build: Callable[[PolicyConfig], Policy], make_batch: Callable[..., dict[str, Any]]
) -> None:
    policy = build(PolicyConfig(denoiser=KINDS["mdt"].small())).eval().to("meta")
    batch = on_meta(make_batch(policy.config, BATCH))
    step = policy.denoiser.step

    def asking(x: torch.Tensor, *rest: Any) -> Any:
        return step(x * float(x.sum()), *rest)

    policy.denoiser.step = asking  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="item"):
        draw_on_meta(policy, batch, PLAIN)


def on_meta(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch whose tensors have shapes alone."""
    return {k: v.to("meta") if torch.is_tensor(v) else v for k, v in batch.items()}
