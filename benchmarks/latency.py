"""How long a chunk takes at batch 1: kinds and sizes, by steps, plain, planned and in fewer bits.

    python benchmarks/latency.py [--steps 1 2 5 10] [--sizes small mode rdt] [--precision w8a8]

From tokens to normalised actions, the context encoded once in each chunk; `as published` encodes
it in every step, as the released RDT does. `MB` are the weights that the matrix products of a chunk
read, each as often as it is read; `x limit` is the latency in units of the time in which memory
delivers them, at the bandwidth measured in the same run. FLOPs as torch counts them. The last row
of `small` is `act_batch` of a whole policy, numpy to numpy. Weights are random: what a chunk costs
does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.sampling import PRESETS, SamplingConfig
from telic.policy.inference.device import pick_device
from telic.policy.inference.latency import chunk_latency_ms
from telic.policy.inference.machine import machine
from telic.policy.inference.plan import Plan
from telic.policy.inference.precision import WIDE, Precision, available, precision_named, quantize
from telic.policy.policy import Policy
from telic.spec import ArraySpec, FieldStats, Interface

# Meta-World's states for small; else what is published: two cameras and chunks of ten (MoDE; MDT-V
# behind its perceivers), 32 words, six pictures of 729 patches and chunks of 64 (RDT).
_RDT = Sizes(
    num_goals=32,
    num_images=4374,
    num_states=1,
    action_horizon=64,
    action_dim=128,
    obs_horizon=2,
    state_dim=128,
    num_patches=729,
)
SIZES: dict[str, tuple[DenoiserConfig, Sizes]] = {
    "small": (
        ModeConfig(),
        Sizes(num_goals=1, num_images=0, num_states=1, action_horizon=8, action_dim=4),
    ),
    "mode": (
        ModeConfig.published(),
        Sizes(num_goals=1, num_images=2, num_states=0, action_horizon=10, action_dim=7),
    ),
    "mdtv": (
        MdtConfig.published_v(),
        Sizes(num_goals=1, num_images=6, num_states=0, action_horizon=10, action_dim=7),
    ),
    "rdt": (RdtConfig.published(), _RDT),
    "rdt_1b": (RdtConfig.published_1b(), _RDT),
}
GPU_ONLY = ["rdt_1b"]
LIMIT_S = 6.0  # per row; at least MIN_CALLS are made
MIN_CALLS, MAX_CALLS, WARM_UP = 5, 200, 1
BITS = {Precision.bf16: 16, Precision.fp16: 16, Precision.int8: 8, Precision.w8a8: 8}  # others: 32
Sample = Callable[[SamplingConfig], Tensor]


class Reads(TorchDispatchMode):
    """Adds up the weights that matrix products read: bytes of wide matrices, and of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute `func`, and count its second factor where that is one matrix."""
        name = func.overloadpacket.__name__
        place = {"mm": 1, "addmm": 2, "linear": 1, "matmul": 1}.get(name)
        if place is not None and args[place].ndim == 2:
            matrix = args[place]
            count = matrix.numel() * matrix.element_size()
            if min(matrix.shape) >= WIDE:
                self.wide += count
            else:
                self.others += count
        return func(*args, **(kwargs or {}))


@dataclass
class Cost:
    """Of one chunk: floating-point operations, and bytes of weights in float32."""

    flops: float
    wide: int
    others: int

    def bytes_in(self, precision: Precision) -> float:
        """Return how many bytes of weights are read where the wide ones are in that format."""
        return self.wide * BITS.get(precision, 32) / 32 + self.others


class Chunk:
    """One chunk of a random denoiser, in several ways."""

    def __init__(self, config: DenoiserConfig, sizes: Sizes, device: torch.device) -> None:
        with torch.device(device):
            self.network: Denoiser = config.build(sizes).to(device).eval()
            state = sizes.state_dim if config.embeds_state else config.width
            self.context = Context(
                goal=torch.randn(1, sizes.num_goals, config.width),
                images=torch.randn(1, sizes.num_images, config.width),
                state=torch.randn(1, sizes.num_states, state),
            )
            self.noise = torch.randn(1, sizes.action_horizon, sizes.action_dim)
        self.formulation = config.default_formulation().build()
        self.plans: dict[str, Plan] = {}

    def as_published(self, sampling: SamplingConfig) -> Tensor:
        """Return a sample whose steps each encode the context."""

        def network(y: Tensor, s: Tensor) -> Tensor:
            return self.network(y, s, self.network.encode(self.context)).actions

        return sampling.sample(lambda x, s: self.formulation.denoise(network, x, s), self.noise)

    def plain(self, sampling: SamplingConfig) -> Tensor:
        """Return a sample that encodes the context once."""
        memory = self.network.encode(self.context)

        def network(y: Tensor, s: Tensor) -> Tensor:
            return self.network(y, s, memory).actions

        return sampling.sample(lambda x, s: self.formulation.denoise(network, x, s), self.noise)

    def planned(self, sampling: SamplingConfig) -> Tensor:
        """Return a sample by a plan, which the first one makes."""
        key = str(sampling)
        if key not in self.plans:
            self.plans[key] = Plan(self.network, self.formulation, sampling)
        return sampling.sample(self.plans[key].begin(self.network.encode(self.context)), self.noise)


@torch.inference_mode()
def cost(sample: Sample, sampling: SamplingConfig) -> Cost:
    """Return what one chunk costs, after a first one."""
    sample(sampling)
    with FlopCounterMode(display=False) as counter, Reads() as reads:
        sample(sampling)
    return Cost(counter.get_total_flops(), reads.wide, reads.others)


@torch.inference_mode()
def durations_ms(
    call: Callable[[], object], device: torch.device, clock: Callable[[], float]
) -> list[float]:
    """Return the durations of single calls after a warm-up, each waited for."""
    durations: list[float] = []
    began = time.perf_counter()
    while len(durations) < WARM_UP + MAX_CALLS:
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append((clock() - start) * 1e3)
        if time.perf_counter() - began > LIMIT_S and len(durations) >= WARM_UP + MIN_CALLS:
            break
    return durations[WARM_UP:]


def bandwidth(device: torch.device, clock: Callable[[], float]) -> float:
    """Return how many bytes a second are read: the sum of half a gigabyte."""
    data = torch.ones(2**27, device=device)
    return data.nbytes / (float(np.median(durations_ms(data.sum, device, clock)[:20])) / 1e3)


def small_policy(device: torch.device) -> Policy:
    """Return the default policy for a Meta-World task: state of 39 entries, actions of 4."""
    size = 39
    low, high, zero = -np.ones(size), np.ones(size), np.zeros(size)
    stats = FieldStats(minimum=low, maximum=high, mean=zero, std=high, q01=low, q99=high, count=1)
    interface = Interface(
        state=ArraySpec(shape=(size,)),
        action=ArraySpec(shape=(4,), minimum=(-1.0,), maximum=(1.0,)),
        rate_hz=80.0,
    )
    policy = Policy(PolicyConfig(), interface, {"state": stats}).to(device).eval()
    policy.set_embeddings({"reach": np.zeros(384, np.float32)})
    return policy


def ways_of(chunk: Chunk, name: str, precision: Precision) -> dict[str, Sample]:
    """Return the ways to sample that are measured of a size at a precision, the plainest first."""
    ways: dict[str, Sample] = {"planned": chunk.planned}
    if precision is Precision.fp32:
        ways = {"plain": chunk.plain} | ways
        if name.startswith("rdt"):
            ways = {"as published": chunk.as_published} | ways
    return ways


def measure(arguments: argparse.Namespace, device: torch.device, console: Console) -> Table:
    """Return the table of one device."""
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    speed = bandwidth(device, clock)
    table = Table(
        *("size", "steps", "how", "median ms", "p95 ms", "GFLOP", "MB", "x limit", "x plain"),
        title=f"{device}, weights at {speed / 1e9:.1f} GB/s",
    )
    for column in table.columns[3:]:
        column.justify = "right"

    def add(name: str, steps: str, how: str, took: list[float], *more: str) -> float:
        median = float(np.median(took))
        table.add_row(name, steps, how, f"{median:.2f}", f"{np.quantile(took, 0.95):.2f}", *more)
        console.print(f"{name} {steps} {how}: {median:.2f} ms", style="dim")
        return median

    formats = [precision for precision in arguments.precision if precision in available(device)]
    for name in arguments.sizes:
        if name in GPU_ONLY and device.type != "cuda":
            continue
        plain: dict[str, float] = {}
        costs: dict[str, Cost] = {}
        for precision in [Precision.fp32, *formats]:
            if precision is not Precision.fp32 and not costs["planned", arguments.steps[0]].wide:
                continue
            chunk = Chunk(*SIZES[name], device)
            quantize(chunk.network, precision)
            ways = ways_of(chunk, name, precision)
            for steps in arguments.steps:
                for way, sample in ways.items():
                    if precision is Precision.fp32:
                        costs[way, steps] = cost(sample, PRESETS[steps])
                    spent = costs[way, steps]
                    took = durations_ms(lambda: sample(PRESETS[steps]), device, clock)  # noqa: B023
                    median = float(np.median(took))
                    if way == "plain":
                        plain[steps] = median
                    size = spent.bytes_in(precision)
                    add(
                        name,
                        steps,
                        f"{way} {precision.value}",
                        took,
                        f"{spent.flops / 1e9:.3g}",
                        f"{size / 1e6:.1f}",
                        f"{median / 1e3 / (size / speed):.2f}",
                        f"{plain[steps] / median:.2f}" if steps in plain else "",
                    )
            table.add_section()
        if name == "small":
            policy = small_policy(device)
            for steps in arguments.steps:
                policy.sampling = PRESETS[steps]
                add(name, steps, "whole policy", chunk_latency_ms(policy, "reach"))
            table.add_section()
    return table


def _precision(name: str) -> Precision:
    """Return `precision_named`, whose message argparse shows."""
    try:
        return precision_named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def prepared(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Console]:
    """Add --threads, read the command line, print machine and date; return it and the console."""
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    console = Console()
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    console.print(f"{facts}, {date.today().isoformat()}", highlight=False, soft_wrap=True)
    return arguments, console


def main() -> None:
    """Print one table per device: the CPU, and CUDA where there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument(
        "--precision",
        nargs="*",
        type=_precision,
        default=[Precision.fp32_packed, Precision.fp16, Precision.bf16, Precision.w8a8],
        help="formats besides fp32; those without kernels on a device are left out",
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's own time (with --threads 1), where others share the machine",
    )
    arguments, console = prepared(parser)
    for name in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        console.print(measure(arguments, pick_device(name), console))


if __name__ == "__main__":
    main()
