"""robomimic's BC and BC-RNN-GMM as policies of one action: the baselines to compare with.

Networks, losses and their published settings are robomimic's own (0.3.0, an optional dependency).
Ours is what it lacks: observations normalised (its own normalisation asserts on sequences), the
goal as a sentence's vector beside the state, one memory for each episode of a batch, and mixture
draws that are a function of (seed, step).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from telic.policy.batch import stack_requests
from telic.policy.checkpoint import Parts
from telic.policy.encoders.language import LanguageConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.layers.tensors import load_exactly
from telic.policy.requests import RequestSpec
from telic.ranges import require_range
from telic.spec import ActionChunk, ActRequest, Array, FieldStats, Interface, near_misses

STATE, GOAL = "state", "goal"  # what robomimic calls its two inputs
_ACTION_SCALING = NormalizerConfig(scaling=Scaling.identity)  # constants alone are settled
_STATE_SCALING = NormalizerConfig(scaling=Scaling.mean_std, clamp=5.0)  # as our own policies do


class Algorithm(Enum):
    """Which of robomimic's behaviour cloning algorithms."""

    bc = "bc"  # a multi-layer perceptron, squared error
    bc_rnn_gmm = "bc_rnn_gmm"  # LSTM over 10 steps, mixture of 5 Gaussians


# robomimic's published low-dimensional settings, where they are not its defaults
_PUBLISHED: dict[Algorithm, dict[str, Any]] = {
    Algorithm.bc: {},
    Algorithm.bc_rnn_gmm: {
        "algo.rnn.enabled": True,
        "algo.rnn.horizon": 10,
        "algo.rnn.hidden_dim": 400,
        "algo.gmm.enabled": True,
        "algo.actor_layer_dims": [],
        "train.seq_length": 10,
    },
}


@dataclass(kw_only=True, slots=True)
class RobomimicConfig:
    """A baseline. `settings` are dotted keys of robomimic's own config ("algo.rnn.hidden_dim")."""

    algorithm: Algorithm = Algorithm.bc_rnn_gmm  # which of robomimic's behaviour cloning algorithms
    language: LanguageConfig = field(default_factory=LanguageConfig)
    learning_rate: float = 1e-4  # constant learning rate of Adam
    # dotted keys of robomimic's own config, and their values
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_range(self, "learning_rate", above=0, prefix="policy.")

    def robomimic(self) -> Any:
        """Return robomimic's own config object with everything filled in."""
        config = import_robomimic().config_factory("bc")
        with config.values_unlocked():
            config.observation.modalities.obs.low_dim = [STATE, GOAL]
            rate = {"algo.optim_params.policy.learning_rate.initial": self.learning_rate}
            for key, value in {**rate, **_PUBLISHED[self.algorithm], **self.settings}.items():
                _set(config, key, value)
        return config

    def build(self, interface: Interface, stats: Mapping[str, FieldStats]) -> RobomimicPolicy:
        """Return an untrained policy for `interface`, which scales by `stats`."""
        return RobomimicPolicy(self, interface, stats)


@dataclass(frozen=True, slots=True)
class _Robomimic:
    """The parts of robomimic that are used."""

    config_factory: Any
    algo_factory: Any
    obs_utils: Any
    SequenceDataset: Any


def import_robomimic() -> _Robomimic:
    """Return robomimic, imported without its banner; ValueError where it is not installed."""
    try:
        with redirect_stdout(io.StringIO()):  # "No private macro file found!"
            import robomimic.algo
            import robomimic.config
            import robomimic.utils.dataset
            import robomimic.utils.obs_utils
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a robomimic baseline needs robomimic (no module {error.name!r}); install it: "
            "pip install 'telic[robomimic]'"
        ) from error
    return _Robomimic(
        config_factory=robomimic.config.config_factory,
        algo_factory=robomimic.algo.algo_factory,
        obs_utils=robomimic.utils.obs_utils,
        SequenceDataset=robomimic.utils.dataset.SequenceDataset,
    )


class RobomimicPolicy(nn.Module):
    """A robomimic algorithm as a `telic.spec.ChunkPolicy`. Of an observation it sees the state.

    `algorithm` is robomimic's Algo object; its networks are this module's weights.
    """

    kind = "robomimic"
    obs_horizon = 1
    action_horizon = 1

    def __init__(
        self, config: RobomimicConfig, interface: Interface, stats: Mapping[str, FieldStats]
    ) -> None:
        super().__init__()
        self.config, self.stats = config, dict(stats)
        self.interface = replace(interface, images={})
        self.normalizer = _STATE_SCALING.build("state", interface.state, stats.get("state"))
        self._actions = _ACTION_SCALING.build("action", interface.action, stats.get("action"))
        self.language = config.language.build()
        config.language.dim = self.language.dim
        modules, theirs = import_robomimic(), config.robomimic()
        with redirect_stdout(io.StringIO()):
            modules.obs_utils.initialize_obs_utils_with_config(theirs)
        self.algorithm = modules.algo_factory(
            "bc",
            theirs,
            {STATE: [len(self.normalizer.center)], GOAL: [self.language.dim]},
            int(interface.action.shape[0] or 0),
            torch.device("cpu"),
        )
        self.nets = self.algorithm.nets
        self._request_spec = RequestSpec(
            interface=self.interface,
            obs_horizon=self.obs_horizon,
            cameras=(),
            goal_text=True,
            goal_cameras=(),
            goal_state=False,
            action_horizon=self.action_horizon,
        )
        self._memory: dict[int, _Memory] = {}

    @property
    def device(self) -> torch.device:
        """Return where the policy computes."""
        return self.normalizer.center.device

    @property
    def title(self) -> str:
        """Return what tables call it."""
        return f"robomimic {self.config.algorithm.value}"

    @property
    def known_embeddings(self) -> dict[str, Array]:
        """Return the sentence vectors that need no text encoder."""
        return self.language.known

    @property
    def language_name(self) -> str:
        """Return the name of the text encoder."""
        return self.language.name

    def set_embeddings(self, vectors: Mapping[str, Array]) -> None:
        """Give the text encoder vectors of sentences, so that it need not be loaded for them."""
        self.language.set_embeddings(vectors)

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the sentences' vectors; loads the text encoder if it does not know them all."""
        return self.language.embed(sentences)

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """Take one optimizer step of robomimic's; return what it logs.

        batch, as robomimic's SequenceDataset gives it: `obs`: `state` [B T P] in physical units
        and `goal` [B T G], `actions` [B T A].
        """
        self.algorithm.device = self.device
        state = batch["obs"][STATE].to(self.device)
        obs = {**batch["obs"], STATE: self.normalizer.normalize(state)}
        rows = self.algorithm.process_batch_for_training({**batch, "obs": obs})
        rows = self.algorithm.postprocess_batch_for_training(rows, obs_normalization_stats=None)
        info = self.algorithm.train_on_batch(rows, epoch=0)
        return {name.lower(): float(value) for name, value in self.algorithm.log_info(info).items()}

    @torch.inference_mode()
    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one action per request, in order.

        A request of step 0 begins its episode's memory anew. ValueError for an observation or
        goal that does not fit.
        """
        self.eval()
        batch = stack_requests(requests, self._request_spec)
        state = batch["state"][:, 0].to(self.device)
        obs = {
            STATE: self.normalizer.normalize(state),
            GOAL: self.language(batch["text"], self.device),
        }
        network = self.nets["policy"]
        if self.config.algorithm is Algorithm.bc:
            actions = network(obs)
        else:
            actions = self._act_with_memory(network, obs, requests)
        actions = self._actions.settle(actions)
        return [
            ActionChunk(
                actions=self.interface.action.clip(action[None]),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=round(1e9 / self.interface.rate_hz),
            )
            for request, action in zip(requests, actions.cpu().numpy(), strict=True)
        ]

    def _act_with_memory(
        self, network: Any, obs: dict[str, Tensor], requests: Sequence[ActRequest]
    ) -> Tensor:
        """Return actions [B A]; each episode's memory is cleared every `rnn.horizon` steps."""
        horizon = self.algorithm.algo_config.rnn.horizon
        blank = network.get_rnn_init_state(1, self.device)
        memories = [
            _Memory(0, *blank)
            if request.step == 0 or request.episode not in self._memory
            else self._memory[request.episode]
            for request in requests
        ]
        memories = [_Memory(0, *blank) if m.steps == horizon else m for m in memories]
        hidden = torch.cat([memory.hidden for memory in memories], 1)
        cell = torch.cat([memory.cell for memory in memories], 1)
        mixture, (hidden, cell) = network.forward_train_step(obs, rnn_state=(hidden, cell))
        for row, (request, memory) in enumerate(zip(requests, memories, strict=True)):
            rows = slice(row, row + 1)
            self._memory[request.episode] = _Memory(
                memory.steps + 1, hidden[:, rows], cell[:, rows]
            )
        return _drawn(mixture, requests)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The LSTM's state of one episode, [layers 1 hidden] each, after `steps` steps."""

    steps: int
    hidden: Tensor
    cell: Tensor


def _drawn(mixture: Any, requests: Sequence[ActRequest]) -> Tensor:
    """Return the mean [B A] of a mode drawn by its weight; a function of (seed, step).

    robomimic evaluates with a standard deviation of 1e-4 about it, which is left out.
    """
    weights = mixture.mixture_distribution.probs.double().cpu().numpy()
    means = mixture.component_distribution.base_dist.loc
    modes = [
        np.random.default_rng((request.seed, request.step)).choice(len(row), p=row / row.sum())
        for request, row in zip(requests, weights, strict=True)
    ]
    return means[torch.arange(len(modes)), torch.tensor(modes)]


def load(parts: Parts, device: torch.device) -> RobomimicPolicy:
    """Return the policy of a checkpoint directory of kind "robomimic"."""
    plain = parts.config["policy"]
    config = RobomimicConfig(
        algorithm=Algorithm[plain["algorithm"]],
        language=LanguageConfig(**plain["language"]),
        learning_rate=plain["learning_rate"],
        settings=plain["settings"],
    )
    policy = config.build(parts.interface, parts.stats)
    load_exactly(policy, parts.weights, str(parts.folder / "model.safetensors"))
    policy.language.set_embeddings(parts.embeddings)
    return policy.to(device).eval()


def _set(config: Any, key: str, value: Any) -> None:
    """Set a dotted key of robomimic's config; ValueError for one that it does not have."""
    *groups, name = key.split(".")
    node = config
    for group in [*groups, name]:
        if group not in node:
            raise ValueError(f"settings.{key}: robomimic has no {group}{near_misses(group, node)}")
        parent, node = node, node[group]
    if isinstance(node, dict):
        raise ValueError(f"settings.{key} is a group of settings: {', '.join(node)}")
    parent[name] = value
