"""Norms, attention and experts: each against the plainest way to write it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from telic.policy.layers.attention import CausalSelfAttention, attend, attend_explicitly
from telic.policy.layers.experts import Experts
from telic.policy.layers.norms import RMSNorm, rms_norm
from telic.policy.layers.tensors import WeightsToCome, load_exactly


def test_norm_is_x_over_rms_and_its_gradient_is_right() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(8, dtype=torch.float64, requires_grad=True)
    per_half = torch.randn(3, 1, 8, dtype=torch.float64, requires_grad=True)
    want = x / x.square().mean(-1, keepdim=True).sqrt() * gain
    assert torch.allclose(rms_norm(x, gain), want)
    assert torch.autograd.gradcheck(rms_norm, (x, gain))
    assert torch.autograd.gradcheck(rms_norm, (x, per_half))
    with torch.no_grad():
        assert torch.allclose(rms_norm(x, gain), want)


def test_norm_is_guarded_where_rms_is_below_a_millionth() -> None:
    norm = RMSNorm(4)
    tiny = torch.full((1, 4), 1e-8, requires_grad=True)
    assert torch.allclose(norm(tiny), torch.full((1, 4), 1e-2))
    norm(tiny).sum().backward()
    assert torch.allclose(tiny.grad, torch.full((1, 4), 1e6))
    assert torch.equal(norm(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_norm_keeps_bf16() -> None:
    x = torch.randn(4, 16)
    low = RMSNorm(16)(x.bfloat16())
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), RMSNorm(16)(x), atol=0.03)


@pytest.mark.parametrize("causal", [True, False])
def test_explicit_attention_is_the_fused_one(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 11, 8).unbind()
    q = 5 * q  # sharp rows
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert torch.allclose(attend_explicitly(q, k, v, causal=causal), want, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(attend(q, k, v, causal=causal), want, atol=1e-6)
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal=causal)
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), want, atol=0.06)


def test_explicit_attention_survives_huge_scores() -> None:
    q = k = torch.full((1, 1, 3, 4), 1e4)
    v = torch.randn(1, 1, 3, 4)
    got = attend_explicitly(q, k, v, causal=True)
    assert torch.allclose(got[0, 0, 2], v[0, 0].mean(0), atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_attention_is_causal(grad: bool) -> None:
    layer = CausalSelfAttention(16, 4)
    x = torch.randn(2, 7, 16)
    changed = x.clone()
    changed[:, 4] += 1
    with torch.set_grad_enabled(grad):
        before, after = layer(x), layer(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert ((before - after)[:, 4:].abs().amax(-1) > 1e-4).all()


def test_attention_drops_out_in_training_alone() -> None:
    layer = CausalSelfAttention(16, 4, dropout=0.5)
    x = torch.randn(2, 7, 16)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def one_by_one(experts: Experts, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Return the gated sum, expert after expert, token after token."""
    out = torch.zeros_like(x)
    biases = experts.bias_in.view(experts.num_experts, -1)
    for b, t in torch.cartesian_prod(*map(torch.arange, x.shape[:2])).tolist():
        for n in range(experts.num_experts):
            up, swish = (experts.weight_in[n] @ x[b, t] + biases[n]).chunk(2)
            out[b, t] += gates[b, t, n] * ((up * F.silu(swish)) @ experts.weight_out[n])
    return out


def test_all_experts_as_one_product_are_the_loop_over_them() -> None:
    experts = Experts(8, num_experts=3, hidden=5)
    x = torch.randn(2, 4, 8)
    gates = torch.rand(2, 4, 3) * (torch.rand(2, 4, 3) > 0.4)
    assert torch.allclose(experts(x, gates), one_by_one(experts, x, gates), atol=1e-6)


def test_picking_the_chosen_experts_gives_the_same() -> None:
    experts = Experts(8, num_experts=4, hidden=5)
    x = torch.randn(2, 4, 8)
    gates = torch.tensor([0.0, 0.3, 0.0, 0.7]).view(1, 1, 4)
    want = one_by_one(experts, x, gates.expand(2, 4, 4))
    assert torch.allclose(experts(x, gates), want, atol=1e-6)
    assert torch.allclose(experts(x, gates, chosen={3: None, 1: None}), want, atol=1e-6)


def test_weights_to_come_are_not_drawn_and_are_then_as_given() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 3))
        for draw in (nn.init.normal_, nn.init.xavier_uniform_, nn.init.trunc_normal_):
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    draw(parameter)
        return network

    given = build()
    before = torch.get_rng_state()
    with WeightsToCome():
        network = build()
    assert torch.equal(torch.get_rng_state(), before)
    load_exactly(network, given.state_dict(), "here")
    for name, value in given.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
