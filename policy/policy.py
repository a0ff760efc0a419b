"""The policy: observation and goal in, a chunk of actions out; a batch of windows in, a loss out.

B batch, O observation horizon, P state size, H action horizon, A action size, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.datasets.unified import Embodiment, Space
from telic.policy.alignment import AlignmentConfig
from telic.policy.anchors import AnchorSet
from telic.policy.condition_dropout import (
    NOTHING_HIDDEN,
    ConditionDropoutConfig,
    hide,
    hide_frames,
)
from telic.policy.denoiser import Context, DenoiserConfig, Fixed, Sizes
from telic.policy.drawing import ANCHORED, ChunkInputs, Drawing, within
from telic.policy.foresight import ForesightConfig
from telic.policy.formulation import CLEAN_SIGMA, FormulationConfig, squared_error
from telic.policy.future import Future, FutureConfig
from telic.policy.goal_encoder import GoalConfig, GoalEncoder, GoalTokens, word_mask
from telic.policy.image_encoder import ImageConfig, ImageEncoder
from telic.policy.mode import ModeConfig
from telic.policy.normalizer import NormalizerConfig, Scaling
from telic.policy.objective import Encoded, ObjectiveConfig, Surroundings
from telic.policy.plan import Plan
from telic.policy.prefix import Prefix, PrefixConfig, Prefixer, Prefixing, draw_fixed, show_fixed
from telic.policy.requests import Needs, gumbel, stack_requests, uniform_lots, unit_noise
from telic.policy.sampling import SamplingConfig
from telic.policy.state_encoder import StateEncoder, StateView, angle_entries
from telic.policy.truncated import StartConfig, Truncated, TruncatedConfig
from telic.policy.vision_tower import VisionTower
from telic.spec import (
    ActionChunk,
    ActRequest,
    Array,
    FieldStats,
    Goal,
    Interface,
    Observation,
    near_misses,
)


@dataclass(kw_only=True, slots=True)
class PolicyConfig:
    """A policy; the defaults train in minutes on two CPU cores."""

    denoiser: DenoiserConfig | None = None  # of a kind; None: MoDE with 0.9 M parameters
    obs_horizon: int = 1  # O, observations that go in
    action_horizon: int = 8  # H, actions that come out
    use_state: bool = True  # give it the proprioceptive state
    images: ImageConfig = field(default_factory=ImageConfig)
    goal: GoalConfig = field(default_factory=GoalConfig)
    state: NormalizerConfig = field(
        default_factory=lambda: NormalizerConfig(scaling=Scaling.mean_std, clamp=5.0)
    )
    angles: list[str] = field(default_factory=list)  # entries of the state, patterns: ["*_yaw"]
    action: NormalizerConfig = field(default_factory=NormalizerConfig)
    condition_dropout: ConditionDropoutConfig = field(default_factory=ConditionDropoutConfig)
    space: Space = Space.own  # unified: one policy for several robots, in RDT's 128 slots
    train_padding: bool = False  # unified: also learn 0 in slots not in use, as published RDT did
    formulation: FormulationConfig | None = None  # None: the kind's own
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    foresight: ForesightConfig = field(default_factory=ForesightConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    future: FutureConfig = field(default_factory=FutureConfig)
    anchors: TruncatedConfig = field(default_factory=TruncatedConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)

    def __post_init__(self) -> None:
        for name in ("obs_horizon", "action_horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"policy.{name}={getattr(self, name)} must be at least 1")
        if self.prefix.max_delay >= self.action_horizon:
            raise ValueError(
                f"policy.prefix.max_delay={self.prefix.max_delay} must be below "
                f"policy.action_horizon={self.action_horizon}; the other actions are what is learnt"
            )
        if self.anchors.sigma_trunc is not None:
            self.sampling.truncated(self.anchors.sigma_trunc)

    @property
    def objectives(self) -> list[ObjectiveConfig]:
        """Return the auxiliary objectives that are on."""
        every = (self.foresight, self.alignment, self.future, self.anchors)
        return [objective for objective in every if objective.on]

    @property
    def reads_future(self) -> bool:
        """Return whether training needs the frames some steps ahead."""
        return any(objective.reads_future for objective in self.objectives)

    def build(
        self,
        interface: Interface,
        stats: Mapping[str, FieldStats],
        robots: Mapping[str, Interface] | None = None,
    ) -> Policy:
        """Return an untrained policy for `interface`, which scales by `stats`.

        In the unified space that is `unified_interface(robots)` and `unified_stats`.
        """
        return Policy(self, interface, stats, robots)


@dataclass(kw_only=True, slots=True)
class LossTerms:
    """total: what to minimise; parts: its terms by name, not weighted; both scalar tensors.

    per_sample: the diffusion loss of each sample [B]; sigma: the noise level of each [B].
    """

    total: Tensor
    parts: dict[str, Tensor]
    per_sample: Tensor
    sigma: Tensor

    @property
    def diffusion(self) -> Tensor:
        """Return the diffusion loss."""
        return self.parts["diffusion"]


class Policy(nn.Module):
    """Normalizers, encoders, denoiser and formulation. A `telic.spec.ChunkPolicy`.

    `sampling` may be replaced at any time, and the robot of the unified space (`act_as`), which
    anchors chunks begin from (`start_from`), and how they go on from prefixes (`prefixer.use`).
    Everything random in training is drawn from the generator given to `loss` (dropout of units
    alone from torch's own).
    """

    _mean_state: Tensor  # physical units, [P]

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
        denoiser = config.denoiser or ModeConfig()
        formulation = config.formulation or denoiser.default_formulation()
        config = replace(
            config, denoiser=denoiser, formulation=formulation, goal=config.goal.resolved()
        )
        _require_word_reader(config, denoiser)
        cameras = config.images.choose(interface.images)
        goal_cameras = config.goal.image.choose(interface.images) if config.goal.images else []
        seen = {c: spec for c, spec in interface.images.items() if c in {*cameras, *goal_cameras}}
        self.config, self.interface = config, replace(interface, images=seen)
        self.stats = dict(stats)
        self.obs_horizon, self.action_horizon = config.obs_horizon, config.action_horizon
        self.sampling = config.sampling
        self._plan: Plan | None = None
        self.start, self.prefixer = config.anchors.start, Prefixer(config.prefix)
        self.formulation = formulation.build()
        normalizer = config.state.build("state", interface.state, stats.get("state"))
        self.state_view = StateView(normalizer, angle_entries(config.angles, interface.state.names))
        self.action_normalizer = config.action.build(
            "action", interface.action, stats.get("action")
        )
        self.action_dim = len(self.action_normalizer.center)
        mean = stats["state"].mean if "state" in stats else normalizer.center.numpy()
        self.register_buffer(
            "_mean_state", torch.from_numpy(np.array(mean, np.float32)), persistent=False
        )
        state_dim, width = self.state_view.size, self.denoiser_config.width
        embeds_state = self.denoiser_config.embeds_state
        if config.angles and embeds_state:
            raise ValueError(
                f"policy.angles is for kinds that see a state as one token; {denoiser.kind} gives "
                "each entry a slot of its own"
            )
        encodes_state = config.use_state and not embeds_state
        self.state_encoder = StateEncoder(state_dim, width) if encodes_state else None
        sentence_dim = (config.goal.language.dim or 0) if config.goal.text else 0
        self.image_encoder = (
            ImageEncoder(config.images, cameras, width, config.obs_horizon, sentence_dim)
            if cameras
            else None
        )
        self.goal_encoder = GoalEncoder(config.goal, goal_cameras, state_dim, width)
        sizes = Sizes(
            num_goals=self.goal_encoder.num_tokens,
            num_images=self.image_encoder.num_tokens if self.image_encoder else 0,
            num_states=config.obs_horizon if config.use_state else 0,
            action_horizon=config.action_horizon,
            action_dim=self.action_dim,
            obs_horizon=config.obs_horizon,
            state_dim=state_dim,
            num_patches=self.image_encoder.num_patches if self.image_encoder else 1,
        )
        self.denoiser = self.denoiser_config.build(sizes)
        around = Surroundings(
            width=width,
            cameras=cameras,
            goals=config.goal.modalities,
            towers=list(self._towers().values()),
            interface=interface,
            action_horizon=config.action_horizon,
            action=self.action_normalizer,
            sentence_dim=sentence_dim,
            picture_dim=self.goal_encoder.picture_dim,
        )
        self.objectives = nn.ModuleDict({o.name: o.build(around) for o in config.objectives})
        self._needs = Needs(
            interface=self.interface,
            obs_horizon=config.obs_horizon,
            cameras=cameras,
            goal_text=config.goal.text,
            goal_cameras=goal_cameras,
            goal_state=config.goal.state,
            action_horizon=config.action_horizon,
        )
        self._action_spec = interface.action
        self.robots = {name: replace(robot, images=seen) for name, robot in (robots or {}).items()}
        self._embodiments = {
            name: Embodiment.of(robot, f"robot {name}") for name, robot in self.robots.items()
        }
        self._embodiment: Embodiment | None = None
        if self.robots:
            self.act_as(next(iter(self.robots)))
        if config.anchors.on:
            self.start_from(self.start)

    def act_as(self, robot: str) -> None:
        """Act for this robot from now on; ValueError if the policy was not trained for it."""
        if robot not in self.robots:
            raise ValueError(
                f"the policy was trained for {', '.join(self.robots) or 'one robot of its own'}, "
                f"not for robot {robot!r}{near_misses(robot, self.robots)}"
            )
        self.interface, self._embodiment = self.robots[robot], self._embodiments[robot]
        self._needs = replace(self._needs, interface=self.interface)

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
        config = self.config.anchors
        if not config.on:
            raise ValueError(
                "the policy has no anchors to begin from; train it with policy.anchors.count=32"
            )
        if start.best > config.count:
            raise ValueError(
                f"{start.best} anchors are asked for, the policy has {config.count}; ask for at "
                "most as many"
            )
        if not start.best and not config.full_range:
            raise ValueError(
                "the policy was trained up to sigma_trunc and needs an anchor to begin from; ask "
                "for 1, or train it with policy.anchors.full_range=true"
            )
        self.start = start

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> LossTerms:
        """Return `loss`; the name by which wrappers such as DDP call it."""
        return self.loss(batch, generator)

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator) -> LossTerms:
        """Return the training loss of a batch of windows.

        batch: `state` [B O P] and `action` [B H A] in physical units, `action_mask` bool [B H],
        `image/<camera>` u8 [B O h w 3], the goals that `GoalEncoder` reads, and the fields of the
        objectives, which are for training alone. In the unified space also what `Embodiment.into`
        adds; slots not in use hold neither action nor, unless padding is trained, noise and loss.
        """
        clean = self.action_normalizer.normalize(batch["action"].float())
        device = clean.device
        sigma = self.formulation.draw_sigma(len(clean), generator, device, self._highest_sigma)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        slots = batch.get("action_slots")
        clean, noise = within(slots, clean), within(self._trained(slots), noise)
        known, told, fixed = batch.get("action_mask"), sigma, self._draw_fixed(clean, generator)
        if fixed is not None:
            noise, told = show_fixed(noise, sigma, fixed.mask)
            known = ~fixed.mask if known is None else known & ~fixed.mask
        pair = self.formulation.training_pair(clean, noise, told)
        goals = self._goals(batch, generator)
        context = self._context(batch, goals, generator)
        memory = self.denoiser.encode(context)
        prediction = self.denoiser(pair.network_input, sigma, memory, generator, fixed)
        per_sample = squared_error(prediction.actions, pair.target, known, self._trained(slots))
        parts = {"diffusion": per_sample.mean(), **prediction.losses}
        weights = self.denoiser_config.loss_weights()
        if self.training:
            encoded = self._encoded(batch, goals, context, memory)
            for config in self.config.objectives:
                parts[config.name] = self.objectives[config.name](encoded, generator)
                weights[config.name] = config.weight
        own = [weights[name] * parts[name] for name in parts if name != "diffusion"]
        return LossTerms(
            total=sum(own, parts["diffusion"]), parts=parts, per_sample=per_sample, sigma=sigma
        )

    def _draw_fixed(self, clean: Tensor, generator: torch.Generator) -> Fixed | None:
        """Return which actions of a training batch [B H A] are shown without noise, and as what."""
        if not self.training or not self.config.prefix.max_delay:
            return None
        count, horizon, _ = clean.shape
        mask = draw_fixed(self.config.prefix.max_delay, count, horizon, generator, clean.device)
        return Fixed(mask, self.formulation.shown(clean.new_full((1,), CLEAN_SIGMA)))

    def encode(self, batch: Mapping[str, Any], generator: torch.Generator | None = None) -> Context:
        """Return what a batch of windows, or of observations and goals, conditions the chunk on.

        batch: as `loss` takes it, without actions. `generator` draws what training augments and
        hides.
        """
        return self._context(batch, self._goals(batch, generator), generator)

    def _goals(self, batch: Mapping[str, Any], generator: torch.Generator | None) -> GoalTokens:
        """Return the token of each kind of goal; ValueError where the batch lacks something."""
        if missing := [name for name in self._needs.fields if name not in batch]:
            raise ValueError(
                f"the windows have no {missing[0]}, which the policy reads; data.cameras "
                "and data.goal say what windows hold"
            )
        goals = dict(batch)
        if self.config.goal.state:
            goals["goal_state"] = self._normalized_state(batch, "goal_state")
        return self.goal_encoder.tokens(goals, generator)

    def _context(
        self, batch: Mapping[str, Any], goals: GoalTokens, generator: torch.Generator | None
    ) -> Context:
        goal = self.goal_encoder.mix(goals, generator)
        images = state = goal[:, :0]
        dropout = self.config.condition_dropout if self.training else NOTHING_HIDDEN
        if self.image_encoder is not None:
            frames = {camera: batch[f"image/{camera}"] for camera in self.image_encoder.cameras}
            if dropout.images:
                colours = {camera: tower.mean for camera, tower in self._towers().items()}
                frames = hide_frames(frames, colours, dropout.images, generator)
            conditioned = self.image_encoder.conditioned
            sentences = self.goal_encoder.sentences(batch) if conditioned else None
            images = self.image_encoder(frames, generator, sentences)
        if self.config.use_state:
            state = self._normalized_state(batch, "state")
            if dropout.state:
                mean = {**batch, "state": self._mean_state.expand_as(batch["state"])}
                mean_state = self._normalized_state(mean, "state")
                state = hide(state, mean_state, dropout.state, generator)
        if self.state_encoder is not None:
            state = self.state_encoder(state)
        rate_hz = batch.get("rate_hz")
        if rate_hz is None:
            rate_hz = torch.full((len(goal),), self.interface.rate_hz, device=goal.device)
        mask = batch.get("action_slots")
        if mask is not None:
            mask = hide(mask, 0.0, dropout.action_mask, generator)
        return Context(
            goal=goal,
            images=images,
            state=state,
            goal_mask=word_mask(goals, goal),
            state_mask=batch.get("state_slots"),
            action_mask=mask,
            rate_hz=hide(rate_hz, 0.0, dropout.rate, generator),
        )

    def _normalized_state(self, batch: Mapping[str, Any], name: str) -> Tensor:
        """Return a field of states as the network sees it, 0 in slots not in use."""
        state = self.state_view(batch[name])
        slots = batch.get("state_slots")
        if slots is None:
            return state
        return state * (slots if state.ndim == 2 else slots.unsqueeze(1))

    def _trained(self, slots: Tensor | None) -> Tensor | None:
        """Return the slots that noise and loss are kept within, None for all."""
        return None if self.config.train_padding else slots

    def _encoded(
        self, batch: Mapping[str, Any], goals: GoalTokens, context: Context, memory: Any
    ) -> Encoded:
        """Return what the objectives read."""

        def latent_of(goal: Tensor) -> Tensor:
            other = replace(context, goal=goal, goal_mask=None)
            return self.denoiser.latent(self.denoiser.encode(other))

        return Encoded(
            batch=batch,
            goals=goals,
            latent=self.denoiser.latent(memory),
            latent_of=latent_of,
            towers=self._towers(),
            sentence_in=self.goal_encoder.text_in if self.config.goal.text else None,
        )

    def _towers(self) -> dict[str, VisionTower]:
        """Return the vision tower of each camera."""
        encoder = self.image_encoder
        if encoder is None:
            return {}
        return {camera: encoder.tower(i) for i, camera in enumerate(encoder.cameras)}

    @torch.no_grad()
    def predict(
        self, batch: Mapping[str, Any], generator: torch.Generator
    ) -> Float[Tensor, "b h a"]:
        """Return sampled actions for a batch of windows, in physical units, within bounds (the
        unified space has none, and 0 in slots not in use)."""
        shape = (len(batch["state"]), self.action_horizon, self.action_dim)
        noise = torch.randn(
            (self.sampling.num_draws, *shape), generator=generator, device=self.device
        )
        luck = None
        if self._num_lots:
            uniform = torch.rand(
                (len(noise[0]), self._num_lots), generator=generator, device=self.device
            )
            luck = gumbel(uniform)
        actions = within(batch.get("action_slots"), self._sample(batch, noise, luck))
        low, high = (
            None if bound is None else torch.tensor(bound, device=self.device)
            for bound in (self._action_spec.minimum, self._action_spec.maximum)
        )
        return actions if low is None and high is None else actions.clamp(low, high)

    @torch.no_grad()
    def predict_future(
        self, batch: Mapping[str, Any], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return by camera what a batch of windows will look like `data.future_steps` ahead.

        Pictures u8 [B side side 3], or features f32 [B n C], as `policy.future.target` says.
        """
        if "future" not in self.objectives:
            raise ValueError("the policy predicts no future; train it with policy.future.weight=1")
        head = cast(Future, self.objectives["future"])
        with self._at_rest():
            goals = self._goals(batch, None)
            context = self._context(batch, goals, None)
            memory = self.denoiser.encode(context)
            return head.predict(self._encoded(batch, goals, context, memory), generator)

    def act(
        self,
        observation: Observation,
        goal: Goal,
        seed: int = 0,
        step: int = 0,
        prefix: Array | None = None,
        inference_delay: int = 0,
    ) -> ActionChunk:
        """Return a chunk for one observation; the noise is a function of (seed, step).

        prefix, inference_delay: as in `ActRequest`.
        """
        request = ActRequest(
            observation=observation,
            goal=goal,
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
        batch = stack_requests(requests, self._needs)
        if "prefix" in batch:
            delays = torch.tensor([request.inference_delay for request in requests])
            lengths = batch["prefix_known"].sum(1)
            fixed, pull = self.prefixer.choose(delays, lengths, self.action_horizon, self.denoiser)
            batch |= {"prefix_fixed": fixed, "prefix_pull": pull}
        # what is guided is differentiated by its noisy actions, which inference mode forbids
        with torch.inference_mode(batch.get("prefix_pull") is None), torch.no_grad():
            return self._answer(requests, batch)

    def _answer(self, requests: list[ActRequest], batch: dict[str, Any]) -> list[ActionChunk]:
        """Return the chunks for requests in the form of a batch."""
        if self._embodiment is not None:
            names = ("state", "goal_state", "prefix")
            arrays = {name: batch[name].numpy() for name in names if name in batch}
            mapped = self._embodiment.into(arrays)
            batch |= {k: torch.from_numpy(v) for k, v in mapped.items()}
        batch = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.items()}
        shape = (self.action_horizon, self.action_dim)
        noise = unit_noise(requests, shape, self.sampling.num_draws)
        lots = self._num_lots
        luck = gumbel(uniform_lots(requests, lots)).to(self.device) if lots else None
        actions = self._sample(batch, noise.to(self.device), luck).cpu().numpy()
        if self._embodiment is not None:
            actions = self._embodiment.action.back(actions)
        if self.prefixer.way is not Prefixing.none:
            for chunk, request in zip(actions, requests, strict=True):
                if request.prefix is not None:
                    delay = request.inference_delay
                    chunk[:delay] = request.prefix[:delay]
        dt_ns = round(1e9 / self.interface.rate_hz)
        return [
            ActionChunk(
                actions=self.interface.action.clip(chunk),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=dt_ns,
            )
            for request, chunk in zip(requests, actions, strict=True)
        ]

    def plan(self, sampling: SamplingConfig | None = None) -> Plan:
        """Return the plan of a sampling (None: the policy's own) for the weights as they are now.

        The last one is kept and returned again until the schedule or a weight is another.
        """
        sampling = self.sampling if sampling is None else sampling
        if self._plan is None or not self._plan.fits(self.denoiser, sampling):
            with self._at_rest():
                self._plan = Plan(self.denoiser, self.formulation, sampling)
        return self._plan

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
    def language_name(self) -> str | None:
        """Return the name of the text encoder, or None where goals have no sentence vectors."""
        language = self.goal_encoder.language
        return None if language is None or self.config.goal.reads_words else language.name

    @property
    def known_embeddings(self) -> dict[str, Array]:
        """Return the sentence vectors that need no text encoder."""
        language = self.goal_encoder.language
        return {} if language is None else language.known

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the text encoder's vectors; loads the encoder if it does not know them all."""
        language = self.goal_encoder.language
        return {} if language is None else language.embed(sentences)

    @property
    def language_folder(self) -> Path | None:
        """Return the folder of the text encoder that a checkpoint brought along."""
        language = self.goal_encoder.language
        return None if language is None else language.folder

    def use_language_folder(self, folder: Path) -> None:
        """Load the text encoder, when it is needed, from `folder` and not by its name."""
        if self.goal_encoder.language is not None:
            self.goal_encoder.language.folder = folder

    def set_embeddings(self, vectors: Mapping[str, Array]) -> None:
        """Give the text encoder vectors of sentences, so that it need not be loaded for them."""
        if self.goal_encoder.language is not None:
            self.goal_encoder.language.set_embeddings(vectors)

    @property
    def _highest_sigma(self) -> float:
        """Return up to where training draws sigma."""
        if self.truncated is None or self.config.anchors.full_range:
            return math.inf
        return self.truncated.sigma_trunc

    @property
    def _num_lots(self) -> int:
        """Return how many numbers are drawn to choose a chunk's anchor: K, or 0."""
        drawn = self.start.best > 0 and self.start.temperature > 0
        return self.config.anchors.count if drawn else 0

    def _sample(self, batch: Mapping[str, Any], noise: Tensor, luck: Tensor | None) -> Tensor:
        """Return actions in physical units; float32 whatever autocast says, dropout off.

        noise: [draws B H A], the first for the start; luck: Gumbel [B K], `Truncated.starts`.
        """
        truncated = self.truncated if self.start.best else None
        sampling = self.sampling
        if truncated is not None:
            sampling = sampling.truncated(truncated.sigma_trunc)
        with self._at_rest():
            draw = Drawing(
                denoiser=self.denoiser,
                plan=self.plan(sampling),
                sampling=sampling,
                padding=self.config.train_padding,
                truncated=truncated,
                start=self.start,
                beta=self.config.prefix.beta,
            )
            inputs = ChunkInputs(
                context=self.encode(batch),
                noise=noise,
                luck=luck,
                prefix=self._prefix(batch),
                anchored={name: batch[name] for name in ANCHORED if name in batch},
            )
            return self.action_normalizer.unnormalize(draw(inputs))

    def _prefix(self, batch: Mapping[str, Any]) -> Prefix | None:
        """Return what the chunks go on from, None where none does."""
        fixed, pull = batch.get("prefix_fixed"), batch.get("prefix_pull")
        if fixed is None and pull is None:
            return None
        slots = batch.get("action_slots")
        if pull is not None:
            pull = within(slots, pull.unsqueeze(2))
        actions = within(slots, self.action_normalizer.normalize(batch["prefix"]))
        return Prefix(actions=actions, fixed=fixed, pull=pull)

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


def _require_word_reader(config: PolicyConfig, denoiser: DenoiserConfig) -> None:
    """Raise ValueError if a goal is a token for each word and something takes one for a goal."""
    if not config.goal.reads_words:
        return
    taker = "" if denoiser.reads_words else f"kind {denoiser.kind}"
    if taker or config.objectives:
        taker = taker or f"policy.{config.objectives[0].name}"
        raise ValueError(
            f"policy.goal.language.words=true gives a token for each word, and {taker} takes one "
            "for a goal; use policy=rdt without auxiliary objectives, or words=false"
        )
