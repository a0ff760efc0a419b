"""An exported folder as a `ChunkPolicy`: numpy and a runtime, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telic.policy import digests
from telic.policy.exported.manifest import Manifest, read_manifest
from telic.policy.exported.runtimes import AUTO, Opened, open_graph
from telic.policy.exported.sentences import Sentences
from telic.policy.requests import (
    RequestSpec,
    chunks_of,
    normal_values,
    stack_arrays,
    stacked,
    uniform_values,
)
from telic.spec import ActionChunk, ActRequest, Array, Goal, GoalKinds, Interface, Observation


class ExportedPolicy:
    """Answers requests by a graph, as many at a time as it was made for.

    A `telic.spec.ChunkPolicy`. opened: the session, and how its runtime was chosen.
    """

    def __init__(self, folder: Path, manifest: Manifest, opened: Opened) -> None:
        self.folder, self.manifest, self.opened = folder, manifest, opened
        self.interface: Interface = manifest.interface
        self.obs_horizon, self.action_horizon = manifest.obs_horizon, manifest.action_horizon
        goal = manifest.goal
        self._sentences = Sentences(folder, manifest) if goal.kind == "text" else None
        self._inputs = {spec.name: spec for spec in manifest.inputs}
        self._request_spec = RequestSpec(
            interface=manifest.interface,
            obs_horizon=manifest.obs_horizon,
            cameras=manifest.cameras,
            goal_text=goal.kind == "text",
            goal_cameras=goal.cameras,
            goal_state=goal.kind == "state",
            action_horizon=manifest.action_horizon,
        )
        self._warned = False

    @classmethod
    def open(cls, folder: str | Path, runtime: str = AUTO, threads: int = 1) -> ExportedPolicy:
        """Open an exported folder with the runtime of that name.

        ValueError where it is damaged, its checkpoint has changed, or the runtime is not there.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        digests.require_intact(folder, "embeddings.safetensors")
        return cls(folder, manifest, open_graph(folder, manifest, runtime, threads))

    @property
    def title(self) -> str:
        """For people: kind, sampler, precision, runtime."""
        sampling, made = self.manifest.sampling, self.manifest
        steps = len(sampling["sigmas"])
        walk = f"{sampling['sampler']}, {steps} step{'' if steps == 1 else 's'}"
        return f"{made.kind}, {walk}, {made.precision}, {self.opened.name}"

    @property
    def known_embeddings(self) -> dict[str, Array]:
        """Return the sentence vectors that need no text encoder."""
        return {} if self._sentences is None else dict(self._sentences.known)

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the vectors of any sentences; unknown ones load the text encoder."""
        return {} if self._sentences is None else self._sentences.embed(sentences)

    def act(
        self, observation: Observation, goal: Goal | str, seed: int = 0, step: int = 0
    ) -> ActionChunk:
        """Return a chunk for one observation; the noise is a function of (seed, step)."""
        request = ActRequest(
            observation=stacked(observation, self._request_spec),
            goal=Goal(text=goal) if isinstance(goal, str) else goal,
            seed=seed,
            step=step,
        )
        return self.act_batch([request])[0]

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one chunk per request, in order; the last batch is filled up with its last one.

        ValueError for an observation, goal or prefix that does not fit.
        """
        size, chunks = self.manifest.batch, list[ActionChunk]()
        for start in range(0, len(requests), size):
            rows = requests[start : start + size]
            inputs = self.inputs([*rows, *[rows[-1]] * (size - len(rows))])
            actions = np.array(self.opened.session(inputs)[: len(rows)])
            if not np.isfinite(actions).all():
                raise ValueError(
                    "actions are not finite; the observation or goal is far outside the training "
                    "data, or the graph is damaged"
                )
            chunks += chunks_of(rows, actions, self.interface, self.manifest.max_delay > 0)
        return chunks

    @property
    def goal_kinds(self) -> GoalKinds:
        """The kind of goal that the graph was made for."""
        goal = self.manifest.goal
        return GoalKinds(
            text=goal.kind == "text", cameras=tuple(goal.cameras), state=goal.kind == "state"
        )

    def inputs(self, requests: list[ActRequest]) -> dict[str, Array]:
        """Return what goes into the graph for one batch of requests."""
        self._require_goals(requests)
        arrays = stack_arrays(requests, self._request_spec)
        if self._sentences is not None:
            arrays |= self._sentences.arrays(arrays["text"])
        noise = self._inputs["noise"].shape
        arrays["noise"] = normal_values(requests, (noise[1], noise[2]))[0]
        if (spec := self._inputs.get("gumbel_noise")) is not None:
            uniform = uniform_values(requests, spec.shape[1]).clip(1e-12)
            arrays["gumbel_noise"] = -np.log((-np.log(uniform)).clip(1e-12))
        if "prefix" in self._inputs:
            self._add_prefixes(arrays, requests)
        return {name: spec.require(arrays[name]) for name, spec in self._inputs.items()}

    def _require_goals(self, requests: Sequence[ActRequest]) -> None:
        kind = self.manifest.goal.kind
        for request in requests:
            goal = request.goal
            given = {"text": goal.text, "images": goal.images, "state": goal.state is not None}
            if not given[kind]:
                others = " or ".join(name for name, value in given.items() if value)
                raise ValueError(
                    f"the graph in {self.folder} takes goals by {kind}, and one by {others} is "
                    f"given; export-policy --goal {others} makes a graph for those"
                )

    def _add_prefixes(self, arrays: dict[str, Array], requests: Sequence[ActRequest]) -> None:
        """Add what chunks go on from: blank where a request has no prefix."""
        shape, most = self._inputs["prefix"].shape, self.manifest.max_delay
        arrays.setdefault("prefix", np.zeros(shape, np.float32))
        arrays.setdefault("prefix_known", np.zeros(shape[:2], bool))
        delays = np.array([request.inference_delay for request in requests])
        if "prefix_fixed" in self._inputs:
            if delays.max() > most and not self._warned:
                self._warned = True
                warnings.warn(
                    f"an inference delay of {delays.max()} steps is beyond the {most} that the "
                    "policy was trained for, and a graph has no gradient to guide by; only as "
                    "many actions are fixed",
                    stacklevel=2,
                )
            fixed = np.arange(shape[1]) < np.minimum(delays, most)[:, None]
            arrays["prefix_fixed"] = fixed & arrays["prefix_known"]
