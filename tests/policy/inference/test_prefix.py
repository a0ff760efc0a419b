"""Prefixes: what is fixed stays, what is pulled comes near the true conditional."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.denoiser import Denoiser, Fixed
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion import samplers
from telic.policy.diffusion.formulation import CLEAN_SIGMA, Formulation
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.samplers import Denoise
from telic.policy.diffusion.sampling import SamplingConfig, preset
from telic.policy.inference.plan import Plan
from telic.policy.inference.precision import Precision, quantize
from telic.policy.inference.prefix import (
    PrefixConfig,
    Prefixing,
    draw_fixed,
    guidance_weight,
    guided,
    held,
    overlap_weights,
)
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.policy import Policy
from telic.tests.policy.inference.test_plan import CONFIGS, MANY_IMAGES, context, lively

H, A, BETA = 6, 3, 5.0
REST = 16 * 80 * 2**-23  # what chunks of two batches may differ by: a few last bits at sigma 80
Build = Callable[[PolicyConfig], Policy]
SAMPLERS = [
    SamplingConfig(steps=4),
    *(
        SamplingConfig(sampler=name, steps=4)
        for name, sampler in samplers.SAMPLERS.items()
        if name != "euler" and not sampler.also
    ),
]


def policy_config(kind: str = "mode", **prefix: Any) -> PolicyConfig:
    """Return a policy without cameras whose chunks have 6 actions."""
    config = PolicyConfig(denoiser=KINDS[kind].small(), action_horizon=H)
    config.images.cameras = []
    config.prefix = PrefixConfig(**prefix)
    return config


def some_prefix(length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, 0.9, (length, A)).astype(np.float32)


# --- the same numbers as without, planned as plain -----------------------------------------------


def fixed_of(rows: int) -> Tensor:
    """Return 2, 0 and 5 fixed actions."""
    return torch.arange(H) < torch.tensor([2, 0, 5])[:rows, None]


def plainly(network: Denoiser, formulation: Formulation, memory: Any, fixed: Tensor) -> Denoise:
    """Return `denoise` as training sees it, each action with its own sigma."""
    told = Fixed(fixed, formulation.network_sigma(torch.tensor([CLEAN_SIGMA])))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        def answer(y: Tensor, _: Tensor) -> Tensor:
            return network(y, formulation.network_sigma(sigma), memory, None, told).actions

        return formulation.denoise(answer, x, torch.where(fixed, CLEAN_SIGMA, sigma))

    return denoise


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_planned_is_plain_with_a_prefix(name: str, rows: int) -> None:
    config = CONFIGS[name]
    formulation, sampling = config.default_formulation().build(), preset("4")
    for sizes in [None, MANY_IMAGES] if config.kind == "mode" else [None]:
        network = lively(config) if sizes is None else lively(config, sizes)
        memory = network.encode(context(rows, network.sizes))
        fixed, actions, noise = fixed_of(rows), torch.randn(rows, H, A), torch.randn(rows, H, A)
        plan = Plan(network, formulation, sampling)
        ways = (plan.begin(memory, fixed), plainly(network, formulation, memory, fixed))
        got, want = (sampling.sample(held(way, actions, fixed), noise) for way in ways)
        assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max()))
        untold = sampling.sample(held(plan.begin(memory), actions, fixed), noise)
        assert (untold - want)[0].abs().max() > 1e-4, "the level of its own counts"


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_no_action_fixed_is_plain_inference(name: str) -> None:
    network, x = lively(CONFIGS[name]), torch.randn(2, H, A)
    memory, sigma = network.encode(context(2)), torch.tensor([0.3, 7.0])
    told = Fixed(torch.zeros(2, H, dtype=torch.bool), torch.tensor([CLEAN_SIGMA]))
    want = network(x, sigma, memory).actions
    assert torch.allclose(network(x, sigma, memory, None, told).actions, want, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in CONFIGS if "published" not in n])
def test_all_actions_fixed_are_at_the_clean_level_alone(name: str) -> None:
    """Where nothing but actions knows sigma, the noisy level is then nowhere left."""
    network, x = lively(CONFIGS[name]), torch.randn(2, H, A)
    memory, sigma = network.encode(context(2)), torch.tensor([0.3, 7.0])
    told = Fixed(torch.ones(2, H, dtype=torch.bool), torch.tensor([0.05]))
    got = network(x, sigma, memory, None, told).actions
    clean = network(x, torch.tensor([0.05]), memory).actions
    in_stream = CONFIGS[name].kind in ("mode", "rdt")  # a token of the noisy level goes before
    assert torch.allclose(got, clean, atol=1e-5) != in_stream


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("formulation", sorted(FORMULATIONS))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_shows_the_first_actions_clean_and_asks_for_the_others(
    kind: str, formulation: str, build: Build, make_batch: Any
) -> None:
    config = policy_config(kind, max_delay=3)
    config.formulation = FORMULATIONS[formulation]()
    policy = build(config).train()
    batch = make_batch(config, size=64)
    seen: dict[str, Any] = {}
    step = policy.denoiser.step

    def watch(x: Tensor, level: Any, memory: Any) -> Any:
        seen.update(x=x, level=level, prediction=step(x, level, memory))
        return seen["prediction"]

    policy.denoiser.step = watch  # type: ignore[method-assign]
    terms = policy(batch, torch.Generator().manual_seed(0))
    mask = seen["level"].fixed.mask
    delays = mask.sum(1)
    assert set(delays.tolist()) == {0, 1, 2, 3}
    assert torch.equal(mask, torch.arange(H) < delays[:, None])
    clean = policy.action_normalizer.normalize(batch["action"])
    c_in = policy.formulation.scalings(torch.tensor(CLEAN_SIGMA)).c_in
    assert torch.allclose(seen["x"][mask], (c_in * clean)[mask], atol=1e-5)
    answer = seen["prediction"].actions
    (gradient,) = torch.autograd.grad(terms.diffusion, answer, retain_graph=True)
    assert torch.equal(gradient.abs().sum(2) > 0, ~mask)
    terms.total.backward()
    idle = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert policy.eval()(batch, torch.Generator()).sigma.shape == (64,)
    assert seen["level"].fixed is None, "only in training"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_without_prefixes_draws_and_computes_what_it_did(
    kind: str, build: Build, make_batch: Any
) -> None:
    """A chunk in which nothing happens to be fixed costs what it costs without."""
    plain, config = build(policy_config(kind)).train(), policy_config(kind, max_delay=3)
    other = build(config).train()
    other.load_state_dict(plain.state_dict())
    batch = make_batch(config, size=16)
    ours, theirs = (p(batch, torch.Generator().manual_seed(3)) for p in (other, plain))
    assert torch.equal(ours.sigma, theirs.sigma)
    mask = draw_fixed(3, 16, H, _after(plain, batch), torch.device("cpu"))
    free = ~mask.any(1)
    assert free.any() and not free.all()
    if kind != "mode":  # whose experts are drawn, and now more of them
        assert torch.allclose(ours.per_sample[free], theirs.per_sample[free], atol=1e-5)
    assert (ours.per_sample[~free] != theirs.per_sample[~free]).all()


def _after(policy: Policy, batch: dict[str, Any]) -> torch.Generator:
    """Return the generator as it is when a loss has drawn its noise."""
    generator = torch.Generator().manual_seed(3)
    policy.formulation.draw_sigma(16, generator, torch.device("cpu"))
    torch.randn(batch["action"].shape, generator=generator)
    return generator


def test_delays_are_drawn_evenly_for_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    delays = draw_fixed(3, 8000, 5, generator, torch.device("cpu")).sum(1)
    assert torch.allclose(delays.bincount() / 8000, torch.full((4,), 0.25), atol=0.02)


def test_it_learns_to_go_on_from_what_is_fixed(build: Build, make_batch: Any) -> None:
    """Chunks are one of two by a coin. From a fixed action on, the coin is known."""
    config = policy_config(max_delay=2)
    policy = build(config).train()
    generator = torch.Generator().manual_seed(0)
    batch, shown = make_batch(config, size=64), make_batch(config, size=256)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(80):
        coin = torch.randint(2, (64, 1, 1), generator=generator)
        batch["action"] = (0.6 - 1.2 * coin).expand(64, H, A).float()
        optimizer.zero_grad()
        policy(batch, generator).total.backward()
        optimizer.step()
    policy.eval().sampling = preset("2")
    shown["prefix_fixed"] = torch.arange(H) < torch.ones(256, 1)
    for way in (0.6, -0.6):
        shown["prefix"] = torch.full((256, H, A), way)
        went = policy.predict(shown, torch.Generator().manual_seed(1))
        assert (went - way).abs().mean() < 0.1


# --- guidance ------------------------------------------------------------------------------------


def test_weights_are_the_paper_s() -> None:
    """d = 2, R = 6: c is 4/5, 3/5, 2/5, 1/5 where the overlap is soft."""
    soft = [c * (math.exp(c) - 1) / (math.e - 1) for c in (0.8, 0.6, 0.4, 0.2)]
    want = torch.tensor([1, 1, *soft, 0, 0, 0, 0])
    got = overlap_weights(torch.tensor([2, 0, 3]), torch.tensor([6, 0, 3]), 10)
    assert torch.allclose(got[0], want, atol=1e-6)
    assert torch.equal(got[1], torch.zeros(10))
    assert got[2].tolist() == [1.0] * 3 + [0.0] * 7


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.8, 0.97])
def test_the_pull_is_the_paper_s_in_flow_time(tau: float) -> None:
    """One guided estimate against algorithm 1 carried out in A = tau x."""
    weight, target = torch.rand(1, H, 1), torch.randn(1, H, A)
    mix = torch.randn(H * A, H * A) / 5

    def velocity(a: Tensor) -> Tensor:
        return torch.tanh(a.flatten() @ mix).view_as(a)

    noisy = torch.randn(1, H, A)

    def estimate(a: Tensor) -> Tensor:
        return a + (1 - tau) * velocity(a)

    first, back = torch.autograd.functional.vjp(
        estimate, noisy, weight * (target - estimate(noisy))
    )
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    w = min(5.0, (1 - tau) / (tau * r2))
    want = noisy + (1 - tau) * (velocity(noisy) + w * back)
    sigma = torch.tensor([(1 - tau) / tau])
    pulled = guided(lambda x, _: estimate(tau * x), target, weight, BETA)
    assert torch.allclose(pulled(noisy / tau, sigma), want, atol=1e-5)
    assert not torch.allclose(first, want, atol=1e-2)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_pull_goes_back_through_the_network(kind: str) -> None:
    """Its Jacobian is the true one: finite differences in float64 say the same.

    RDT's norms compute in float32 whatever comes, so its differences are coarser.
    """
    nudge_by, close = (1e-2, 2e-3) if kind == "rdt" else (1e-5, 1e-6)
    network = lively(CONFIGS[kind]).double()
    parts = context(1)
    for name in ("goal", "images", "state"):
        setattr(parts, name, getattr(parts, name).double())
    memory, level = network.encode(parts), network.level(torch.tensor([0.5]).double())

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return 0.2 * x + network.step(x, level, memory).actions

    x, target = torch.randn(2, 1, H, A, dtype=torch.float64)
    weight = overlap_weights(torch.tensor([2]), torch.tensor([4]), H).double().unsqueeze(2)
    sigma = torch.tensor([0.5])
    with torch.no_grad():
        clean = denoise(x, sigma)
        error = weight * (target - clean)
        back = torch.zeros_like(x)
        for place in range(x.numel()):
            nudge = torch.zeros_like(x)
            nudge.view(-1)[place] = nudge_by
            change = (denoise(x + nudge, sigma) - denoise(x - nudge, sigma)) / (2 * nudge_by)
            back.view(-1)[place] = (change * error).sum()
    got = guided(denoise, target, weight, BETA)(x, sigma)
    want = clean + guidance_weight(0.5, BETA) * back
    assert torch.allclose(got, want, atol=close)
    assert not torch.allclose(got, clean + guidance_weight(0.5, BETA) * error, atol=1e-2)


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_without_a_pull_it_is_plain_sampling_bit_for_bit(sampling: SamplingConfig) -> None:
    network = lively(CONFIGS["mode"])
    formulation = CONFIGS["mode"].default_formulation().build()
    denoise = Plan(network, formulation, sampling).begin(network.encode(context(2)))
    noise = torch.randn(sampling.num_draws, 2, H, A)
    pulled = guided(denoise, torch.randn(2, H, A), torch.zeros(2, H, 1), BETA)
    with torch.enable_grad():  # a network may compute otherwise where it is differentiated
        want = sampling.sample(denoise, noise[0], noise[1:])
    assert torch.equal(sampling.sample(pulled, noise[0], noise[1:]), want)


STD, RHO = 0.5, 0.9


def smooth_chunks(horizon: int = 8) -> Tensor:
    """Return the covariance of actions of which neighbours are alike: STD^2 RHO^|i-j|."""
    place = torch.arange(float(horizon))
    return STD**2 * RHO ** (place[:, None] - place).abs()


def gaussian(covariance: Tensor) -> Denoise:
    """Return E[x0 | x] for x0 ~ N(0, covariance), along H; exact."""
    identity = torch.eye(len(covariance))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * identity)
        return torch.einsum("hg,bga->bha", gain, x)

    return denoise


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_guided_samples_of_a_gaussian_are_near_its_conditional(sampling: SamplingConfig) -> None:
    """Three actions of eight are given; the other five are N(mean, rest) given them."""
    covariance, known = smooth_chunks(), 3
    cross = covariance[known:, :known] @ torch.linalg.inv(covariance[:known, :known])
    rest = covariance[known:, known:] - cross @ covariance[:known, known:]
    given = torch.tensor([0.7, 0.6, 0.55])
    mean = cross @ given
    target = torch.zeros(4000, 8, 1)
    target[:, :known, 0] = given
    weight = (torch.arange(8) < known).float().view(1, 8, 1)
    sampling = replace(sampling, steps=20)
    noise = torch.randn(sampling.num_draws, 4000, 8, 1)
    denoise = gaussian(covariance)
    pulled = guided(denoise, target, weight, beta=20.0)
    chunks, plain = (sampling.sample(d, noise[0], noise[1:])[..., 0] for d in (pulled, denoise))
    assert (chunks[:, :known] - given).abs().max() < 0.2
    assert (chunks[:, known:].mean(0) - mean).abs().max() < 0.1
    assert (plain[:, known:].mean(0) - mean).abs().max() > 0.45
    # samplers of 20 steps have a spread of their own, so each is held against its plain one
    spread = chunks[:, known:].std(0) / plain[:, known:].std(0)
    assert (spread - rest.diagonal().sqrt() / STD).abs().max() < 0.15


# --- which way -----------------------------------------------------------------------------------


def with_prefixes(policy: Policy, make_requests: Any, delays: list[int], length: int = 5) -> Any:
    """Return requests that have a prefix and these delays."""
    requests = make_requests(policy.config, range(len(delays)))
    for seed, (request, delay) in enumerate(zip(requests, delays, strict=True)):
        request.prefix, request.inference_delay = some_prefix(length, seed), delay
    return requests


def actions(policy: Policy, requests: Any) -> list[np.ndarray]:
    return [chunk.actions for chunk in policy.act_batch(requests)]


@pytest.mark.parametrize("sampling", [*SAMPLERS, preset("2")])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_trained_policy_begins_with_the_prefix_to_the_bit(
    kind: str, sampling: SamplingConfig, build: Build, make_requests: Any
) -> None:
    config = policy_config(kind, max_delay=3)
    config.sampling = sampling
    policy = build(config).eval()
    requests = with_prefixes(policy, make_requests, [3, 0, 1])
    chunks = actions(policy, requests)
    for request, chunk in zip(requests, chunks, strict=True):
        fixed = request.inference_delay
        assert np.array_equal(chunk[:fixed], request.prefix[:fixed])
        alone = policy.act(
            request.observation,
            request.goal,
            seed=request.seed,
            step=request.step,
            prefix=request.prefix,
            inference_delay=fixed,
        )
        assert np.allclose(alone.actions, chunk, atol=REST)
    free = make_requests(config)
    (unfixed,) = actions(policy, free[1:2])
    assert np.allclose(chunks[1], unfixed, atol=REST), "nothing is fixed, nothing changes"
    others = [(chunk, other) for chunk, other in zip(chunks, actions(policy, free), strict=True)]
    assert max(np.abs(chunk[3:] - other[3:]).max() for chunk, other in others) > 1e-3


def test_an_untrained_policy_leaves_prefixes_aside_until_it_is_told_to(
    build: Build, make_requests: Any
) -> None:
    config = policy_config()
    policy = build(config).eval()
    requests = with_prefixes(policy, make_requests, [2, 0, 4])
    want = actions(policy, make_requests(config))
    assert all(map(np.array_equal, actions(policy, requests), want))
    policy.prefixer.use("guided")
    got = actions(policy, requests)
    for request, chunk, plain in zip(requests, got, want, strict=True):
        fixed = request.inference_delay
        assert np.array_equal(chunk[:fixed], request.prefix[:fixed])
        assert np.abs(chunk[fixed:] - plain[fixed:]).max() > 1e-3
        (alone,) = actions(policy, [request])
        assert np.allclose(alone, chunk, atol=REST)
    assert all(map(np.array_equal, actions(policy, make_requests(config)), want))
    assert all(p.grad is None for p in policy.parameters())
    policy.prefixer.use("none")
    assert all(map(np.array_equal, actions(policy, requests), want))


def test_a_delay_beyond_training_is_guided_and_said_once(build: Build, make_requests: Any) -> None:
    config = policy_config(max_delay=2)
    policy = build(config).eval()
    requests = with_prefixes(policy, make_requests, [4, 2])
    with pytest.warns(UserWarning, match=r"delay of 4 steps is beyond .*max_delay=2") as said:
        far, near = actions(policy, requests)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = actions(policy, requests)
    assert np.array_equal(far, again[0])
    policy.prefixer.use("guided")
    assert np.allclose(far, actions(policy, requests)[0], atol=REST)
    assert not np.allclose(near, actions(policy, requests)[1], atol=1e-3)


def test_where_nothing_can_guide_as_much_is_fixed_as_was_trained(
    build: Build, make_requests: Any
) -> None:
    """A robot's policy must not stop in the middle of a run because a chunk came late."""
    config = policy_config(max_delay=2)
    config.denoiser = KINDS["mode"](width=256, num_layers=1, feed_forward=256)
    policy = build(config).eval()
    quantize(policy.denoiser, Precision.int8)
    late, fits = with_prefixes(policy, make_requests, [4, 2])
    with pytest.warns(UserWarning, match="no gradient to guide by, so only as many actions are"):
        chunks = policy.act_batch([late, fits])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act_batch([late])
    for request, chunk in zip((late, fits), chunks, strict=True):
        delay = request.inference_delay
        assert np.array_equal(chunk.actions[:delay], request.prefix[:delay])
    late.inference_delay = 2
    shorter, _ = policy.act_batch([late, fits])  # as many at once: other numbers round otherwise
    assert np.array_equal(shorter.actions[4:], chunks[0].actions[4:])
    late.inference_delay = 0
    free, _ = policy.act_batch([late, fits])
    assert not np.allclose(free.actions[4:], shorter.actions[4:], atol=1e-3)


def test_anchors_begin_where_they_do_and_keep_what_is_fixed(
    build: Build, make_requests: Any
) -> None:
    config = policy_config(max_delay=3)
    config.anchors = TruncatedConfig(count=4, sigma_trunc=0.4, start=StartConfig(best=3))
    policy = build(config).eval()
    for way in ("trained", "guided"):
        policy.prefixer.use(way)
        requests = with_prefixes(policy, make_requests, [3, 0, 1])
        for request, chunk in zip(requests, actions(policy, requests), strict=True):
            fixed = request.inference_delay
            assert np.array_equal(chunk[:fixed], request.prefix[:fixed])
            (alone,) = actions(policy, [request])
            assert np.allclose(alone, chunk, atol=REST)


def test_a_checkpoint_knows_what_it_was_trained_for(
    build: Build, make_requests: Any, tmp_path: Any
) -> None:
    policy = build(policy_config(max_delay=3)).eval()
    save_checkpoint(tmp_path / "it", policy)
    loaded = load_policy(tmp_path / "it")
    assert isinstance(loaded, Policy) and loaded.prefixer.way is Prefixing.trained
    requests = with_prefixes(policy, make_requests, [3])
    assert np.array_equal(actions(policy, requests), actions(loaded, requests))


def test_what_cannot_be_is_refused_in_one_line(build: Build, make_requests: Any) -> None:
    policy = build(policy_config()).eval()
    wide = build(
        replace(policy_config(), denoiser=KINDS["mode"](width=256, num_layers=1, feed_forward=256))
    ).eval()
    quantize(wide.denoiser, Precision.int8)
    wide.prefixer.use("guided")

    def ask(
        length: int | None,
        delay: int,
        size: int = A,
        policy: Policy = policy,
        spoil: Callable[[np.ndarray], None] = lambda prefix: None,
    ) -> Any:
        (request,) = make_requests(policy.config, [0])
        request.prefix = None if length is None else some_prefix(length)[:, :size].copy()
        if request.prefix is not None:
            spoil(request.prefix)
        request.inference_delay = delay
        return lambda: policy.act_batch([request])

    cases: list[tuple[Callable[[], Any], str]] = [
        (ask(7, 0), r"request 0 .*: the prefix has 7 actions, and a chunk 6; give what is left"),
        (ask(3, 4), r"inference_delay=4 must lie in 0..3, the actions of the prefix;"),
        (ask(None, 1), r"inference_delay=1 must lie in 0..0, the actions of the prefix;"),
        (ask(3, -1), r"inference_delay=-1 must lie in 0..3"),
        (ask(3, 0, size=2), r"prefix: shape is \(3, 2\), expected \(None, 3\)"),
        (ask(3, 1, policy=wide), "these numbers have no gradient; use precision=fp32 or bf16"),
        (
            ask(3, 0, spoil=lambda prefix: prefix.__setitem__((1, 2), np.inf)),
            r"request 0 .*: prefix.* not finite",
        ),
        (lambda: policy.prefixer.use("trained"), "trained without prefixes; use prefixing=guided"),
        (lambda: policy.prefixer.use("guide"), "prefixing='guide' is not one of .*mean guided"),
        (lambda: policy_config(max_delay=-1), "policy.prefix.max_delay=-1 must be at least 0"),
        (
            lambda: PolicyConfig(action_horizon=4, prefix=PrefixConfig(max_delay=4)),
            "policy.prefix.max_delay=4 must be below policy.action_horizon=4",
        ),
        (lambda: PrefixConfig(beta=0.0), "policy.prefix.beta=0.0 must be more than 0"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
