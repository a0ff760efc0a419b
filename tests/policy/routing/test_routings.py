"""Routings: each formula against itself written out, unit by unit; and how one is chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from telic.policy.checkpoint import load_policy, read_config, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.ddpm import Betas, timestep_sigmas
from telic.policy.digests import write_digests
from telic.policy.encoders.images import ImageConfig
from telic.policy.policy import Policy
from telic.policy.routing.dtr import DtrRoutingConfig, channel_masks, timesteps
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.routing import NoiseLevels, RoutingConfig, add_losses, mask_in, mask_out
from telic.policy.routing.routings import ROUTINGS
from telic.policy.routing.switch import SwitchRouting, SwitchRoutingConfig, jensen_shannon
from telic.policy.routing.token import TokenLayer, TokenRoutingConfig, balance_loss

D, LAYERS, HIDDEN = 8, 3, 20
BLIND = ImageConfig(cameras=[])  # a tower would be most of the checkpoint


def levels(sigma: list[float]) -> NoiseLevels:
    """Return noise levels with an embedding that is a line in ln(sigma)."""

    def embed(sigma: Tensor) -> Tensor:
        return torch.stack([sigma.log() / (1 + i) for i in range(D)], -1)

    values = torch.tensor(sigma)
    return NoiseLevels(values, embed(values), embed)


def test_a_mask_leads_channels_around_the_block() -> None:
    x, mask = torch.randn(2, 3, D), torch.tensor([1.0, 0.0] * (D // 2))
    out = mask_out(mask_in(x, mask) + 7, x, mask)
    assert torch.allclose(out, x + 7)
    assert mask_in(x, None) is x and mask_out(x, x, None) is x


def test_losses_of_layers_add_up() -> None:
    parts = [{"a": torch.tensor(1.0)}, {}, {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}]
    assert add_losses(parts) == {"a": torch.tensor(3.0), "b": torch.tensor(5.0)}


# DTR


@pytest.mark.parametrize(("timestep", "start"), [(0, 0), (250, 0), (500, 5), (750, 24), (999, 77)])
def test_dtr_masks_are_the_published_ones(timestep: int, start: int) -> None:
    mask = channel_masks(384, beta=0.8, alpha=4.0)[timestep]
    assert mask.nonzero().flatten().tolist() == list(range(start, start + 307))


def test_dtr_reads_sigma_as_the_nearest_ddpm_timestep() -> None:
    sigma = timestep_sigmas(Betas.squared_cosine, 1000)
    assert torch.equal(timesteps(sigma), torch.arange(1000))
    assert timesteps(torch.tensor([1e-3, 80.0, 1e9])).tolist() == [0, 991, 999]
    rising = timesteps(torch.logspace(-4, 5, 3000))
    assert (rising.diff() >= 0).all()


def test_dtr_route_is_the_mask_of_each_sample_in_every_layer() -> None:
    routing = DtrRoutingConfig(beta=0.5).build(LAYERS, D, HIDDEN)
    layer = DtrRoutingConfig(beta=0.5).layer(D, HIDDEN)
    routes = routing(levels([1e-3, 1e9]), 5).layers
    assert len(routes) == LAYERS and not list(routing.parameters())
    want = torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4])
    for route in routes:
        assert torch.equal(layer.mask(torch.randn(2, 5, D), route), want[:, None])


# Switch-DiT


def test_switch_mask_is_one_plus_gated_linear_experts() -> None:
    config = SwitchRoutingConfig()
    routing, layer = config.build(LAYERS, D, HIDDEN).eval(), config.layer(D, HIDDEN)
    x, at = torch.randn(2, 5, D), levels([0.1, 7.0])
    for route in routing(at, 5).layers:
        assert torch.equal(layer.mask(x, route), torch.ones(2, 5, D))  # zero at first
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    for number, route in enumerate(routing(at, 5).layers):
        rows = slice(3 * number, 3 * number + 3)
        for b in range(2):
            e = F.silu(at.embedding[b])
            p = (routing.gate.weight[rows] @ e + routing.gate.bias[rows]).softmax(0)
            best = sorted(range(3), key=lambda n: -p[n].item())[:2]
            for t in range(5):
                want = 1 + sum(p[n] * (layer.weight[n] @ x[b, t] + layer.bias[n]) for n in best)
                assert torch.allclose(layer.mask(x, route)[b, t], want, atol=1e-5)
            alone = layer.mask(x[b : b + 1], route[b : b + 1])  # folded into one linear map
            assert torch.allclose(alone, layer.mask(x, route)[b : b + 1], atol=1e-5)


def divergence(p: list[float], q: list[float]) -> float:
    """Return the Jensen-Shannon divergence of two distributions, term by term."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        for one in (a, b):
            if one > 0:
                total += 0.5 * one * math.log(one / ((a + b) / 2))
    return total


def test_jensen_shannon_divergence_of_known_distributions() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]])
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.5, 0.5]])
    want = torch.tensor([divergence(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)])
    assert torch.allclose(jensen_shannon(p, q), want, atol=2e-5)
    assert float(want[0]) == 0 and float(want[2]) == pytest.approx(math.log(2))


def switch(num_layers: int = 2) -> SwitchRouting:
    """Return gates that differ clearly between noise levels."""
    routing = SwitchRoutingConfig().build(num_layers, D, HIDDEN)
    torch.nn.init.normal_(routing.gate.weight, std=2.0)
    return routing.train()


def test_switch_prior_is_matched_to_the_units_at_the_least_cost() -> None:
    """Against all 720 orders of six columns, the costs counted timestep by timestep."""
    routing, at = switch(), levels([0.1, 7.0])
    units = 6
    starts = [round((units - 4) * (t / 999) ** 4) for t in range(1000)]
    prior = torch.tensor([[float(s <= u < s + 4) for u in range(units)] for s in starts])
    sigmas = timestep_sigmas(Betas.squared_cosine, 1000)
    p = routing.probabilities(at.embed(sigmas))
    hard = torch.zeros_like(p).scatter_(-1, p.topk(2).indices, 1.0).flatten(1)
    cost = (hard[:, :, None] - prior[:, None, :]).abs().sum(0)
    least = min(
        sum(float(cost[u, order[u]]) for u in range(units))
        for order in itertools.permutations(range(units))
    )
    matched = routing.matched_prior(at, torch.Generator().manual_seed(0))
    assert torch.allclose(matched.sum(1), torch.ones(1000))
    assert sorted((matched * 4).sum(0).tolist()) == pytest.approx(sorted(prior.sum(0).tolist()))
    assert float((hard - matched * 4).abs().sum()) == pytest.approx(least)


def test_switch_loss_is_the_mean_divergence_from_each_samples_prior() -> None:
    routing, at = switch(), levels([0.1, 7.0, 900.0])
    loss = routing(at, 5, torch.Generator().manual_seed(3)).losses["diffusion_prior"]
    prior = routing.matched_prior(at, torch.Generator().manual_seed(3))
    p = routing.probabilities(at.embedding)
    want = [
        divergence((p[b].flatten() / 2).tolist(), prior[t].tolist())
        for b, t in enumerate(timesteps(at.sigma).tolist())
    ]
    assert loss.item() == pytest.approx(np.mean(want), abs=2e-5)
    assert routing.eval()(at, 5).losses == {}


def test_switch_loss_parts_noise_levels() -> None:
    """Minimised alone, it makes gates of far noise levels differ more than those of near ones."""
    routing = SwitchRoutingConfig().build(4, D, HIDDEN).train()
    spread = torch.logspace(-2, 4, 64).tolist()
    optimizer = torch.optim.Adam(routing.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = routing(levels(spread), 1, generator).losses["diffusion_prior"]
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert np.mean(values[-10:]) < 0.5 * values[0]
    p = routing.probabilities(levels([0.01, 0.02, 8000.0]).embedding).flatten(1)
    assert (p[0] - p[2]).abs().sum() > 4 * (p[0] - p[1]).abs().sum()


# DiT-MoE


def token_layer(**settings: Any) -> TokenLayer:
    """Return a layer whose gate has clear preferences."""
    layer = TokenRoutingConfig(**settings).layer(D, HIDDEN)
    torch.nn.init.normal_(layer.gate)
    return layer


def swiglu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """Return one feed-forward of one token."""
    up, swish = (weight @ x + bias).chunk(2)
    return out @ (up * F.silu(swish))


def test_tokens_get_their_two_best_experts_and_the_shared_one() -> None:
    layer = token_layer(num_experts=5)
    x = torch.randn(2, 4, D)
    y, losses = layer.eval()(x, None)
    assert losses == {}
    experts, shared = layer.experts, layer.shared
    assert shared is not None
    biases = experts.bias_in.view(5, -1)
    for b, t in itertools.product(range(2), range(4)):
        token = x[b, t]
        gates = (layer.gate @ token).exp()
        gates = gates / gates.sum()
        best = sorted(range(5), key=lambda n: -gates[n].item())[:2]
        want = swiglu(token, shared.up.weight, shared.up.bias, shared.down.weight)
        for n in best:
            routed = swiglu(token, experts.weight_in[n], biases[n], experts.weight_out[n].T)
            want = want + gates[n] * routed
        assert torch.allclose(y[b, t], want, atol=1e-5)


def test_balance_loss_is_least_where_experts_are_used_alike() -> None:
    even = torch.full((1, 6, 3), 1 / 3)
    chosen = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]] * 2).bool()[None]
    assert float(balance_loss(even, chosen)) == pytest.approx(1)
    gates = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])[None]
    always = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()[None]
    want = 3 * (0.65 * 2 / 4 + 0.25 * 2 / 4 + 0.1 * 0 / 4)
    assert float(balance_loss(gates, always)) == pytest.approx(want)
    collapsed = torch.tensor([1.0, 0.0, 0.0]).expand(1, 6, 3)
    assert float(balance_loss(collapsed, collapsed.bool())) == pytest.approx(3)


def test_token_choice_without_shared_expert_gives_all_to_the_routed() -> None:
    layer = token_layer(shared=0.0)
    assert layer.shared is None and layer.experts.weight_out.shape == (4, HIDDEN // 2, D)
    assert token_layer().shared.down.in_features == HIDDEN - 2 * 8


# MoDE's shared expert


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hidden", [6, 3 * 256])  # all as one product; the chosen alone
def test_a_shared_expert_takes_every_token_ungated(training: bool, hidden: int) -> None:
    config = NoiseRoutingConfig(num_experts=4, top_k=3, shared_expert=True)
    routing = config.build(LAYERS, D, hidden).train(training)
    torch.nn.init.normal_(routing.routers.weight)
    layer, x = config.layer(D, hidden).train(training), torch.randn(1, 5, D)
    routes = routing(levels([0.3]), 5, torch.Generator().manual_seed(0))
    assert len(routes.layers) == LAYERS and ("load_balance" in routes.losses) == training
    for route in routes.layers:
        gates = route.gates.expand(1, 5, 4)
        assert (gates[..., 3] == 1).all()
        assert ((gates[..., :3] > 0).sum(-1) == 2).all()
        assert torch.allclose(gates[..., :3].sum(-1), torch.ones(()))
        y, _ = layer(x, route)
        weights = layer.experts
        biases = weights.bias_in.view(4, -1)
        for t in range(5):
            want = sum(
                gates[0, t, n]
                * swiglu(x[0, t], weights.weight_in[n], biases[n], weights.weight_out[n].T)
                for n in range(4)
            )
            assert torch.allclose(y[0, t], want, atol=1e-5)


def test_one_routed_expert_learns_by_gates_that_are_not_normalised() -> None:
    for normalize, learns in ((True, False), (False, True)):
        config = NoiseRoutingConfig(shared_expert=True, normalize_gates=normalize)
        routing = config.build(LAYERS, D, HIDDEN).train()
        routes = routing(levels([0.3, 2.0]), 5, torch.Generator().manual_seed(0))
        layer, x = config.layer(D, HIDDEN), torch.randn(2, 5, D)
        sum(layer(x, route)[0].square().sum() for route in routes.layers).backward()
        assert (routing.routers.weight.grad.abs().max() > 1e-8) == learns


# Choosing one


@pytest.mark.parametrize("name", sorted(ROUTINGS))
def test_a_checkpoint_remembers_its_routing(
    name: str,
    build: Callable[[PolicyConfig], Policy],
    make_requests: Callable[..., Any],
    tmp_path: Path,
) -> None:
    denoiser = ModeConfig(width=16, num_layers=2, num_heads=2, routing=ROUTINGS[name]())
    policy = build(PolicyConfig(denoiser=denoiser, images=BLIND)).eval()
    save_checkpoint(tmp_path / "best", policy)
    loaded = load_policy(tmp_path / "best")
    assert isinstance(loaded, Policy) and loaded.config == policy.config
    assert read_config(tmp_path / "best")["policy"]["denoiser"]["routing"]["name"] == name
    requests = make_requests(policy.config)
    for one, other in zip(policy.act_batch(requests), loaded.act_batch(requests), strict=True):
        assert np.array_equal(one.actions, other.actions)


def test_an_unknown_routing_in_a_checkpoint_offers_the_near_one(
    build: Callable[[PolicyConfig], Policy], tmp_path: Path
) -> None:
    denoiser = ModeConfig(width=16, num_layers=1, num_heads=2, routing=DtrRoutingConfig())
    save_checkpoint(tmp_path / "best", build(PolicyConfig(denoiser=denoiser, images=BLIND)))
    path = tmp_path / "best" / "config.yaml"
    path.write_text(path.read_text().replace("name: dtr", "name: dtrr"))
    write_digests(path.parent)
    with pytest.raises(ValueError, match=r"routing 'dtrr' is not one of .*did you mean dtr\?"):
        load_policy(tmp_path / "best")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseRoutingConfig(top_k=5), r"top_k=5 must lie in 1..num_experts=4"),
        (lambda: NoiseRoutingConfig(top_k=1, shared_expert=True), r"top_k=1 must lie in 2..num_"),
        (lambda: SwitchRoutingConfig(top_k=0), r"top_k=0 must lie in 1..num_experts=3"),
        (lambda: TokenRoutingConfig(top_k=9), r"top_k=9 must lie in 1..num_experts=4"),
        (lambda: TokenRoutingConfig(shared=-1.0), r"shared=-1.0 must be at least 0"),
        (lambda: DtrRoutingConfig(beta=1.5), "beta=1.5 must be more than 0 and at most 1"),
        (lambda: DtrRoutingConfig(alpha=0.0), r"alpha=0.0 must be more than 0"),
        (lambda: RoutingConfig().build(2, D, HIDDEN), "is a base, not a routing"),
        (lambda: RoutingConfig().layer(D, HIDDEN), "is a base, not a routing"),
    ],
)
def test_impossible_routings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
