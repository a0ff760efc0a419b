"""A chunk as one CUDA graph: its kernels are recorded once and launched together from then on.

At batch 1 a small network waits for launches more than for kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from telic.policy.layers.tensors import each_tensor, tensors_of

MOST = 8  # graphs kept, each with memory of its own; chunks of further shapes run without
_WARM_UPS = 3

InputsT = TypeVar("InputsT")  # a tree of tensors (tensors.py)
Key = tuple[object, ...]


class ChunkGraphs:
    """Graphs of chunks, one for each way of drawing them and each shape of what goes in.

    They hold the memory of the weights and the levels that they were recorded with, so they live
    no longer than a plan.
    """

    def __init__(self) -> None:
        self._graphs: dict[Key, ChunkGraph | None] = {}  # None: could not be recorded

    def run(self, how: str, sample: Callable[[InputsT], Tensor], inputs: InputsT) -> Tensor:
        """Return `sample(inputs)`, from a graph where one can be had.

        how: what the kernels depend on besides shapes; inputs: a tree of tensors.
        Warns, once for a shape, where recording fails.
        """
        key = (how, *((name, t.shape, t.dtype) for name, t in tensors_of(inputs).items()))
        if key not in self._graphs and len(self._graphs) < MOST:
            self._graphs[key] = _record(sample, inputs)
        graph = self._graphs.get(key)
        return sample(inputs) if graph is None else graph(inputs)


class ChunkGraph(Generic[InputsT]):
    """One recorded chunk; raises RuntimeError where CUDA cannot record it."""

    def __init__(self, sample: Callable[[InputsT], Tensor], inputs: InputsT) -> None:
        kept = each_tensor(inputs, Tensor.clone)
        self._inputs = tensors_of(kept)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries set up at a first call is not recorded
            for _ in range(_WARM_UPS):
                sample(kept)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = sample(kept)

    def __call__(self, inputs: InputsT) -> Tensor:
        """Return the chunk of these inputs, in memory of its own."""
        for name, tensor in tensors_of(inputs).items():
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return self._out.clone()


def _record(sample: Callable[[InputsT], Tensor], inputs: InputsT) -> ChunkGraph[InputsT] | None:
    try:
        return ChunkGraph(sample, inputs)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"chunks run without a CUDA graph: {reason}", RuntimeWarning, stacklevel=2)
        return None
