"""A policy as one function of tensors, physical units in and out, that can be traced.

Normaliser, encoders, the whole sampler over one schedule, unnormaliser and bounds. With a fixed
schedule and routing by sigma alone, experts and modulations are constants of it.

B batch, O observation horizon, P state size, H action horizon, A action size, L words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from telic.embodiment import Embodiment
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.encoders.fields import Batch
from telic.policy.exported.manifest import TensorSpec
from telic.policy.inference.prefix import Prefixing
from telic.policy.policy import Policy
from telic.spec import near_misses


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSettings:
    """What a graph is made for. goal: the kind of goal, text, images or state; batch: B; words: L,
    where goals are words; robot: of the unified space."""

    goal: str
    batch: int = 1
    words: int = 0
    robot: str | None = None


class PolicyGraph(nn.Module):
    """`forward` takes the tensors of `inputs`, in order, and returns actions f32 [B H A].

    The policy's sampling, anchors and way with prefixes are those it has when this is built.
    ValueError for what no static graph does.
    """

    def __init__(self, policy: Policy, settings: GraphSettings) -> None:
        super().__init__()
        _require_static(policy, settings)
        self.policy, self.settings = policy.eval(), settings
        self._sample_chunk = policy.chunk_function()
        sampling = policy.sampling
        if policy.truncated is not None and policy.start.best:
            sampling = sampling.truncated(policy.truncated.sigma_trunc)
        self.levels: list[float] = sampling.levels()[:-1].tolist()
        self.prefixed = policy.prefixer.way is Prefixing.trained
        start = policy.start
        self._anchored = policy.truncated is not None and start.best > 0
        self._carried = self.prefixed or (self._anchored and start.hysteresis is not None)
        self.inputs = self._inputs()
        spec = policy.interface.action
        self.bounds = (_bound(spec.minimum), _bound(spec.maximum))
        self._embodiment: Embodiment | None = None
        if policy.robots:
            name = settings.robot or next(iter(policy.robots))
            policy.use_embodiment(name)
            self._embodiment = Embodiment.of(policy.interface, f"robot {name}")

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return actions f32 [B H A], physical units, within the robot's bounds."""
        fields = dict(zip((spec.name for spec in self.inputs), tensors, strict=True))
        noise = fields.pop("noise").unsqueeze(0)
        gumbel_noise = fields.pop("gumbel_noise", None)
        batch: dict[str, Any] = {**fields, "goal_kinds": (self.settings.goal,)}
        if self._embodiment is not None:
            batch |= _into_slots(self._embodiment, fields)
        actions = self._sample_chunk(cast(Batch, batch), noise, gumbel_noise)
        if self._embodiment is not None:
            action = self._embodiment.action
            factors = torch.from_numpy(action.factors)
            actions = actions[..., torch.from_numpy(action.slots)] / factors
        low, high = self.bounds
        if low is not None:
            actions = torch.maximum(actions, low)
        return actions if high is None else torch.minimum(actions, high)

    def examples(self) -> tuple[Tensor, ...]:
        """Return one tensor for each input, for tracing."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for spec in self.inputs:
            if spec.dtype == "float32":
                made.append(torch.randn(spec.shape, generator=generator))
            elif spec.dtype == "bool":
                made.append(torch.ones(spec.shape, dtype=torch.bool))
            else:
                made.append(
                    torch.randint(0, 256, spec.shape, dtype=torch.uint8, generator=generator)
                )
        return tuple(made)

    def _inputs(self) -> list[TensorSpec]:
        policy, batch = self.policy, self.settings.batch
        interface, horizon = policy.interface, policy.obs_horizon
        state, action = interface.state, interface.action
        chunk = (batch, policy.action_horizon, action.shape[0] or 0)
        found = [
            TensorSpec.of(
                "state", (batch, horizon, *state.shape), "float32", state.unit, state.names
            )
        ]
        for camera in policy.conditioner.cameras:
            shape = (batch, horizon, *interface.images[camera].shape)
            found.append(TensorSpec.of(f"image/{camera}", shape, "uint8", "0..255, RGB"))
        found += self._goals()
        own = (batch, policy.action_horizon, policy.action_dim)
        found.append(TensorSpec.of("noise", own, "float32", "standard normal"))
        if policy.num_uniforms:
            shape = (batch, policy.num_uniforms)
            found.append(TensorSpec.of("gumbel_noise", shape, "float32", "standard Gumbel"))
        if self._carried:
            found.append(TensorSpec.of("prefix", chunk, "float32", action.unit, action.names))
            found.append(TensorSpec.of("prefix_known", chunk[:2], "bool"))
        if self.prefixed:
            found.append(TensorSpec.of("prefix_fixed", chunk[:2], "bool"))
        return found

    def _goals(self) -> list[TensorSpec]:
        policy, settings, interface = self.policy, self.settings, self.policy.interface
        if settings.goal == "images":
            return [
                TensorSpec.of(
                    f"goal_image/{camera}",
                    (settings.batch, *interface.images[camera].shape),
                    "uint8",
                    "0..255, RGB",
                )
                for camera in policy.conditioner.request_spec.goal_cameras
            ]
        if settings.goal == "state":
            state = interface.state
            shape = (settings.batch, *state.shape)
            return [TensorSpec.of("goal_state", shape, "float32", state.unit, state.names)]
        size = policy.conditioner.sentence_dim
        unit = f"{policy.config.goal.language.encoder}'s vector"
        if not settings.words:
            return [TensorSpec.of("sentence", (settings.batch, size), "float32", unit)]
        words = (settings.batch, settings.words)
        return [
            TensorSpec.of("sentence", (*words, size), "float32", f"{unit} of each word"),
            TensorSpec.of("sentence_words", words, "bool"),
        ]


def _require_static(policy: Policy, settings: GraphSettings) -> None:
    """Raise ValueError for what a graph cannot do."""
    sampler = policy.sampling.sampler
    if SAMPLERS[sampler].adds_noise:
        raise ValueError(
            f"sampling.sampler={sampler} draws noise in every step, and a graph is a function of "
            "its inputs; export with --sampler euler, heun or dpmpp_2m"
        )
    kinds = policy.config.goal.modalities
    if settings.goal not in kinds:
        raise ValueError(
            f"--goal {settings.goal}: the policy was trained on goals by {', '.join(kinds)}"
            f"{near_misses(settings.goal, kinds)}"
        )
    if policy.prefixer.way is Prefixing.guided:
        raise ValueError(
            "prefixing=guided differentiates the denoiser, which no exported graph does; export "
            "with --prefixing none, or train with policy.prefix.max_delay=4"
        )


def _bound(values: tuple[float, ...] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def _into_slots(embodiment: Embodiment, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return states and prefix in their slots of the unified space, and which are in use."""
    count = len(fields["state"])
    maps = {"state": embodiment.state, "goal_state": embodiment.state, "prefix": embodiment.action}
    mapped = {}
    for name, slots in maps.items():
        if name in fields:
            place = torch.from_numpy(slots.mask).new_zeros(len(slots.slots), len(slots.mask))
            matrix = place.float()
            matrix[torch.arange(len(slots.slots)), torch.from_numpy(slots.slots)] = (
                torch.from_numpy(slots.factors)
            )
            mapped[name] = fields[name] @ matrix
    state, action = (torch.from_numpy(s.mask) for s in (embodiment.state, embodiment.action))
    rate = embodiment.interface.rate_hz
    return {
        **mapped,
        "state_slots": state.expand(count, -1),
        "action_slots": action.expand(count, -1),
        "rate_hz": fields["state"].new_full((count,), rate),
    }
