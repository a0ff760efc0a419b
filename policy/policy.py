"""The policy: observation and goal in, a chunk of actions out; a batch of windows in, a loss out.

B batch, O observation horizon, P state size, H action horizon, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.embodiment import Space
from telic.policy.batch import RequestBatcher
from telic.policy.chunk_sampler import ChunkSampler, mask_slots
from telic.policy.conditioning import Conditioner
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import DenoiserConfig, Fixed
from telic.policy.diffusion.formulation import CLEAN_SIGMA, squared_error
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.fields import Batch, to_device
from telic.policy.inference.plan import Plan
from telic.policy.inference.prefix import Prefixer, Prefixing, draw_fixed, show_fixed
from telic.policy.inference.truncated import StartConfig, Truncated
from telic.policy.layers.tensors import repeat_rows
from telic.policy.noise import gumbel, uniform_values, unit_noise
from telic.policy.objectives.anchors import AnchorSet
from telic.policy.objectives.future import Future
from telic.policy.objectives.objective import LossTerms, ObjectiveContext
from telic.spec import (
    ActionChunk,
    ActRequest,
    Array,
    FieldStats,
    Goal,
    GoalKinds,
    Interface,
    Observation,
)

ChunkFunction = Callable[..., Tensor]  # (batch, noise, gumbel_noise=None) -> actions


class Policy(nn.Module):
    """Normalizers, encoders, denoiser and formulation. A `telic.spec.ChunkPolicy`.

    `sampling` may be replaced at any time, and the robot of the unified space
    (`use_embodiment`), which anchors chunks begin from (`start_from`), and how they go on from
    prefixes (`prefixer.use`).
    Everything random in training is drawn from the generator given to `loss` (dropout of units
    alone from torch's own).
    """

    def __init__(
        self,
        config: PolicyConfig,
        interface: Interface,
        stats: Mapping[str, FieldStats],
        robots: Mapping[str, Interface] | None = None,
    ) -> None:
        super().__init__()
        if (config.space is Space.unified) != bool(robots):
            raise ValueError("policy.space=unified and the robots to map there go together")
        self.config = config = config.resolved()
        self.stats = dict(stats)
        self.obs_horizon, self.action_horizon = config.obs_horizon, config.action_horizon
        assert config.formulation is not None
        self.formulation = config.formulation.build()
        self.action_normalizer = config.action.build(
            "action", interface.action, stats.get("action")
        )
        self.action_dim = len(self.action_normalizer.center)
        self._action_spec = interface.action
        self.conditioner = Conditioner(config, interface, stats)
        self.denoiser = self.denoiser_config.build(self._sizes())
        around = self._objective_context(interface)
        self.objectives = nn.ModuleDict({o.name: o.build(around) for o in config.objectives})
        self.sampling, self.start = config.sampling, config.anchors.start
        self.prefixer = Prefixer(config.prefix)
        self._chunk_sampler = ChunkSampler(
            config, self.denoiser, self.formulation, self.action_normalizer, self.truncated
        )
        self._batcher = RequestBatcher(self.conditioner.request_spec, robots or {})
        self.interface, self.robots = self.conditioner.request_spec.interface, self._batcher.robots
        if self.robots:
            self.use_embodiment(next(iter(self.robots)))
        if config.anchors.on:
            self.start_from(self.start)

    def _sizes(self) -> Sizes:
        """The sizes of the denoiser's context and chunk."""
        conditioner, encoder = self.conditioner, self.conditioner.image_encoder
        return Sizes(
            num_goals=conditioner.goal_encoder.num_tokens,
            num_images=encoder.num_tokens if encoder else 0,
            num_states=conditioner.num_states,
            action_horizon=self.action_horizon,
            action_dim=self.action_dim,
            obs_horizon=self.obs_horizon,
            state_dim=conditioner.state_features.size,
            num_patches=encoder.num_patches if encoder else 1,
        )

    def _objective_context(self, interface: Interface) -> ObjectiveContext:
        """The parts of the policy that its auxiliary objectives are built for."""
        return ObjectiveContext(
            width=self.denoiser_config.width,
            cameras=self.conditioner.cameras,
            goals=self.config.goal.modalities,
            towers=list(self.conditioner.towers.values()),
            interface=interface,
            action_horizon=self.action_horizon,
            action=self.action_normalizer,
            sentence_dim=self.conditioner.sentence_dim,
            picture_dim=self.conditioner.goal_encoder.picture_dim,
            stats=self.stats,
        )

    def use_embodiment(self, robot: str) -> None:
        """Act for this robot from now on; ValueError if the policy was not trained for it."""
        self.interface = self._batcher.use_embodiment(robot)

    @property
    def truncated(self) -> Truncated | None:
        """Return the anchors and their scores, None for a policy without."""
        return cast(Truncated, self.objectives["anchors"]) if self.config.anchors.on else None

    def use_anchors(self, anchors: AnchorSet) -> None:
        """Begin from these; ValueError where they do not fit, nor sigma_trunc the schedule."""
        if self.truncated is None:
            raise ValueError("the policy has no anchors; set policy.anchors.count")
        self.truncated.use(anchors)
        self.sampling.truncated(self.truncated.sigma_trunc)

    def start_from(self, start: StartConfig) -> None:
        """Choose among the anchors so from now on; ValueError where there are none or too few."""
        self.config.anchors.require(start)
        self.start = start

    def forward(self, batch: Batch, generator: torch.Generator, draws: int = 1) -> LossTerms:
        """Return `loss`; the name by which wrappers such as DDP call it."""
        return self.loss(batch, generator, draws)

    def loss(self, batch: Batch, generator: torch.Generator, draws: int = 1) -> LossTerms:
        """Return the training loss of a batch of windows.

        batch: `state` [B O P] and `action` [B H A] in physical units, `action_mask` bool [B H],
        `image/<camera>` u8 [B O h w 3], the goals that `GoalEncoder` reads, and the fields of the
        objectives, which are for training alone. In the unified space also what `Embodiment.into`
        adds; slots not in use hold neither action nor, unless padding is trained, noise and loss.

        draws: noise levels and noises of each window, M; context and auxiliary objectives are
        computed once for all of them (the two-level batches of Mini-Diffuser, Hu et al. 2025).
        """
        clean = self.action_normalizer.normalize(batch["action"].float())
        known, slots = batch.get("action_mask"), batch.get("action_slots")
        clean, known, slots = repeat_rows((clean, known, slots), draws)
        device = clean.device
        sigma = self.formulation.draw_sigma(len(clean), generator, device, self._highest_sigma)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        clean, noise = mask_slots(slots, clean), mask_slots(self._trained(slots), noise)
        network_sigma, fixed = sigma, self._draw_fixed(clean, generator)
        if fixed is not None:
            noise, network_sigma = show_fixed(noise, sigma, fixed.mask)
            known = ~fixed.mask if known is None else known & ~fixed.mask
        pair = self.formulation.training_pair(clean, noise, network_sigma)
        goals = self.conditioner.goals(batch, generator)
        context, views = self.conditioner.context_and_views(
            batch, goals, generator, self.interface.rate_hz
        )
        memory = self.denoiser.encode(context)
        repeated = repeat_rows(memory, draws)
        prediction = self.denoiser(pair.network_input, sigma, repeated, generator, fixed)
        per_sample = squared_error(prediction.actions, pair.target, known, self._trained(slots))
        parts = {"diffusion": per_sample.mean(), **prediction.losses}
        weights = self.denoiser_config.loss_weights()
        if self.training:
            encoded = self.conditioner.encoded(batch, goals, context, memory, self.denoiser, views)
            for config in self.config.objectives:
                parts[config.name] = self.objectives[config.name](encoded, generator)
                weights[config.name] = config.weight
        own = [weights[name] * parts[name] for name in parts if name != "diffusion"]
        return LossTerms(
            total=sum(own, parts["diffusion"]),
            parts=parts,
            per_sample=per_sample,
            sigma=sigma,
            draws=draws,
        )

    def _draw_fixed(self, clean: Tensor, generator: torch.Generator) -> Fixed | None:
        """Return which actions of a training batch [B H A] are given without noise, and as what."""
        if not self.training or not self.config.prefix.max_delay:
            return None
        count, horizon, _ = clean.shape
        mask = draw_fixed(self.config.prefix.max_delay, count, horizon, generator, clean.device)
        return Fixed(mask, self.formulation.network_sigma(clean.new_full((1,), CLEAN_SIGMA)))

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Return what a batch of windows, or of observations and goals, conditions the chunk on.

        batch: as `loss` takes it, without actions. `generator` draws what training augments and
        hides.
        """
        return self.conditioner.condition(batch, self.interface.rate_hz, generator)

    def _trained(self, slots: Tensor | None) -> Tensor | None:
        """Return the slots that noise and loss are kept within, None for all."""
        return None if self.config.train_padding else slots

    @torch.no_grad()
    def predict(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b h a"]:
        """Return sampled actions for a batch of windows, in physical units, within bounds (the
        unified space has none, and 0 in slots not in use)."""
        shape = (len(batch["state"]), self.action_horizon, self.action_dim)
        noise = torch.randn(
            (self.sampling.num_draws, *shape), generator=generator, device=self.device
        )
        gumbel_noise = None
        if count := self._chunk_sampler.num_uniforms(self.start):
            uniform = torch.rand((len(noise[0]), count), generator=generator, device=self.device)
            gumbel_noise = gumbel(uniform)
        actions = mask_slots(batch.get("action_slots"), self._sample(batch, noise, gumbel_noise))
        low, high = (
            None if bound is None else torch.tensor(bound, device=self.device)
            for bound in (self._action_spec.minimum, self._action_spec.maximum)
        )
        return actions if low is None and high is None else actions.clamp(low, high)

    @torch.no_grad()
    def predict_future(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return by camera what a batch of windows will look like `data.future_steps` ahead.

        Pictures u8 [B side side 3], or features f32 [B n C], as `policy.future.target` says.
        """
        if "future" not in self.objectives:
            raise ValueError("the policy predicts no future; train it with policy.future.weight=1")
        head = cast(Future, self.objectives["future"])
        with self._at_rest():
            goals = self.conditioner.goals(batch)
            context, views = self.conditioner.context_and_views(
                batch, goals, None, self.interface.rate_hz
            )
            memory = self.denoiser.encode(context)
            encoded = self.conditioner.encoded(batch, goals, context, memory, self.denoiser, views)
            return head.predict(encoded, generator)

    def act(
        self,
        observation: Observation,
        goal: Goal | str,
        seed: int = 0,
        step: int = 0,
        prefix: Array | None = None,
        inference_delay: int = 0,
    ) -> ActionChunk:
        """Return a chunk for one observation; the noise is a function of (seed, step).

        observation: the last O, or one alone, which stands for all of them. goal: a sentence will
        do. prefix, inference_delay: as in `ActRequest`.
        """
        request = self._batcher.request(
            observation,
            goal,
            seed=seed,
            step=step,
            prefix=prefix,
            inference_delay=inference_delay,
        )
        return self.act_batch([request])[0]

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one chunk per request, in order; it begins with what is fixed of its prefix.

        A chunk does not depend on the other requests (up to rounding): its noise is a function of
        its own (seed, step). ValueError for an observation, goal or prefix that does not fit.
        """
        if not requests:
            return []
        batch = self._batcher.collate(requests, self.prefixer, self.denoiser)
        batch = to_device(batch, self.device)
        noise = unit_noise(
            requests, (self.action_horizon, self.action_dim), self.sampling.num_draws
        )
        count = self._chunk_sampler.num_uniforms(self.start)
        gumbel_noise = gumbel(uniform_values(requests, count)).to(self.device) if count else None
        # what is guided is differentiated by its noisy actions, which inference mode forbids
        with torch.inference_mode(batch.get("prefix_pull") is None), torch.no_grad():
            actions = self._sample(batch, noise.to(self.device), gumbel_noise).cpu().numpy()
        return self._batcher.split(requests, actions, self.prefixer)

    def plan(self, sampling: SamplingConfig | None = None) -> Plan:
        """Return the plan of a sampling (None: the policy's own) for the weights as they are now.

        The last one is kept and returned again until the schedule or a weight is another.
        """
        with self._at_rest():
            return self._chunk_sampler.plan(self.sampling if sampling is None else sampling)

    def chunk_function(self) -> ChunkFunction:
        """Return by what chunks are drawn for a batch, its plan made for the weights as they are.

        Actions [B H A], physical units, from a batch as `encode` takes it, noise [draws B H A] and
        Gumbel noise, as in `ChunkInputs`. It depends on no number in them, so that it can be
        traced, if the batch has `goal_kinds` and no prefix that pulls.
        """
        with self._at_rest():
            sampling = self._chunk_sampler.settings(self.sampling, self.start)
            if self.prefixer.way is Prefixing.trained:
                sampling.plan.expect_fixed()

        def sample_chunk(batch: Batch, noise: Tensor, gumbel_noise: Tensor | None = None) -> Tensor:
            inputs = self._chunk_sampler.inputs(batch, self.encode(batch), noise, gumbel_noise)
            return self.action_normalizer.unnormalize(sampling.sample(inputs))

        return sample_chunk

    @property
    def num_uniforms(self) -> int:
        """Return how many Gumbel values choose the anchor of a chunk; 0: none do."""
        return self._chunk_sampler.num_uniforms(self.start)

    @property
    def denoiser_config(self) -> DenoiserConfig:
        """Return the config of the denoiser, whose `kind` is the policy's."""
        assert self.config.denoiser is not None
        return self.config.denoiser

    @property
    def device(self) -> torch.device:
        """Return where the policy computes."""
        return self.action_normalizer.center.device

    @property
    def kind(self) -> str:
        """Return the name of the denoiser's kind."""
        return self.denoiser_config.kind

    @property
    def goal_kinds(self) -> GoalKinds:
        """Return which goals the policy was trained on."""
        cameras = tuple(self.conditioner.request_spec.goal_cameras)
        goal = self.config.goal
        return GoalKinds(text=goal.text, cameras=cameras, state=goal.state)

    @property
    def language_name(self) -> str | None:
        """Return the name of the text encoder, or None where goals have no sentence vectors."""
        language = self.conditioner.goal_encoder.language
        return None if language is None or self.config.goal.reads_words else language.name

    @property
    def known_embeddings(self) -> dict[str, Array]:
        """Return the sentence vectors that need no text encoder."""
        language = self.conditioner.goal_encoder.language
        return {} if language is None else language.known

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the text encoder's vectors; loads the encoder if it does not know them all."""
        language = self.conditioner.goal_encoder.language
        return {} if language is None else language.embed(sentences)

    @property
    def language_folder(self) -> Path | None:
        """Return the folder of the text encoder that a checkpoint brought along."""
        language = self.conditioner.goal_encoder.language
        return None if language is None else language.folder

    def use_language_folder(self, folder: Path) -> None:
        """Load the text encoder, when it is needed, from `folder` and not by its name."""
        if self.conditioner.goal_encoder.language is not None:
            self.conditioner.goal_encoder.language.folder = folder

    def set_embeddings(self, vectors: Mapping[str, Array]) -> None:
        """Give the text encoder vectors of sentences, so that it need not be loaded for them."""
        if self.conditioner.goal_encoder.language is not None:
            self.conditioner.goal_encoder.language.set_embeddings(vectors)

    @property
    def _highest_sigma(self) -> float:
        """Return up to where training draws sigma."""
        if self.truncated is None or self.config.anchors.full_range:
            return math.inf
        return self.truncated.sigma_trunc

    def _sample(self, batch: Batch, noise: Tensor, gumbel_noise: Tensor | None) -> Tensor:
        """Return actions in physical units; float32 whatever autocast says, dropout off.

        noise, gumbel_noise: as in `ChunkInputs`.
        """
        with self._at_rest():
            context = self.encode(batch)
            return self._chunk_sampler.sample_chunk(
                batch, context, self.sampling, self.start, noise, gumbel_noise
            )

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Compute in float32 and without what training draws; give the mode back afterwards."""
        training = self.training
        if training:
            self.eval()
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            if training:
                self.train()
