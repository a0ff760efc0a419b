"""Attacks on running commands: a signal to one, to a process of its own, to all; then a second run.

Whoever is hit, the command ends, says why in words, leaves no process and no shared memory, and the
same command again goes on or starts anew.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.envs.registry import make as make_env
from telic.policy.checkpoint import load_policy
from telic.real_robot.simulated_arm import arm_interface
from telic.spec import Interface
from telic.tests.attacks import checkpoints
from telic.tests.attacks.arena import EQUAL, Result, Step, attempt
from telic.tests.attacks.mutations import Random, pick
from telic.train import run
from telic.training.config import TrainConfig

LIMIT = None  # torch, MuJoCo and their workers map more than other cases may
SECONDS = 240.0
WAIT_S = 90.0  # for a command to begin, or to end after a signal
TASK, SENTENCE = "reach-v3", "reach the goal"


def make(base: Path) -> None:
    """Make a store and a checkpoint for each robot."""
    torch.set_num_threads(1)
    checkpoints.demos(base / "demos.zarr")
    interfaces = {"arm": arm_interface(), "scene": make_env(TASK).interface}
    for name, interface in interfaces.items():
        store = _random_store(base / f"{name}.zarr", interface)
        given = [f"data.stores=['{store}']", f"out='{base / name}'", *checkpoints.SETTINGS]
        run(compose(TrainConfig, "train", [*given, "steps=1"]))


def _random_store(path: Path, interface: Interface) -> Path:
    rng = np.random.default_rng(0)
    fields = {"state": interface.state, "action": interface.action}
    with EpisodeStore.create(path, fields, interface.rate_hz) as store:
        for _ in range(3):
            data = {
                name: np.stack([s.sample(rng) for _ in range(20)]) for name, s in fields.items()
            }
            store.append(data, [Segment(start=0, end=20, instruction=SENTENCE, task="t")])
    return path


def _train(base: Path, place: Path, again: bool) -> list[str]:
    steps = "steps=100000"
    if again:
        done = 0
        with suppress(ValueError, OSError):
            from telic.policy.checkpoint import load_train_state

            state = load_train_state(place / "run" / "checkpoints" / "last")
            done = int(state.progress["step"])
        steps = f"steps={done + 2}"
    given = [f"data.stores=['{base / 'demos.zarr'}']", f"out='{place / 'run'}'"]
    given += [*checkpoints.SETTINGS, steps, "checkpoint_every=20", "data.num_workers=1"]
    return ["train", *given, *(["resume=true"] if again else [])]


def _evaluate(base: Path, place: Path, again: bool) -> list[str]:
    checkpoint = base / "scene" / "checkpoints" / "last"
    given = [f"checkpoint='{checkpoint}'", f"out='{place / 'evaluation'}'", f"tasks=[{TASK}]"]
    few = ["episodes_per_task=8", "max_steps=60", "num_workers=2", "envs_per_worker=1"]
    return ["evaluate", *given, *few, "device=cpu", "threads=1", "sampling=2"]


def _control(base: Path, place: Path, again: bool) -> list[str]:
    checkpoint = base / "arm" / "checkpoints" / "last"
    given = [f"checkpoint='{checkpoint}'", "robot=arm", f"goal='{SENTENCE}'", "sampling=2"]
    length = "duration_s=1.0" if again else "duration_s=null"
    return ["control", *given, length, f"out='{place / ('b' if again else 'a')}.json'"]


def _trains(place: Path, err: str) -> bool:
    return (place / "run" / "log.jsonl").exists()


def _evaluates(place: Path, err: str) -> bool:
    log = place / "evaluation" / "episodes.jsonl"
    return log.exists() and log.read_bytes().count(b"\n") > 1


def _controls(place: Path, err: str) -> bool:
    return "ACTIVE" in err


COMMANDS: dict[str, tuple[Callable[..., list[str]], Callable[[Path, str], bool]]] = {
    "train-policy": (_train, _trains),
    "evaluate-policy": (_evaluate, _evaluates),
    "control-daemon": (_control, _controls),
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
TARGETS = ("the command", "a child", "the group")


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack`."""
    name, _, number_name = attack.partition(": ")
    arguments, begun = COMMANDS[name]
    number = SIGNALS[number_name]
    target = pick(rng, list(TARGETS))
    early = rng.random() < 0.2
    delay = float(rng.uniform(0, 6 if early else 0.6))

    def body(folder: Path) -> Iterator[Step | str]:
        place = folder / "artefact" / "place"
        place.mkdir()
        err = place / "stderr"
        process = _start(arguments(base, place, again=False), place)
        give_up = time.monotonic() + WAIT_S
        while not early and not begun(place, err.read_text()):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"did not begin: {err.read_text()[-500:]}")
            time.sleep(0.02)
        time.sleep(delay)
        group = _session(process.pid)
        children = [pid for pid in group if pid != process.pid]
        hit = target if target != "a child" or children else "the command"
        yield f"{number.name} to {hit} {'at the start' if early else 'in the middle'}"
        with suppress(ProcessLookupError):
            if hit == "the group":
                os.killpg(process.pid, number)
            else:
                os.kill(process.pid if hit == "the command" else pick(rng, children), number)
        yield attempt("end", lambda: _end(process, err, hit, number), "")
        yield attempt("nothing is left", lambda: _nothing_left(process.pid), "")
        yield attempt("second run", lambda: _second(arguments(base, place, again=True), place), "")

    return body


def judge(result: Result) -> None:
    """Note nothing more: the steps say it."""


def _start(command: list[str], place: Path) -> subprocess.Popen[bytes]:
    module, *overrides = command
    # as at a terminal: the background jobs of a shell, of which this may be one, ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (place / "stdout").open("wb") as out, (place / "stderr").open("wb") as err:
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from telic.commands import start; start({module!r})",
                *overrides,
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )


def _end(process: subprocess.Popen[bytes], err: Path, hit: str, number: signal.Signals) -> str:
    """Wait for the end, which must come, in words."""
    try:
        # a child that is not needed (an environment worker is replaced) does not end the command
        code = process.wait(timeout=WAIT_S)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        raise RuntimeError(f"did not end within {WAIT_S:g} s of the signal") from error
    told = err.read_text(errors="replace")
    # until the command's first line runs, the traceback is Python's own
    starting = told.rstrip().endswith("KeyboardInterrupt") and ", in start\n" not in told
    if "Traceback" in told and not starting:
        raise RuntimeError(f"exit status {code}: {told[-700:]}")
    if number is not signal.SIGKILL and hit != "a child" and code not in (128 + number, -number):
        raise RuntimeError(f"exit status {code}: {told[-400:]}")
    print(code, told[-300:])
    return EQUAL


def _nothing_left(session: int) -> str:
    """Look for processes of the run."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        if not (left := _session(session)):
            return EQUAL
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    raise RuntimeError(f"{len(left)} processes are left")


def _second(command: list[str], place: Path) -> str:
    """Run the command again, to its end."""
    process = _start(command, place)
    try:
        code = process.wait(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    told = (place / "stderr").read_text(errors="replace")
    if code:
        raise RuntimeError(f"exit status {code}: {told[-700:]}")
    if command[0] == "train":
        load_policy(place / "run" / "checkpoints" / "last")
    if command[0] == "evaluate":
        results: dict[str, Any] = json.loads((place / "evaluation/results.json").read_text())
        assert results["complete"], "not complete"
    return EQUAL


def _session(session: int) -> list[int]:
    """Process ids of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, number, *_ = entry.read_text().rpartition(")")[2].split()
            if int(number) == session and state != "Z":
                found.append(int(entry.parent.name))
    return found


ATTACKS = [f"{command}: {number}" for command in COMMANDS for number in SIGNALS]
