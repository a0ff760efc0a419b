"""A table of symbols instead of a simulator, and its chains. Imported by worker processes by name.

An action [1] names a task by its number plus one; 0 waits. The table does the task if that is
possible in exactly one way. SYMBOLIC_SLEEP_S slows it down.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from telic.envs import registry
from telic.envs.playtable.chain_start import SCENE_STARTS
from telic.envs.playtable.chain_task import ChainTask, Table
from telic.envs.playtable.instructions import Phrases, sentences
from telic.envs.playtable.protocol import initial_states
from telic.envs.playtable.rules import BLOCKS, TASK_RULES, State, following
from telic.envs.task import DictObs, Expert, StateChoice, image_specs
from telic.spec import ActionChunk, ActRequest, Array, ArraySpec, Interface

TASKS = list(TASK_RULES)
INTERFACE = Interface(
    state=ArraySpec(shape=(39,)),
    action=ArraySpec(shape=(1,), minimum=(0.0,), maximum=(34.0,)),
    rate_hz=30.0,
)
BREAKS = 13  # the chain in whose third step the table raises


class SymbolicTable:
    """What is done to it counts; where blocks are is read off the vector that it is reset to."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.resets = 0

    def reset(self, robot_obs: Array, scene_obs: Array, scene: str) -> None:
        assert robot_obs.shape == (15,)
        poses = dict(zip(SCENE_STARTS[scene].blocks, scene_obs[6:].reshape(3, 6), strict=True))
        right, left = SCENE_STARTS[scene].shelf_x
        places = {
            block: "table"
            if pose[1] < 0
            else ("slider_right" if abs(pose[0] - right) < abs(pose[0] - left) else "slider_left")
            for block, pose in poses.items()
        }
        self.state = State(
            int(scene_obs[5]),
            int(scene_obs[4]),
            "left" if scene_obs[0] > 0.1 else "right",
            "open" if scene_obs[1] > 0.1 else "closed",
            *(places[block] for block in BLOCKS),
        )
        self._vectors = robot_obs, scene_obs
        self.done = Counter()
        self.resets += 1

    def step(self, action: Array) -> None:
        time.sleep(float(os.environ.get("SYMBOLIC_SLEEP_S", "0")))
        number = round(float(action[0]))
        after = following(TASKS[number - 1], self.state) if number else None
        if after is not None:
            self.state = after
            self.done[TASKS[number - 1]] += 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        state, done = self.state, self.done.copy()
        try:
            yield
        finally:
            self.state, self.done = state, done

    def robot_obs(self) -> Array:
        return self._vectors[0] * 0 + self.done.total()

    def scene_obs(self) -> Array:
        return self._vectors[1]

    def facts(self) -> Counter[str]:
        return self.done.copy()

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        if camera != "static":
            raise ValueError(f"the table has no camera {camera!r}")
        return np.full((*size, 3), self.done.total(), np.uint8)

    def close(self) -> None:
        self._vectors = (np.zeros(15), np.zeros(24))


def success(task: str, start: Counter[str], now: Counter[str]) -> bool:
    """Return whether the task was done since its start."""
    return now[task] > start[task]


@dataclass(kw_only=True, slots=True)
class WaitAndDo:
    """An expert that waits two steps and does its task; it gives up on stacks and on the LED."""

    task: str
    waited: int = 0

    def act(self, obs: DictObs) -> Array:
        """Return the task's number in the third step, and 0 before."""
        self.waited += 1
        ready = self.waited == 3 and does(self.task)
        return np.full(1, TASKS.index(self.task) + 1 if ready else 0, np.float32)


def wait_and_do(task: str, table: Table, rng: np.random.Generator) -> Expert:
    """Return the expert for a task."""
    return WaitAndDo(task=task)


def does(task: str) -> bool:
    """Return whether expert and policy below do not give up on a task."""
    return task not in ("stack_block", "turn_on_led", "turn_off_led")


@dataclass(kw_only=True, slots=True)
class WaitAndDoPolicy:
    """The same as a policy: chunks of four, the third action does what the sentence says."""

    interface: Interface = INTERFACE
    obs_horizon: int = 2
    action_horizon: int = 4
    requests: list[ActRequest] = field(default_factory=list)

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return a chunk for each request."""
        self.requests += requests
        meant = {t: task for task, texts in sentences(Phrases.held_out).items() for t in texts}
        chunks = []
        for request in requests:
            task = meant[str(request.goal.text)]
            actions = np.zeros((4, 1), np.float32)
            actions[2] = TASKS.index(task) + 1 if does(task) else 0
            chunks.append(ActionChunk(actions=actions, t_obs_ns=0, dt_ns=round(1e9 / 30)))
        return chunks


class SymbolicChains(ChainTask):
    """The chains on the symbolic table; chain 13 breaks it."""

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        if self._number == BREAKS and self._steps == 2:
            raise ZeroDivisionError("the table broke")
        return super().step(action)


def make_chains(
    *,
    cameras: tuple[str, ...] = (),
    image_size: tuple[int, int] = (8, 8),
    state: str = "full",
    **kwargs: Any,
) -> ChainTask:
    """Return the environment of chains on a symbolic table."""
    choice = StateChoice(state)
    interface = Interface(
        state=INTERFACE.state if choice is StateChoice.full else ArraySpec(shape=(15,)),
        action=INTERFACE.action,
        rate_hz=INTERFACE.rate_hz,
        images=image_specs(cameras, image_size),
    )

    return SymbolicChains(SymbolicTable(), success, wait_and_do, interface, state=choice, **kwargs)


class SymbolicTask(SymbolicChains):
    """One task alone: the table is led at random to where it is possible, as in the protocol."""

    def __init__(self, task: str, **kwargs: Any) -> None:
        super().__init__(SymbolicTable(), success, wait_and_do, INTERFACE, **kwargs)
        self._task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        del options
        rng = np.random.default_rng(seed)
        states = initial_states()
        start = state = states[rng.integers(len(states))]
        before: list[str] = []
        while following(self._task, state) is None:
            if len(before) == 20:  # no way leads on once the table is empty
                start = state = states[rng.integers(len(states))]
                before = []
            possible = [task for task in TASKS if following(task, state) is not None]
            before.append(possible[rng.integers(len(possible))])
            state = following(before[-1], state) or state
        obs, _ = super().reset(
            seed=0, options={"initial_state": start, "tasks": [*before, self._task]}
        )
        for task in before:
            obs, _, _, _, _ = super().step(np.full(1, TASKS.index(task) + 1))
        return obs, {"instruction": self._instruction()}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {"success": info["success"]}


def make_task(task: str, scene: str, **kwargs: Any) -> ChainTask:
    """Return one task's environment; it has no cameras."""
    del kwargs["cameras"], kwargs["image_size"]
    return SymbolicTask(task, scene=scene, **kwargs)


for name, make in [("lh_mtlc", make_chains), *((t, partial(make_task, t)) for t in TASKS)]:
    registry.register(
        registry.TaskEntry(
            task_id=f"symbolic/{name}",
            make=make,
            instructions=("do what the task is called",),
            robot="none",
        )
    )
