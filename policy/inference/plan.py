"""Planned inference: what the steps of one schedule need, computed before the first chunk.

In sampling, sigma takes the few values of a schedule, so all that a network computes from it alone
is computed once: embeddings, modulations, which experts, what of them can be folded. A chunk then
begins with what no action changes (`Denoiser.encode`, `Denoiser.prepare`), and a step is left with
the actions. Same numbers as `Denoiser.forward`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from telic.policy.denoisers.denoiser import Denoiser, Level, MemoryT, PreparedT
from telic.policy.diffusion.formulation import CLEAN_SIGMA, Formulation
from telic.policy.diffusion.samplers import Denoise, Levels
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.inference.cuda_graph import ChunkGraphs


class Plan(Generic[MemoryT, PreparedT]):
    """The levels of one schedule, for a denoiser at rest and the weights it has now.

    joined: all levels as one of S rows; sigmas: f32 [S] on the denoiser's device; levels: the
    schedule, the last one 0; graphs: of the chunks drawn by it on a GPU.
    """

    def __init__(
        self,
        denoiser: Denoiser[MemoryT, PreparedT],
        formulation: Formulation,
        sampling: SamplingConfig,
    ) -> None:
        assert not denoiser.training
        self._denoiser, self._formulation = denoiser, formulation
        schedule = sampling.levels()[:-1]
        self._schedule = schedule.tolist()
        self.levels = Levels([*self._schedule, 0.0])
        self._places = {sigma: place for place, sigma in enumerate(self._schedule)}
        self._written = written(denoiser)
        self.graphs = ChunkGraphs()
        # not of inference mode: guidance differentiates through a step
        with torch.inference_mode(False), torch.no_grad():
            self.sigmas = schedule.to(next(denoiser.parameters()).device)
            network_sigmas = formulation.network_sigma(self.sigmas)
            self._unfolded = [denoiser.level(sigma) for sigma in network_sigmas.split(1)]
            self.joined = denoiser.join(self._unfolded)
            self._levels = [denoiser.fold(level) for level in self._unfolded]

    def begin(self, memory: MemoryT, fixed: Bool[Tensor, "b h"] | None = None) -> Denoise:
        """Return `denoise` for one chunk, or for a batch of them.

        memory: `Denoiser.encode` of the context. fixed: the actions that x holds without noise.
        ValueError if the weights have changed since the plan was made, and from `denoise` at a
        sigma that is not in its schedule. Where it is traced by torch.export, weights are symbols
        without memory of their own, so whoever traces has made the plan just before.
        """
        if not (torch.compiler.is_exporting() or self._current):
            raise ValueError(
                "the weights have changed since the plan was made; policy.plan() makes one of them "
                "as they are now"
            )
        memories = self._denoiser.prepare(self.joined, memory)
        levels, sigmas = self._levels, list(self.sigmas.split(1))
        if fixed is not None:
            levels = [
                self._denoiser.blend(level, self._clean, fixed, read)
                for level, read in zip(self._unfolded, memories, strict=True)
            ]
            sigmas = [torch.where(fixed, CLEAN_SIGMA, sigma) for sigma in sigmas]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            place = self._place(sigma)

            def network(y: Tensor, _: Tensor) -> Tensor:
                actions: Tensor = self._denoiser.step(y, levels[place], memories[place]).actions
                return actions

            return self._formulation.denoise(network, x, sigmas[place])

        return denoise

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Leave None where the owner is copied or pickled: a copy has weights of its own."""
        return type(None), ()

    def fits(self, denoiser: Denoiser, sampling: SamplingConfig) -> bool:
        """Return whether the plan is of that schedule and of these weights as they are now."""
        same = sampling.levels()[:-1].tolist() == self._schedule
        return same and denoiser is self._denoiser and self._current

    def expect_fixed(self) -> None:
        """Compute what chunks with fixed actions need; else the first of them does."""
        _ = self._clean

    @cached_property
    def _clean(self) -> Level:
        """Return the level of actions without noise; few plans are asked for it."""
        with torch.inference_mode(False), torch.no_grad():
            clean = torch.full_like(self.sigmas[:1], CLEAN_SIGMA)
            return self._denoiser.level(self._formulation.network_sigma(clean))

    @property
    def _current(self) -> bool:
        """Return whether all weights are as they were."""
        return all(weight.unchanged for weight in self._written)

    def _place(self, sigma: Tensor) -> int:
        for place, row in enumerate(self.levels.rows[:-1]):
            if row is sigma:  # of `levels`: nothing is read from it
                return place
        known_place = self._places.get(float(sigma))
        if known_place is None:
            known = ", ".join(f"{known:.4g}" for known in self._places)
            raise ValueError(
                f"sigma {float(sigma):.4g} is not in the plan's schedule ({known}); "
                "policy.plan(sampling) makes a plan of another one"
            )
        return known_place


@dataclass(frozen=True, slots=True)
class Written:
    """One weight as it was: where it is held, its memory, how often that had been written to."""

    owner: Mapping[str, Tensor | None]
    name: str
    weight: Tensor
    place: int
    count: int

    @property
    def unchanged(self) -> bool:
        """Return whether the same weight is still there and has the same numbers."""
        weight = self.weight
        same = self.owner.get(self.name) is weight and weight.data_ptr() == self.place
        return same and _count(weight) == self.count


def written(module: nn.Module) -> list[Written]:
    """Return the weights of a module as they are now."""
    return [
        Written(part._parameters, name, weight, weight.data_ptr(), _count(weight))
        for part in module.modules()
        for name, weight in part._parameters.items()
        if weight is not None
    ]


def _count(weight: Tensor) -> int:
    """Return how often a weight was written to.

    Those made in inference mode count nothing, and torch's fused optimizers report nothing
    (OptimizerConfig makes up for it).
    """
    return 0 if weight.is_inference() else weight._version
