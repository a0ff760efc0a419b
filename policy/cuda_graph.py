"""A chunk as one CUDA graph: its kernels are recorded once and launched together from then on.

At batch 1 a small network waits for launches more than for kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from telic.policy.denoiser import Context

MOST = 8  # graphs kept, each with memory of its own; chunks of further shapes run without
_WARM_UPS = 3

Draw = Callable[[Context, Tensor], Tensor]
Key = tuple[object, ...]


class ChunkGraphs:
    """Graphs of chunks, one for each way of drawing them and each shape of what goes in.

    They hold the memory of the weights and the levels that they were recorded with, so they live
    no longer than a plan.
    """

    def __init__(self) -> None:
        self._graphs: dict[Key, ChunkGraph | None] = {}  # None: could not be recorded

    def draw(self, how: str, draw: Draw, context: Context, noise: Tensor) -> Tensor:
        """Return `draw(context, noise)`, from a graph where one can be had.

        how: what the kernels depend on besides shapes. Warns, once for a shape, where recording
        fails.
        """
        key = (how, *((name, t.shape, t.dtype) for name, t in tensors(context, noise).items()))
        if key not in self._graphs and len(self._graphs) < MOST:
            self._graphs[key] = _record(draw, context, noise)
        graph = self._graphs.get(key)
        return draw(context, noise) if graph is None else graph(context, noise)


class ChunkGraph:
    """One recorded chunk; raises RuntimeError where CUDA cannot record it."""

    def __init__(self, draw: Draw, context: Context, noise: Tensor) -> None:
        kept = {name: tensor.clone() for name, tensor in tensors(context, noise).items()}
        self._inputs = dict(kept)
        noise = kept.pop("noise")
        context = replace(context, **kept)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries set up at a first call is not recorded
            for _ in range(_WARM_UPS):
                draw(context, noise)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = draw(context, noise)

    def __call__(self, context: Context, noise: Tensor) -> Tensor:
        """Return the chunk of these inputs, in memory of its own."""
        for name, tensor in tensors(context, noise).items():
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return self._out.clone()


def tensors(context: Context, noise: Tensor) -> dict[str, Tensor]:
    """Return what a chunk is drawn from, by name."""
    parts = {field.name: getattr(context, field.name) for field in fields(context)}
    return {name: part for name, part in parts.items() if part is not None} | {"noise": noise}


def _record(draw: Draw, context: Context, noise: Tensor) -> ChunkGraph | None:
    try:
        return ChunkGraph(draw, context, noise)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"chunks run without a CUDA graph: {reason}", RuntimeWarning, stacklevel=2)
        return None
