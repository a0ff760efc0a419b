"""A plug-in of another package: the smallest part of every kind, each registered as `toy`.

TELIC_PLUGINS=toy_parts has the commands and the conformance suites find them.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from telic.policy.auxiliary import OBJECTIVES
from telic.policy.config import PolicyConfig
from telic.policy.denoisers import denoiser
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion import schedules
from telic.policy.diffusion.formulation import Formulation, FormulationConfig, Scalings
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.samplers import SAMPLERS, Denoise, Sampler
from telic.policy.diffusion.sampling import SCHEDULES, Schedule
from telic.policy.encoders.goals import PROJECTIONS
from telic.policy.encoders.images import ImageConfig
from telic.policy.encoders.language import TEXT_MODELS, TextModel
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.encoders.towers import TOWERS, Tower, TowerSettings, VisionTower
from telic.policy.layers.feed_forward import SwishGLU
from telic.policy.layers.norms import RMSNorm
from telic.policy.objectives.objective import (
    Encoded,
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
)
from telic.policy.published.import_checkpoint import SOURCES, Source
from telic.policy.published.imported import (
    CheckpointImportOptions,
    Imported,
    read_tensors,
    split_off,
)
from telic.policy.routing import routing
from telic.policy.routing.dense import DenseRouting, build_routing
from telic.policy.routing.routings import ROUTINGS
from telic.spec import ArraySpec, Interface


@dataclass(kw_only=True, slots=True)
class ToyKindConfig(denoiser.DenoiserConfig):
    """One block over the actions, to which the means of the context are added."""

    kind: str = "toy"
    width: int = 32

    def build(self, sizes: denoiser.Sizes) -> ToyKind:
        return ToyKind(self, sizes)


class ToyKind(denoiser.Denoiser):
    """The block mixes each action with the mean of all, and takes one feed-forward."""

    def __init__(self, config: ToyKindConfig, sizes: denoiser.Sizes) -> None:
        super().__init__()
        self.config, self.sizes, width = config, sizes, config.width
        self.goal_in, self.images_in, self.state_in = (nn.Linear(width, width) for _ in range(3))
        self.sigma_in = nn.Linear(1, width)
        self.action_in = nn.Linear(sizes.action_dim, width)
        self.places = nn.Parameter(torch.randn(sizes.action_horizon, width))
        self.norm = RMSNorm(width)
        self.stack = nn.ModuleList(
            [(SwishGLU if config.routing is None else config.routing.layer)(width, 64)]
        )
        self.routing = build_routing(config.routing, 1, width, 64)
        self.action_out = nn.Linear(width, sizes.action_dim)

    def encode(self, context: denoiser.Context) -> Tensor:
        goal = context.goal
        if context.goal_mask is not None:
            goal = goal * context.goal_mask.unsqueeze(-1)
        parts = [
            (self.goal_in, goal),
            (self.images_in, context.images),
            (self.state_in, context.state),
        ]
        return torch.cat([layer(x) for layer, x in parts], 1)

    def latent(self, memory: Tensor) -> Tensor:
        return memory

    def level(self, sigma: Tensor, generator: torch.Generator | None = None) -> denoiser.Level:
        with torch.autocast(sigma.device.type, enabled=False):
            levels = routing.NoiseLevels(sigma, self.embed(sigma), self.embed)
            routes = self.routing(levels, self.sizes.action_horizon, generator)
            modulation = levels.embedding[:, None, None]
        return denoiser.Level(embedding=levels.embedding, routes=routes, modulations=[modulation])

    def embed(self, sigma: Tensor) -> Tensor:
        embedding: Tensor = torch.tanh(self.sigma_in(sigma.log().unsqueeze(-1) / 4))
        return embedding

    def step(self, x: Tensor, level: denoiser.Level, memory: Tensor) -> denoiser.Prediction:
        (layer,), (route,) = self.stack, level.routes.layers
        tokens = self.action_in(x) + self.places + level.modulations[0].squeeze(1)
        tokens = tokens + memory.mean(1, keepdim=True)
        channels = routing.mask_of(layer, tokens, route)
        y = routing.mask_in(tokens, channels)
        y = y + y.mean(1, keepdim=True)
        fed, losses = routing.apply_feed_forward(layer, self.norm(y), route)
        tokens = routing.mask_out(y + fed, tokens, channels)
        actions = self.action_out(tokens)
        return denoiser.Prediction(
            actions=actions, losses=routing.add_losses([level.routes.losses, losses])
        )

    def stacks(self) -> list[nn.Module]:
        return [self.stack]


@dataclass(kw_only=True, slots=True)
class ToyRoutingConfig(routing.RoutingConfig):
    """Two feed-forwards of half the width, both for every token; a loss keeps them alike."""

    name: str = "toy"

    def build(self, num_layers: int, width: int, hidden: int) -> DenseRouting:
        return DenseRouting(num_layers)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> ToyRoutedLayer:
        return ToyRoutedLayer(width, hidden, dropout)

    def loss_weights(self) -> dict[str, float]:
        return {"toy_alike": 0.1}


class ToyRoutedLayer(routing.RoutedLayer):
    """The two feed-forwards of one block."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.halves = nn.ModuleList(
            SwishGLU(width, hidden // 2, bias_out=False, dropout=dropout) for _ in range(2)
        )

    def forward(self, x: Tensor, route: Any) -> tuple[Tensor, routing.Losses]:
        one, other = (half(x) for half in self.halves)
        losses = {"toy_alike": (one - other).square().mean()} if self.training else {}
        return one + other, losses


@dataclass(kw_only=True, slots=True)
class ToyFormulationConfig(FormulationConfig):
    """The network answers the clean chunk; ln(sigma) is drawn evenly."""

    name: str = "toy"
    sigma_min: float = 0.001  # least sigma of training
    sigma_max: float = 80.0  # largest sigma of training

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError("formulation.sigma_min must be above 0 and below sigma_max")

    def build(self) -> ToyFormulation:
        return ToyFormulation(self)


class ToyFormulation(Formulation):
    """D(x; sigma) = F(x / sqrt(sigma^2 + 1))."""

    def __init__(self, config: ToyFormulationConfig) -> None:
        self.config = config

    def scalings(self, sigma: Tensor) -> Scalings:
        ones = torch.ones_like(sigma)
        return Scalings(0 * ones, ones, (sigma.square() + 1).rsqrt())

    def sigma_quantile(self, share: Tensor, highest: float) -> Tensor:
        low, high = self.config.sigma_min, min(self.config.sigma_max, highest)
        if high <= low:
            raise ValueError(f"sigma_trunc={highest:.4g} must be above sigma_min={low}")
        return (math.log(low) + math.log(high / low) * share).exp()


def adams(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """The two-step method of Adams and Bashforth on the probability flow in sigma."""
    levels, previous, before = sigmas.tolist(), None, 0.0
    for index, (level, following) in enumerate(itertools.pairwise(levels)):
        slope, step = (x - denoise(x, sigmas[index : index + 1])) / level, following - level
        ahead = slope
        if previous is not None and following > 0:
            ahead = slope + step / (2 * before) * (slope - previous)
        x, previous, before = x + step * ahead, slope, step
    return x


def harmonic(config: Any) -> Tensor:
    """Sigmas evenly spaced in 1/sigma."""
    ends = 1 / config.sigma_max, 1 / config.sigma_min
    inverse = torch.linspace(*ends, config.steps, dtype=torch.float64)
    return schedules.explicit((1 / inverse).tolist())


@dataclass(kw_only=True, slots=True)
class ToyObjectiveConfig(ObjectiveConfig):
    """The mean of the latent predicts how bright the cameras are."""

    name: ClassVar[str] = "toy"

    def build(self, around: ObjectiveContext) -> ToyObjective:
        self.need_cameras(around)
        return ToyObjective(around)


class ToyObjective(Objective):
    """A line from the latent to a brightness."""

    def __init__(self, around: ObjectiveContext) -> None:
        super().__init__()
        self.cameras = around.cameras
        self.read = nn.Linear(around.width, 1)

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Tensor:
        frames: Any = encoded.batch
        bright = [frames[f"image/{c}"].float().flatten(1).mean(1) / 255 for c in self.cameras]
        guess = self.read(encoded.latent.mean(1)).squeeze(1)
        return F.mse_loss(guess, torch.stack(bright).mean(0))


def toy_tower(settings: TowerSettings) -> VisionTower:
    """One convolution."""
    return VisionTower(nn.Conv2d(3, 8, 4, 4), 8, [0.5] * 3, [0.5] * 3, pretrained=False)


class ToyText:
    """How often each letter occurs."""

    def __call__(self, sentences: list[str]) -> Tensor:
        return torch.stack([words.sum(0) for words in self.words(sentences, 1000)])

    def words(self, sentences: list[str], most: int) -> list[Tensor]:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return [
            torch.tensor([[float(w.count(c)) for c in letters] for w in text.split()[:most]])
            for text in sentences
        ]


class ToyProjection(nn.Sequential):
    """Two layers with a ReLU between."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(nn.Linear(size, width, bias=False), nn.ReLU(), nn.Linear(width, width))


def read_toy(path: Path, options: CheckpointImportOptions) -> Imported:
    """A folder with toy.json, the number of entries, and weights named `net.*`."""
    sizes = json.loads((path / "toy.json").read_text())
    tensors = split_off(read_tensors(path / "toy.safetensors"), "net.")
    bound = {"minimum": (-1.0,), "maximum": (1.0,)}
    return Imported(
        config=PolicyConfig(
            denoiser=ToyKindConfig(),
            images=ImageConfig(cameras=[]),
            state=NormalizerConfig(scaling=Scaling.identity),
            action=NormalizerConfig(scaling=Scaling.identity),
        ),
        interface=Interface(
            state=ArraySpec(shape=(sizes["state"],)),
            action=ArraySpec(shape=(sizes["action"],), **bound),
            rate_hz=10.0,
        ),
        weights=tensors,
        source=str(path),
    )


KINDS.register("toy", ToyKindConfig)
ROUTINGS.register("toy", ToyRoutingConfig)
FORMULATIONS.register("toy", ToyFormulationConfig)
SAMPLERS.register("toy", Sampler(walk=adams, order=2))
SCHEDULES.register("toy", Schedule(levels=harmonic))
OBJECTIVES.register("toy", ToyObjectiveConfig)
TOWERS.register("toy", Tower(build=toy_tower))
TEXT_MODELS.register("toy", TextModel(dim=26, load=ToyText))
PROJECTIONS.register("toy", ToyProjection)
SOURCES.register(
    "toy",
    Source(
        holds="a folder with toy.json",
        recognises=lambda path: (path / "toy.json").is_file(),
        read=read_toy,
    ),
)
