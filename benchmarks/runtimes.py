"""How long a chunk takes at batch 1 by torch and by the runtimes of exported graphs, in one run.

    python benchmarks/runtimes.py [--sizes small mode rdt] [--steps 1 2 10] [--threads 1]

The same chunks as latency.py times: from tokens to normalised actions, random weights. `err` is the
largest difference to the planned fp32 sampler, `x planned` how many times faster than it, by the
least of the durations, which what else runs on the machine disturbs least. Rows are measured by
turns, so that it falls on all alike. Runtimes that are not installed are left out, as are formats
without kernels here.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency import SIZES, Chunk
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from telic.policy.denoisers.denoiser import Context
from telic.policy.diffusion.sampling import PRESETS, SamplingConfig
from telic.policy.exported.formats import GraphPrecision, require_installed
from telic.policy.inference.machine import machine, versions
from telic.policy.inference.plan import Plan
from telic.policy.inference.precision import Precision, available, quantize

Call = Callable[[], np.ndarray]
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


def torch_calls(size: str, sampling: SamplingConfig) -> dict[str, Call]:
    """Return what samples a chunk in each format of torch, by what it is called."""
    calls: dict[str, Call] = {}
    formats = [Precision.fp32, *(p for p in OURS if p in available(torch.device("cpu")))]
    for precision in formats:
        torch.manual_seed(0)
        chunk = Chunk(*SIZES[size], torch.device("cpu"))
        try:
            quantize(chunk.network, precision)
        except ValueError:  # no matrix is large enough
            continue
        name = "planned" if precision is Precision.fp32 else precision.value
        calls[f"torch {name}"] = lambda chunk=chunk: chunk.planned(sampling).numpy()
    return calls


@torch.no_grad()
def graph_calls(size: str, sampling: SamplingConfig, folder: Path, threads: int) -> dict[str, Call]:
    """Return what runs the exported chunk in each runtime and format."""
    torch.manual_seed(0)
    graph = Graph(Chunk(*SIZES[size], torch.device("cpu")), sampling)
    traced = torch.export.export(graph, graph.examples, strict=False)
    names = [*graph.names, "noise"]
    program = torch.onnx.export(traced, input_names=names, dynamo=True, verbose=False)
    assert program is not None
    file = folder / "model.onnx"
    program.save(str(file), external_data=True)
    inputs = {name: t.numpy() for name, t in zip(names, graph.examples, strict=True)}
    del graph, traced, program
    gc.collect()
    calls: dict[str, Call] = {}
    if find_spec("onnxruntime") is not None:
        calls["onnxruntime fp32"] = _onnxruntime(file, inputs, threads)
    if find_spec("openvino") is not None:
        calls |= _openvino(file, inputs, threads)
    return calls


def _onnxruntime(file: Path, inputs: dict[str, np.ndarray], threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def _openvino(file: Path, inputs: dict[str, np.ndarray], threads: int) -> dict[str, Call]:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    values = list(inputs.values())

    def call(model: Any, hint: str) -> Call:
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feed = dict(enumerate(values))
        return lambda: np.array(next(iter(request.infer(feed).values())))

    calls = {"openvino fp32": call(model, "f32"), "openvino bf16": call(model, "bf16")}
    if find_spec("nncf") is not None:
        import nncf

        small = nncf.compress_weights(core.read_model(file), mode=nncf.CompressWeightsMode.INT8_SYM)
        calls["openvino int8 (NNCF)"] = call(small, "f32")
    return calls


@torch.inference_mode()
def by_turns(calls: dict[str, Call]) -> dict[str, list[float]]:
    """Return the durations of each call in ms, each in every round, after a first one."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for number in range(1 + ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                took[name].append((time.perf_counter() - start) * 1e3)
        if number > 2 and time.perf_counter() - began > LIMIT_S:
            break
    return took


def add_rows(table: Table, size: str, steps: str, threads: int, console: Console) -> None:
    """Measure one size at one number of steps."""
    sampling = PRESETS[steps]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        graphs = graph_calls(size, sampling, Path(folder), threads)
        calls = torch_calls(size, sampling) | graphs
        wanted = calls["torch planned"]()
        errors = {name: float(abs(call() - wanted).max()) for name, call in calls.items()}
        took = by_turns(calls)
    first = min(took["torch planned"])
    for name, durations in took.items():
        least = min(durations)
        row = (size, steps, name, f"{float(np.median(durations)):.2f}", f"{least:.2f}")
        table.add_row(*row, f"{first / least:.2f}", f"{errors[name]:.1e}")
        console.print(*row, f"x {first / least:.2f}", f"err {errors[name]:.1e}", style="dim")
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
    table = Table("size", "steps", "how", "median ms", "least ms", "x planned", "err")
    for size in arguments.sizes:
        for steps in arguments.steps:
            add_rows(table, size, steps, arguments.threads, console)
    console.print(table)


if __name__ == "__main__":
    main()
