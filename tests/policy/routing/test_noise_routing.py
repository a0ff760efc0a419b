"""Routing by noise: who is chosen, how often, and what the balance loss says about it."""

from __future__ import annotations

import itertools

import pytest
import torch

from telic.policy.routing.noise import Choices, NoiseRouters, choose, load_balance_loss


def routers(num_experts: int = 4, top_k: int = 2, normalize: bool = True) -> NoiseRouters:
    """Return routers of three layers that prefer some experts clearly."""
    made = NoiseRouters(3, 8, num_experts, top_k, normalize)
    torch.nn.init.normal_(made.weight, std=0.6)
    torch.nn.init.normal_(made.hidden.weight, std=0.6)
    return made


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("training", [True, False])
def test_top_k_experts_have_gates_that_sum_to_one(top_k: int, training: bool) -> None:
    routing = routers(top_k=top_k).train(training)(torch.randn(5, 8), 6)
    assert routing.gates.shape == ((3, 5, 6, 4) if training else (3, 5, 1, 4))
    assert (routing.chosen.sum(-1) == top_k).all()
    assert torch.equal(routing.gates > 0, routing.chosen)
    assert torch.allclose(routing.gates.sum(-1), torch.ones(()))


def test_gates_are_the_probabilities_of_the_chosen() -> None:
    embedding = torch.randn(5, 8)
    made = routers(normalize=False).eval()
    routing = made(embedding, 1)
    top = routing.probabilities.topk(2)
    assert torch.equal(routing.gates.squeeze(2).gather(-1, top.indices), top.values)
    made.normalize = True
    again = made(embedding, 1).gates.squeeze(2).gather(-1, top.indices)
    assert torch.allclose(again, top.values / top.values.sum(-1, keepdim=True))


def test_each_layer_has_its_own_router() -> None:
    """The fused product is three separate two-layer networks."""
    made, embedding = routers().eval(), torch.randn(5, 8)
    got = made(embedding, 1).probabilities
    for layer in range(3):
        rows = slice(16 * layer, 16 * (layer + 1))
        hidden = torch.nn.functional.gelu(
            embedding @ made.hidden.weight[rows].T + made.hidden.bias[rows]
        )
        want = (hidden @ made.weight[layer].T + made.bias[4 * layer : 4 * layer + 4]).softmax(-1)
        assert torch.allclose(got[layer], want, atol=1e-6)


def test_draws_are_in_proportion_and_without_replacement() -> None:
    """P(first i, then j) = p_i p_j / (1 - p_i); a pair comes in either order."""
    p = torch.tensor([0.5, 0.25, 0.15, 0.1])
    race = torch.empty(100_000, 4).exponential_(generator=torch.Generator().manual_seed(0))
    chosen = choose(p / race, 2)
    for i, j in itertools.combinations(range(4), 2):
        want = float(p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])))
        share = float((chosen[:, i] & chosen[:, j]).float().mean())
        assert share == pytest.approx(want, abs=0.006)


def test_tokens_of_a_sample_draw_apart_and_a_generator_repeats_them() -> None:
    made, embedding = routers().train(), torch.randn(5, 8)

    def draw(seed: int) -> Choices:
        return made(embedding, 40, torch.Generator().manual_seed(seed))

    first = draw(1)
    assert (first.chosen != first.chosen[:, :, :1]).any()
    assert torch.equal(first.gates, draw(1).gates) and not torch.equal(first.gates, draw(2).gates)


def test_inference_needs_no_generator_and_leaves_torchs_alone() -> None:
    made, embedding = routers().eval(), torch.randn(5, 8)
    state = torch.get_rng_state()
    made(embedding, 3)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_balance_loss_is_least_where_all_are_used_alike(top_k: int) -> None:
    uniform = torch.full((3, 50, 100, 4), 0.25)
    race = torch.empty_like(uniform).exponential_()
    chosen = choose(uniform / race, top_k)
    even = load_balance_loss(Choices(uniform[:, :, 0], chosen / top_k, chosen))
    assert float(even) == pytest.approx(top_k, abs=0.01)
    one = torch.zeros_like(chosen)
    one[..., :top_k] = True
    collapsed = load_balance_loss(Choices(uniform[:, :, 0], one / top_k, one))
    assert float(collapsed) == pytest.approx(4, abs=1e-4)


def test_balance_loss_moves_probability_to_neglected_experts() -> None:
    made = routers().train()
    torch.nn.init.zeros_(made.weight)
    with torch.no_grad():
        made.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -2.0] * 3))
    optimizer = torch.optim.SGD(made.parameters(), lr=2.0)
    embedding, generator = torch.randn(64, 8), torch.Generator().manual_seed(0)
    before = load_balance_loss(made(embedding, 20, generator))
    for _ in range(60):
        optimizer.zero_grad()
        load_balance_loss(made(embedding, 20, generator)).backward()
        optimizer.step()
    after = load_balance_loss(made(embedding, 20, generator))
    assert before > 2.4 and after < 2.1
