"""How long a chunk takes: the small policy and the published MoDE, by denoising steps, batch 1.

    python benchmarks/latency.py [--steps 1 2 5 10] [--sizes small published] [--threads N]

`whole policy` is `act_batch` of one request: checks, encoders, sampling, numpy to numpy.
`denoiser` is sampling alone, from tokens to normalised actions. Weights are random: what a chunk
costs does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from telic.policy.denoiser import Context, Sizes
from telic.policy.device import pick_device
from telic.policy.edm import EdmConfig
from telic.policy.latency import chunk_latency_ms
from telic.policy.machine import machine
from telic.policy.mode import ModeConfig
from telic.policy.policy import Policy, PolicyConfig
from telic.policy.sampling import PRESETS, SamplingConfig
from telic.spec import ArraySpec, FieldStats, Interface

SIZES = {"small": ModeConfig(), "published": ModeConfig.published()}
TOKENS = {  # what each is conditioned on: a state; two cameras and chunks of ten, as published
    "small": Sizes(num_goals=1, num_images=0, num_states=1, action_horizon=8, action_dim=4),
    "published": Sizes(num_goals=1, num_images=2, num_states=0, action_horizon=10, action_dim=7),
}
LIMIT_S = 6.0  # per row; at least MIN_CALLS are made
MIN_CALLS, MAX_CALLS, WARM_UP = 7, 200, 3


def small_policy(device: torch.device) -> Policy:
    """Return the default policy for a Meta-World task: state of 39 entries, actions of 4."""
    size = 39
    stats = FieldStats(
        minimum=-np.ones(size),
        maximum=np.ones(size),
        mean=np.zeros(size),
        std=np.ones(size),
        q01=-np.ones(size),
        q99=np.ones(size),
        count=1,
    )
    interface = Interface(
        state=ArraySpec(shape=(size,)),
        action=ArraySpec(shape=(4,), minimum=(-1.0,), maximum=(1.0,)),
        rate_hz=80.0,
    )
    policy = PolicyConfig().build(interface, {"state": stats}).to(device).eval()
    policy.set_embeddings({"reach": np.zeros(384, np.float32)})
    return policy


def denoiser_call(size: str, device: torch.device) -> Callable[[SamplingConfig], Tensor]:
    """Return a function that samples one chunk from the random denoiser of `size`."""
    sizes, config = TOKENS[size], SIZES[size]
    with torch.device(device):
        network = config.build(sizes).eval()
        goal, images, state = (
            torch.randn(1, count, config.width)
            for count in (sizes.num_goals, sizes.num_images, sizes.num_states)
        )
        noise = torch.randn(1, sizes.action_horizon, sizes.action_dim)
    context = Context(goal=goal, images=images, state=state)
    edm = EdmConfig().build()

    def sample(sampling: SamplingConfig) -> Tensor:
        memory = network.encode(context)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return edm.denoise(lambda y, s: network(y, s, memory).actions, x, sigma)

        return sampling.sample(denoise, noise)

    return sample


@torch.inference_mode()
def durations_ms(call: Callable[[], object], device: torch.device) -> list[float]:
    """Return the durations of single calls after a warm-up, each waited for."""
    durations: list[float] = []
    began = time.perf_counter()
    while len(durations) < WARM_UP + MAX_CALLS:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        end = time.perf_counter()
        durations.append((end - start) * 1e3)
        if end - began > LIMIT_S and len(durations) >= WARM_UP + MIN_CALLS:
            break
    return durations[WARM_UP:]


def measure(sizes: list[str], steps: list[str], device: torch.device) -> Table:
    """Return the table for one device."""
    table = Table(
        "size", "what", "steps", "median ms", "p95 ms", f"x {steps[0]}", title=str(device)
    )
    for column in table.columns[2:]:
        column.justify = "right"

    def add(size: str, what: str, measured: dict[str, list[float]]) -> None:
        medians = {name: float(np.median(values)) for name, values in measured.items()}
        for name, values in measured.items():
            ratio = medians[name] / medians[steps[0]]
            p95 = float(np.quantile(values, 0.95))
            table.add_row(size, what, name, f"{medians[name]:.2f}", f"{p95:.2f}", f"{ratio:.2f}")
        table.add_section()

    for size in sizes:
        if size == "small":
            policy = small_policy(device)
            whole = {}
            for name in steps:
                policy.sampling = PRESETS[name]
                whole[name] = chunk_latency_ms(policy, "reach")
            add(size, "whole policy", whole)
        sample = denoiser_call(size, device)
        alone = {name: durations_ms(partial(sample, PRESETS[name]), device) for name in steps}
        add(size, "denoiser", alone)
    return table


def main() -> None:
    """Print one table per device: the CPU, and CUDA where there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=list(PRESETS), default=["1", "2", "5", "10"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    console = Console()
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    console.print(f"{facts}, {date.today().isoformat()}", highlight=False, soft_wrap=True)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for name in devices:
        table = measure(arguments.sizes, arguments.steps, pick_device(name))
        console.print(table)


if __name__ == "__main__":
    main()
