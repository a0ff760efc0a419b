"""How a chunk is sampled: from noise, or from anchors, down the levels of a plan.

B samples, M anchors that each is drawn from (1: none, or the best), H actions of A values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context
from telic.policy.denoisers.denoiser import Denoiser, MemoryT, PreparedT
from telic.policy.diffusion.formulation import Formulation
from telic.policy.diffusion.samplers import Denoise
from telic.policy.diffusion.sampling import SamplingConfig, first_non_finite
from telic.policy.encoders.fields import Batch
from telic.policy.encoders.normalizer import Normalizer
from telic.policy.inference.plan import Plan
from telic.policy.inference.prefix import Prefix
from telic.policy.inference.truncated import StartConfig, Starts, Truncated
from telic.policy.layers.tensors import repeat_rows

ANCHORED = ("state", "action_slots", "prefix", "prefix_known")  # what anchors read of a batch


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkInputs:
    """All that a chunk is a function of, besides weights and settings; tensors alone.

    noise: [draws B H A], standard normal, the first for the start; gumbel_noise: [B K], where an
    anchor is drawn; prefix: what chunks go on from; anchored: the fields `ANCHORED` of the batch,
    as far as it has them.
    """

    context: Context
    noise: Tensor
    gumbel_noise: Tensor | None = None
    prefix: Prefix | None = None
    anchored: Batch = field(default_factory=Batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSampling(Generic[MemoryT, PreparedT]):
    """The settings of one call of `sample_chunk`.

    plan: of `sampling`; truncated: the anchors to start from, None for noise alone;
    padding: the slots that a robot has not got are denoised too (`policy.train_padding`); beta: of
    `PrefixConfig`.
    """

    denoiser: Denoiser[MemoryT, PreparedT]
    plan: Plan[MemoryT, PreparedT]
    sampling: SamplingConfig
    padding: bool
    truncated: Truncated | None
    start: StartConfig
    beta: float

    def __call__(self, inputs: ChunkInputs) -> Float[Tensor, "b h a"]:
        """Return normalised actions; ValueError where they are not finite."""
        guided = inputs.prefix is not None and inputs.prefix.pull is not None
        if inputs.noise.is_cuda and not guided:  # a backward pass is not recorded
            how = repr((self.sampling, self.truncated is None or self.start))
            sampled = self.plan.graphs.run(how, self.sample, inputs)
        else:
            sampled = self.sample(inputs)
        if not bool(torch.isfinite(sampled).all()):
            begin = self._start(inputs)
            raise ValueError(
                first_non_finite(
                    self.sampling, begin.denoise, begin.noise[0], begin.noise[1:], begin.start
                )
            )
        return sampled

    def sample(self, inputs: ChunkInputs) -> Float[Tensor, "b h a"]:
        """Return the same, finite or not.

        It stays on the device and asks it for no number, so that a CUDA graph can hold it.
        """
        begin = self._start(inputs)
        sampled = self.sampling.sample(
            begin.denoise, begin.noise[0], begin.noise[1:], begin.start, self.plan.levels
        )
        if begin.prefix is not None:
            sampled = begin.prefix.settle(sampled)
        if begin.starts is None:
            return sampled
        assert self.truncated is not None
        denoised = sampled.unflatten(0, (-1, self.start.best))
        return self.truncated.choose(begin.starts, denoised, inputs.anchored)

    def _start(self, inputs: ChunkInputs) -> _Start:
        memory, noise = self.denoiser.encode(inputs.context), inputs.noise
        slots = None if self.padding else inputs.context.action_mask
        starts, start, prefix = None, None, inputs.prefix
        if self.truncated is not None:
            latent = self.denoiser.latent(memory)
            starts = self.truncated.starts(latent, inputs.anchored, self.start, inputs.gumbel_noise)
            memory, slots, prefix = repeat_rows((memory, slots, prefix), self.start.best)
            noise = noise.repeat_interleave(self.start.best, 1)
            start = mask_slots(slots, starts.chunks.flatten(0, 1))
        planned = self.plan.begin(memory, None if prefix is None else prefix.fixed)
        if prefix is not None:
            planned = prefix.around(planned, self.beta)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return mask_slots(slots, planned(x, sigma))

        noise = mask_slots(slots, noise)
        return _Start(noise=noise, denoise=denoise, starts=starts, start=start, prefix=prefix)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """What sampling starts with: noise [draws B M H A], start [B M H A] or None."""

    noise: Tensor
    denoise: Denoise
    starts: Starts | None
    start: Tensor | None
    prefix: Prefix | None


def _anchored(batch: Batch) -> Batch:
    """The fields of a batch that anchors read."""
    fields = cast(Mapping[str, Tensor], batch)
    return cast(Batch, {name: fields[name] for name in ANCHORED if name in fields})


def mask_slots(slots: Bool[Tensor, "b a"] | None, actions: Tensor) -> Tensor:
    """Return actions [... B H A] with 0 outside of slots; None: as they are."""
    return actions if slots is None else actions * slots.unsqueeze(1)


class ChunkSampler(Generic[MemoryT, PreparedT]):
    """Samples the chunks of a batch: `sample_chunk`. It keeps the plan of the last schedule."""

    def __init__(
        self,
        config: PolicyConfig,
        denoiser: Denoiser[MemoryT, PreparedT],
        formulation: Formulation,
        normalizer: Normalizer,
        truncated: Truncated | None,
    ) -> None:
        self._config, self._truncated, self._normalizer = config, truncated, normalizer
        self._denoiser, self._formulation = denoiser, formulation
        self._plan: Plan[MemoryT, PreparedT] | None = None

    def plan(self, sampling: SamplingConfig) -> Plan[MemoryT, PreparedT]:
        """Return the plan of a sampling for the weights as they are now; the denoiser is at rest.

        The last one is returned again until the schedule or a weight is another.
        """
        if self._plan is None or not self._plan.fits(self._denoiser, sampling):
            self._plan = Plan(self._denoiser, self._formulation, sampling)
        return self._plan

    def num_uniforms(self, start: StartConfig) -> int:
        """The number of uniform values that choose a chunk's anchor: K, or 0."""
        drawn = start.best > 0 and start.temperature > 0
        return self._config.anchors.count if drawn else 0

    def sample_chunk(
        self,
        batch: Batch,
        context: Context,
        sampling: SamplingConfig,
        start: StartConfig,
        noise: Float[Tensor, "n b h a"],
        gumbel_noise: Float[Tensor, "b k"] | None,
    ) -> Float[Tensor, "b h a"]:
        """Return actions in physical units. noise, gumbel_noise: as in `ChunkInputs`."""
        sample = self.settings(sampling, start)
        inputs = self.inputs(batch, context, noise, gumbel_noise)
        return self._normalizer.unnormalize(sample(inputs))

    def settings(
        self, sampling: SamplingConfig, start: StartConfig
    ) -> ChunkSampling[MemoryT, PreparedT]:
        """Return what chunks of a sampling are drawn by, its plan made."""
        truncated = self._truncated if start.best else None
        if truncated is not None:
            sampling = sampling.truncated(truncated.sigma_trunc)
        return ChunkSampling(
            denoiser=self._denoiser,
            plan=self.plan(sampling),
            sampling=sampling,
            padding=self._config.train_padding,
            truncated=truncated,
            start=start,
            beta=self._config.prefix.beta,
        )

    def inputs(
        self,
        batch: Batch,
        context: Context,
        noise: Float[Tensor, "n b h a"],
        gumbel_noise: Float[Tensor, "b k"] | None,
    ) -> ChunkInputs:
        """Return what the chunks of a batch are a function of."""
        return ChunkInputs(
            context=context,
            noise=noise,
            gumbel_noise=gumbel_noise,
            prefix=self._prefix(batch),
            anchored=_anchored(batch),
        )

    def _prefix(self, batch: Batch) -> Prefix | None:
        """Return what the chunks go on from, None where none does."""
        fixed, pull = batch.get("prefix_fixed"), batch.get("prefix_pull")
        if fixed is None and pull is None:
            return None
        slots = batch.get("action_slots")
        if pull is not None:
            pull = mask_slots(slots, pull.unsqueeze(2))
        actions = mask_slots(slots, self._normalizer.normalize(batch["prefix"]))
        return Prefix(actions=actions, fixed=fixed, pull=pull)
