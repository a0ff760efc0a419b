"""How long a chunk takes at batch 1 by torch and by the runtimes of exported graphs, in one run.

    python benchmarks/runtimes.py [--sizes small mode rdt] [--steps 1 2 10] [--threads 1]

The same chunks as latency.py times: from tokens to normalised actions, random weights. `err` is the
largest difference to the planned fp32 sampler, `x planned` how many times faster than it, by the
least of the durations, which what else runs on the machine disturbs least. Each way is measured by
turns with the planned sampler, so that it falls on both alike. Runtimes that are not installed are
left out, as are formats without kernels here.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency import SIZES, Chunk
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from telic.policy.denoisers.context import Context
from telic.policy.diffusion.sampling import PRESETS, SamplingConfig
from telic.policy.exported.formats import GraphPrecision, require_installed
from telic.policy.inference.machine import machine, versions
from telic.policy.inference.plan import Plan
from telic.policy.inference.precision import Precision, available, quantize

Call = Callable[[], np.ndarray]
Open = Callable[[], Call]
OURS = [Precision.fp32_packed, Precision.bf16, Precision.int8, Precision.w8a8]
ROUNDS, LIMIT_S = 20, 40.0


class Graph(nn.Module):
    """The planned sampler of a chunk as a function of the parts of its context that have tokens."""

    def __init__(self, chunk: Chunk, sampling: SamplingConfig) -> None:
        super().__init__()
        self.network, self.formulation, self.sampling = chunk.network, chunk.formulation, sampling
        self.plan: Any = Plan(chunk.network, chunk.formulation, sampling)
        parts = ("goal", "images", "state")
        self.names = [name for name in parts if getattr(chunk.context, name).shape[1]]
        self.blank = {name: getattr(chunk.context, name) for name in parts}
        self.examples = (*(self.blank[name] for name in self.names), chunk.noise)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return normalised actions."""
        *given, noise = tensors
        parts = dict(zip(self.names, given, strict=True))
        for name, blank in self.blank.items():
            parts.setdefault(name, given[0].new_zeros(1, 0, blank.shape[2]))
        memory = self.network.encode(Context(**parts))
        denoise = self.plan.begin(memory)
        return self.sampling.sample(denoise, noise, levels=self.plan.levels)


def torch_ways(size: str, sampling: SamplingConfig) -> dict[str, Open]:
    """Return what opens a chunk in each format of torch but float32, by what it is called."""

    def opened(precision: Precision) -> Call:
        chunk = torch_chunk(size)
        quantize(chunk.network, precision)
        return lambda: chunk.planned(sampling).numpy()

    formats = [precision for precision in OURS if precision in available(torch.device("cpu"))]
    return {f"torch {precision.value}": partial(opened, precision) for precision in formats}


def torch_chunk(size: str) -> Chunk:
    """Return a chunk of this size; its weights and inputs are the same each time."""
    torch.manual_seed(0)
    return Chunk(*SIZES[size], torch.device("cpu"))


@torch.no_grad()
def graph_ways(size: str, sampling: SamplingConfig, folder: Path, threads: int) -> dict[str, Open]:
    """Return what opens the exported chunk in each runtime and format."""
    graph = Graph(torch_chunk(size), sampling)
    traced = torch.export.export(graph, graph.examples, strict=False)
    names = [*graph.names, "noise"]
    program = torch.onnx.export(traced, input_names=names, dynamo=True, verbose=False)
    assert program is not None
    file = folder / "model.onnx"
    program.save(str(file), external_data=True)
    inputs = {name: t.numpy() for name, t in zip(names, graph.examples, strict=True)}
    del graph, traced, program
    gc.collect()
    ways: dict[str, Open] = {"onnxruntime fp32": partial(_onnxruntime, file, inputs, threads)}
    if find_spec("openvino") is not None:
        openvino = partial(_openvino, file, inputs, threads)
        ways["openvino fp32"] = partial(openvino, "f32")
        ways["openvino bf16"] = partial(openvino, "bf16")
        if find_spec("nncf") is not None:
            ways["openvino int8 (NNCF)"] = partial(openvino, "f32", int8=True)
    return ways


def _onnxruntime(file: Path, inputs: dict[str, np.ndarray], threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def _openvino(
    file: Path, inputs: dict[str, np.ndarray], threads: int, hint: str, *, int8: bool = False
) -> Call:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    if int8:
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = dict(enumerate(inputs.values()))
    return lambda: np.array(next(iter(request.infer(feed).values())))


def by_turns(first: Call, other: Call) -> tuple[list[float], list[float]]:
    """Return the durations of two calls in ms, one after the other in every round."""
    took: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    for number in range(ROUNDS):
        for call, durations in zip((first, other), took, strict=True):
            start = time.perf_counter()
            call()
            durations.append((time.perf_counter() - start) * 1e3)
        if number > 2 and time.perf_counter() - began > LIMIT_S:
            break
    return took


@torch.inference_mode()
def add_rows(table: Table, size: str, steps: str, threads: int, console: Console) -> None:
    """Measure one size at one number of steps; besides planned torch one way is open at a time."""
    sampling = PRESETS[steps]
    with tempfile.TemporaryDirectory() as folder:
        ways = graph_ways(size, sampling, Path(folder), threads)
        chunk = torch_chunk(size)

        def planned() -> np.ndarray:
            return chunk.planned(sampling).numpy()

        wanted = planned()
        for name, opened in (torch_ways(size, sampling) | ways).items():
            try:
                call = opened()
            except ValueError:  # no matrix is large enough for this format
                continue
            error = float(abs(call() - wanted).max())
            first, took = by_turns(planned, call)
            median, least = float(np.median(took)), min(took)
            row = (size, steps, name, f"{median:.2f}", f"{least:.2f}", f"{min(first):.2f}")
            table.add_row(*row, f"{min(first) / least:.2f}", f"{error:.1e}")
            console.print(*row, f"x {min(first) / least:.2f}", f"err {error:.1e}", style="dim")
            del call
            gc.collect()
    table.add_section()


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=list(PRESETS), default=["1", "2", "10"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["small", "mode", "rdt"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    try:
        require_installed(GraphPrecision.fp32)
    except ValueError as error:
        parser.error(str(error).replace("export-policy", "it"))
    torch.set_num_threads(arguments.threads)
    console = Console(width=120)
    facts = ", ".join(f"{key} {value}" for key, value in (machine() | versions()).items())
    console.print(f"{facts}, {date.today().isoformat()}", highlight=False, soft_wrap=True)
    table = Table(
        *("size", "steps", "how", "median ms", "least ms", "planned, least ms", "x planned", "err")
    )
    for size in arguments.sizes:
        for steps in arguments.steps:
            add_rows(table, size, steps, arguments.threads, console)
    console.print(table)


if __name__ == "__main__":
    main()
