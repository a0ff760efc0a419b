"""What each routing costs: parameters, active parameters, FLOPs of a chunk, latency at batch 1.

    python benchmarks/routing.py [--kinds mode mdt] [--width D] [--hidden M] [--no-latency]

Every routing has the same kind, width, depth and hidden width per token. `active` counts what one
token passes through: of experts, the chosen ones. FLOPs are those of the denoiser over a whole
chunk, context included, as torch counts matrix products; a small network computes all experts,
which is quicker than picking (`PICKING_PAYS`), so its FLOPs go with all its parameters. Weights
are random: what a chunk costs does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from latency import prepared
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mmdit import MmditConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.sampling import PRESETS, SamplingConfig
from telic.policy.layers.experts import Experts
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.routing import RoutingConfig
from telic.policy.routing.routings import ROUTINGS
from telic.policy.routing.switch import SwitchLayer, SwitchRoutingConfig

# Meta-World: a sentence, a state, chunks of eight actions.
SIZES = Sizes(num_goals=1, num_images=0, num_states=1, action_horizon=8, action_dim=4, state_dim=39)
KINDS: dict[str, tuple[type[DenoiserConfig], str]] = {  # and what it calls the hidden width
    "mode": (ModeConfig, "feed_forward"),
    "mdt": (MdtConfig, "hidden"),
    "rdt": (RdtConfig, "hidden_ratio"),
    "mmdit": (MmditConfig, "hidden"),
}
ROWS: dict[str, RoutingConfig] = {name: build() for name, build in ROUTINGS.items()} | {
    "noise, shared": NoiseRoutingConfig(shared_expert=True, normalize_gates=False)
}
STEPS = ("10", "2")
LIMIT_S, MIN_CALLS, MAX_CALLS, WARM_UP = 6.0, 7, 200, 5


def active_parameters(network: Denoiser, config: DenoiserConfig) -> int:
    """Return how many parameters one token passes through at one noise level."""
    total = sum(p.numel() for p in network.parameters())
    top_k = getattr(config.routing, "top_k", 0)
    for module in network.modules():
        if isinstance(module, Experts):
            each = sum(p.numel() for p in module.parameters()) // module.num_experts
            total -= (module.num_experts - top_k) * each
        if isinstance(module, SwitchLayer) and isinstance(config.routing, SwitchRoutingConfig):
            each = module.weight[0].numel() + module.bias[0].numel()
            total -= (config.routing.num_experts - top_k) * each
    return total


def chunk_call(
    network: Denoiser, config: DenoiserConfig, device: torch.device
) -> Callable[[SamplingConfig], Tensor]:
    """Return a function that samples one chunk from tokens."""
    state_size = SIZES.state_dim if config.embeds_state else config.width
    goal, images, state = (
        torch.randn(1, count, size, device=device)
        for count, size in (
            (SIZES.num_goals, config.width),
            (SIZES.num_images, config.width),
            (SIZES.num_states, state_size),
        )
    )
    context = Context(goal=goal, images=images, state=state)
    noise = torch.randn(1, SIZES.action_horizon, SIZES.action_dim, device=device)
    edm = EdmConfig().build()

    def sample(sampling: SamplingConfig) -> Tensor:
        memory = network.encode(context)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return edm.denoise(lambda y, s: network(y, s, memory).actions, x, sigma)

        return sampling.sample(denoise, noise)

    return sample


@torch.inference_mode()
def flops(sample: Callable[[SamplingConfig], Tensor], steps: str) -> int:
    """Return the floating-point operations of one chunk, two per multiplication and addition."""
    with FlopCounterMode(display=False) as counter:
        sample(PRESETS[steps])
    return int(counter.get_total_flops())


@torch.inference_mode()
def durations_ms(
    sample: Callable[[SamplingConfig], Tensor], steps: str, device: torch.device
) -> list[float]:
    """Return the durations of single chunks after a warm-up, each waited for."""
    durations: list[float] = []
    began = time.perf_counter()
    while len(durations) < WARM_UP + MAX_CALLS:
        start = time.perf_counter()
        sample(PRESETS[steps])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() - began > LIMIT_S and len(durations) >= WARM_UP + MIN_CALLS:
            break
    return durations[WARM_UP:]


def configured(
    kind: str, routing: RoutingConfig, width: int | None, hidden: int | None
) -> DenoiserConfig:
    """Return the config of `kind` with that routing and, where given, these sizes."""
    schema, name = KINDS[kind]
    config = replace(schema(), routing=routing)
    if width is not None:
        config = replace(config, width=width)
    if hidden is not None:
        value = max(1, hidden // config.width) if name == "hidden_ratio" else hidden
        config = replace(config, **{name: value})
    return config


def measure(arguments: argparse.Namespace, kind: str, device: torch.device) -> Table:
    """Return the table of one kind on one device."""
    columns = ["routing", "parameters", "active", *(f"MFLOP, {n} steps" for n in STEPS)]
    if not arguments.no_latency:
        columns += [f"{what} ms, {n} steps" for n in STEPS for what in ("median", "p95")]
    table = Table(*columns, title=f"{kind}, {device}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, routing in ROWS.items():
        config = configured(kind, routing, arguments.width, arguments.hidden)
        network = config.build(SIZES).to(device).eval()
        total = sum(p.numel() for p in network.parameters())
        sample = chunk_call(network, config, device)
        row = [name, f"{total:,}", f"{active_parameters(network, config):,}"]
        row += [f"{flops(sample, steps) / 1e6:.1f}" for steps in STEPS]
        if not arguments.no_latency:
            for steps in STEPS:
                measured = durations_ms(sample, steps, device)
                row += [f"{np.median(measured):.2f}", f"{np.quantile(measured, 0.95):.2f}"]
        table.add_row(*row)
    return table


def main() -> None:
    """Print one table per kind and device: the CPU, and CUDA where there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["mode"])
    parser.add_argument("--width", type=int, help="default: the kind's")
    parser.add_argument("--hidden", type=int, help="hidden width per token; default: the kind's")
    parser.add_argument("--no-latency", action="store_true", help="count, do not time")
    arguments, console = prepared(parser)
    for name in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for kind in arguments.kinds:
            console.print(measure(arguments, kind, torch.device(name)))


if __name__ == "__main__":
    main()
