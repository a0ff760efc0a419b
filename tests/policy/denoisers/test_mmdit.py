"""MMDiT: its cached context against one joint pass under an explicit mask, and who sees whom."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.mmdit import Mmdit, MmditConfig
from telic.policy.diffusion.flow import FlowConfig
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES

SIZES = Sizes(num_goals=2, num_images=3, num_states=1, action_horizon=6, action_dim=3)
N, H, D, G = 6, 6, 32, 2


@pytest.fixture
def network() -> Mmdit:
    """Return three layers with gains, positions and modulations that are not their first ones."""
    network = MmditConfig(width=D, num_layers=3, num_heads=G, hidden=48).build(SIZES).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def context(goal_mask: Tensor | None = None) -> Context:
    """Return random tokens."""
    return Context(
        goal=torch.randn(3, 2, D),
        images=torch.randn(3, 3, D),
        state=torch.randn(3, 1, D),
        goal_mask=goal_mask,
    )


def rms(x: Tensor, gain: Tensor) -> Tensor:
    """Return x at root mean square 1, times gain."""
    return x / x.square().mean(-1, keepdim=True).sqrt() * gain


def joint_pass(net: Mmdit, x: Tensor, sigma: Tensor, given: Context) -> Tensor:
    """Return the answer from one sequence of context and actions, each layer whole.

    Written out from the paper: nothing cached, one softmax over all tokens under a mask [T T].
    """
    head = D // G
    ctx = torch.cat([given.goal, given.images, given.state], 1) + net.context_positions
    act = net.action_in(x) + net.action_positions
    allowed = torch.ones(len(x), N + H, N + H, dtype=torch.bool)
    allowed[:, :N, N:] = False  # context does not see actions
    if given.goal_mask is not None:
        allowed[:, :, :2] &= given.goal_mask[:, None]
    embedding = net.time_embedding(1000 * sigma / (1 + sigma))
    factors = net.to_modulation(embedding * embedding.sigmoid()).view(len(sigma), -1, 1, D)
    *each, final = factors.split([6, 6, 6, 2], 1)
    for c, a, own in zip(net.context_stream, net.action_stream, each, strict=True):
        shift, scale, gate, shift_2, scale_2, gate_2 = own.unbind(1)
        seen_c = rms(ctx, c.attention_norm.gain)
        seen_a = rms(act, a.attention_norm.gain) * (1 + scale) + shift
        k_c, v_c = c.to_kv(seen_c).split(D, -1)
        q_c = torch.ones_like(k_c) if c.last else c.to_q(seen_c)  # the last one's are not read
        gain_c = torch.ones(head) if c.last else c.query_gain
        q_a, k_a, v_a = a.to_qkv(seen_a).split(D, -1)
        gain_q, gain_k = a.qk_gain.view(2, head)
        gathered = []
        for h in range(0, D, head):
            part = slice(h, h + head)
            q = torch.cat([rms(q_c[..., part], gain_c), rms(q_a[..., part], gain_q)], 1)
            k = torch.cat([rms(k_c[..., part], c.key_gain), rms(k_a[..., part], gain_k)], 1)
            v = torch.cat([v_c[..., part], v_a[..., part]], 1)
            scores = (q @ k.mT / head**0.5).masked_fill(~allowed, float("-inf"))
            gathered.append(scores.softmax(-1) @ v)
        out = torch.cat(gathered, -1)
        if not c.last:
            ctx = ctx + c.to_out(out[:, :N])
            ctx = ctx + c.feed_forward(rms(ctx, c.forward_norm.gain))
        act = act + (1 + gate) * a.to_out(out[:, N:])
        shown = rms(act, a.forward_norm.gain) * (1 + scale_2) + shift_2
        act = act + (1 + gate_2) * a.feed_forward(shown)
    shift, scale = final.unbind(1)
    return net.action_out(rms(act, net.norm.gain) * (1 + scale) + shift)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_cached_context_is_the_joint_pass(network: Mmdit, masked: bool, grad: bool) -> None:
    """With and without gradients, which take different ways through attention and norms."""
    given = context(torch.tensor([[True, False], [True, True], [False, True]]) if masked else None)
    x, sigma = torch.randn(3, H, 3), torch.tensor([0.05, 1.0, 20.0])
    with torch.set_grad_enabled(grad):
        got = network(x, sigma, network.encode(given)).actions
    want = joint_pass(network, x, sigma, given)
    assert (got - want).abs().max() < 1e-5 and want.abs().max() > 0.1


def test_one_memory_serves_all_steps_and_knows_neither_sigma_nor_actions(network: Mmdit) -> None:
    given = context()
    memory = network.encode(given)
    before = [part.clone() for part in (memory.tokens, memory.keys, memory.values)]
    for level in (20.0, 1.0, 0.05):
        x, sigma = torch.randn(3, H, 3), torch.tensor([level])
        got = network(x, sigma, memory).actions
        assert (got - joint_pass(network, x, sigma, given)).abs().max() < 1e-5
    after = (memory.tokens, memory.keys, memory.values)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert memory.keys.shape == memory.values.shape == (3, 3, G, N, D // G)
    assert network.latent(memory).shape == (3, N, D)


def test_order_of_tokens_is_known_by_positions(network: Mmdit) -> None:
    """Without positions of its own, a token's place would not matter to attention."""
    given = context()
    swapped = Context(goal=given.goal, images=given.images.flip(1), state=given.state)
    x, sigma = torch.randn(3, H, 3), torch.tensor([0.5])

    def answers() -> tuple[Tensor, Tensor, Tensor]:
        plain, turned = network.encode(given), network.encode(swapped)
        return (
            network(x, sigma, plain).actions,
            network(x, sigma, turned).actions,
            network(x.flip(1), sigma, plain).actions.flip(1),
        )

    plain, turned, mirrored = answers()
    assert (plain - turned).abs().max() > 1e-3 and (plain - mirrored).abs().max() > 1e-3
    with torch.no_grad():
        network.context_positions[:] = network.context_positions[:1]
        network.action_positions[:] = network.action_positions[:1]
    plain, turned, mirrored = answers()
    assert torch.allclose(plain, turned, atol=1e-5) and torch.allclose(plain, mirrored, atol=1e-5)


def test_tokens_outside_the_mask_do_not_count(network: Mmdit) -> None:
    given = context(torch.tensor([[True, False]] * 3))
    x, sigma = torch.randn(3, H, 3), torch.tensor([0.5])
    before = network(x, sigma, network.encode(given)).actions
    given.goal[:, 1] = 50.0
    assert torch.allclose(before, network(x, sigma, network.encode(given)).actions, atol=1e-6)


def test_every_action_sees_every_other(network: Mmdit) -> None:
    memory, sigma = network.encode(context()), torch.tensor([0.5])
    x = torch.randn(3, H, 3)
    before = network(x, sigma, memory).actions
    for changed in (0, H - 1):
        other = x.clone()
        other[:, changed] += 1
        moved = (network(other, sigma, memory).actions - before).abs().amax((0, 2))
        assert (moved > 1e-4).all()


def test_small_preset_is_flow_with_a_million_parameters(build) -> None:
    config = PolicyConfig(denoiser=MmditConfig())
    config.images.cameras = []
    policy: Policy = build(config)
    assert isinstance(policy.config.formulation, FlowConfig)
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(0.9e6, rel=0.05)
    assert isinstance(POLICIES["mmdit"].denoiser, MmditConfig)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_layers": 0}, "policy.denoiser.num_layers=0 must be at least 1"),
        ({"hidden": 0}, "policy.denoiser.hidden=0 must be at least 1"),
        ({"num_heads": 3}, "width=112 must be a multiple of num_heads=3"),
    ],
)
def test_impossible_networks_are_refused(bad: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MmditConfig(**bad)
