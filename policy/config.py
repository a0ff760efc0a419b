"""What a policy is made of, before it is built: `policy.` of a command line."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from telic.embodiment import Space
from telic.policy.denoisers.denoiser import DenoiserConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.formulation import FormulationConfig
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.condition_dropout import ConditionDropoutConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.inference.prefix import PrefixConfig
from telic.policy.inference.truncated import TruncatedConfig
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.objectives.future import FutureConfig
from telic.policy.objectives.objective import ObjectiveConfig
from telic.policy.objectives.repa import RepaConfig
from telic.policy.objectives.scene import SceneConfig
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class PolicyConfig:
    """A policy; the defaults train in minutes on two CPU cores."""

    denoiser: DenoiserConfig | None = None  # of a kind; None: MoDE with 0.9 M parameters
    obs_horizon: int = 1  # observations that go in, O
    action_horizon: int = 8  # actions of a chunk, H
    use_state: bool = True  # the state is an input
    images: ImageConfig = field(default_factory=ImageConfig)
    goal: GoalConfig = field(default_factory=GoalConfig)
    state: NormalizerConfig = field(
        default_factory=lambda: NormalizerConfig(scaling=Scaling.mean_std, clamp=5.0)
    )
    # entries of the state that never reach the network, by pattern: ["arm_joint_*"]
    exclude_state: list[str] = field(default_factory=list)
    # entries of the state that are angles in radians, by pattern: ["*_yaw"]
    angles: list[str] = field(default_factory=list)
    # where entries are from another: [["block?_x", "tcp_x"]]
    differences: list[list[str]] = field(default_factory=list)
    # entries of each token of a state, patterns: [["tcp_*"], ["tcp_*", "block1_*"]]; []: one token
    state_tokens: list[list[str]] = field(default_factory=list)
    action: NormalizerConfig = field(default_factory=NormalizerConfig)
    condition_dropout: ConditionDropoutConfig = field(default_factory=ConditionDropoutConfig)
    # own: the one robot's entries; unified: several robots, in RDT's 128 slots
    space: Space = Space.own
    train_padding: bool = False  # unified: the loss covers slots not in use too, as published RDT's
    formulation: FormulationConfig | None = None  # None: the kind's own
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    foresight: ForesightConfig = field(default_factory=ForesightConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    future: FutureConfig = field(default_factory=FutureConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    repa: RepaConfig = field(default_factory=RepaConfig)
    anchors: TruncatedConfig = field(default_factory=TruncatedConfig)
    # further objectives by name, those that plug-ins register: policy/auxiliary=[NAME]
    auxiliary: dict[str, ObjectiveConfig] = field(default_factory=dict)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)

    def __post_init__(self) -> None:
        require_range(self, "obs_horizon", "action_horizon", at_least=1, prefix="policy.")
        if self.prefix.max_delay >= self.action_horizon:
            raise ValueError(
                f"policy.prefix.max_delay={self.prefix.max_delay} must be below "
                f"policy.action_horizon={self.action_horizon}; the other actions are what is learnt"
            )
        if self.anchors.sigma_trunc is not None:
            self.sampling.truncated(self.anchors.sigma_trunc)
        for name, objective in self.auxiliary.items():
            if name != objective.name:
                raise ValueError(f"policy.auxiliary.{name} is the objective {objective.name!r}")

    def with_objective(self, objective: ObjectiveConfig) -> PolicyConfig:
        """The same policy with an auxiliary objective, at its own key or in `auxiliary`."""
        if objective.name in {entry.name for entry in fields(self)}:
            own: dict[str, Any] = {objective.name: objective}
            return replace(self, **own)
        return replace(self, auxiliary={**self.auxiliary, objective.name: objective})

    @property
    def objectives(self) -> list[ObjectiveConfig]:
        """Return the auxiliary objectives that are on."""
        own = (
            self.foresight,
            self.alignment,
            self.future,
            self.scene,
            self.repa,
            self.anchors,
        )
        every: list[ObjectiveConfig] = [*own, *self.auxiliary.values()]
        return [objective for objective in every if objective.on]

    @property
    def reads_future(self) -> bool:
        """Return whether training needs the frames some steps ahead."""
        return any(objective.reads_future for objective in self.objectives)

    def resolved(self) -> PolicyConfig:
        """Return this with what follows from its parts chosen; ValueError if they do not fit."""
        denoiser = self.denoiser or ModeConfig()
        config = replace(
            self,
            denoiser=denoiser,
            formulation=self.formulation or denoiser.default_formulation(),
            goal=self.goal.resolved(),
        )
        config._require_word_reader(denoiser)
        for name in ("exclude_state", "angles", "differences", "state_tokens"):
            if getattr(self, name) and denoiser.embeds_state:
                raise ValueError(
                    f"policy.{name} is for kinds that see a state as tokens; {denoiser.kind} gives "
                    "each entry a slot of its own"
                )
        return config

    def _require_word_reader(self, denoiser: DenoiserConfig) -> None:
        """Raise ValueError if a goal is a token for each word and something wants it whole."""
        if not self.goal.reads_words:
            return
        taker = "" if denoiser.reads_words else f"kind {denoiser.kind}"
        if taker or self.objectives:
            taker = taker or f"policy.{self.objectives[0].name}"
            raise ValueError(
                f"policy.goal.language.words=true gives a token for each word, and {taker} takes "
                "one for a goal; use policy=rdt without auxiliary objectives, or words=false"
            )
