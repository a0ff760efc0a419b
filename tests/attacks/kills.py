"""Attacks on what writes: kill -9 in the middle, a full disk, several writers at once.

What a kill or a full disk leaves is what was there before or what should be there after, whole; the
same again then succeeds and leaves nothing beside it. Of several writers each succeeds or is told
in one line.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch

from telic.datasets import cli
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import load_policy, load_train_state, save_checkpoint
from telic.tests.attacks import checkpoints, stores
from telic.tests.attacks.arena import EQUAL, Result, Step, attempt, command, mount_tmpfs
from telic.tests.attacks.mutations import Random
from telic.tests.attacks.stores import FIELDS, episode, fingerprint, read
from telic.train import run
from telic.training.config import TrainConfig

DISK_BYTES = 64 << 20  # of the file system that fills up
STEPS = 4  # of the training that is killed
WRITERS = 3
CHANGES = {"open", "os.rename", "os.truncate", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that writes. `state` says what is there, or raises if it is not whole."""

    prepare: Callable[[Path, Path], None]  # (originals, place)
    act: Callable[[Path, Path], None]
    state: Callable[[Path, Path], str]
    after: Callable[[str], str]  # what `act` makes of a state
    names: tuple[str, ...]  # what lies in the place once it is done


def _new() -> dict[str, Any]:
    return episode(40, 99)


def _append(base: Path, place: Path) -> None:
    with EpisodeStore.open(place / stores.NAME, "a") as store:
        store.append(_new(), [Segment(start=0, end=9, instruction="a new one", task="new")])


def _episodes(base: Path, place: Path) -> str:
    """Return how many episodes there are, the known ones first, then new ones."""
    known = json.loads((base / "content.json").read_text())["read"]
    got = read(place / stores.NAME)
    count = int(got["episodes"])
    for key, value in known.items():
        if key.startswith("episode "):
            assert got.get(key) == value, f"{key} is another"
    for number in range(len(stores.LENGTHS), count):
        for name, rows in _new().items():
            assert got[f"episode {number} {name}"] == fingerprint(rows), f"episode {number} {name}"
    return str(count)


def _create(base: Path, place: Path) -> None:
    EpisodeStore.create(
        place / stores.NAME, FIELDS, rate_hz=20, source="new", overwrite=True
    ).close()


def _made(base: Path, place: Path) -> str:
    if not (place / stores.NAME).exists():
        return "none"
    with EpisodeStore.open(place / stores.NAME) as store:
        if store.attrs["source"] == "new":
            return "new"
    return _episodes(base, place)


def _import(base: Path, place: Path) -> None:
    arguments = ["convert", str(base / "demos.hdf5"), str(place / stores.NAME), "--overwrite"]
    command(cli.main, arguments, stores.NAME)


def _imported(base: Path, place: Path) -> str:
    if not (place / stores.NAME).exists():
        return "none"
    known = json.loads((base / "imported.json").read_text())
    assert read(place / stores.NAME) == known, "another store"
    return "whole"


def _export(base: Path, place: Path) -> None:
    arguments = ["convert", str(base / "artefact" / stores.NAME), str(place / "demos.hdf5")]
    command(cli.main, [*arguments, "--overwrite"], "demos.hdf5")


def _exported(base: Path, place: Path) -> str:
    if not (place / "demos.hdf5").exists():
        return "none"
    assert hdf5_content(place / "demos.hdf5") == hdf5_content(base / "demos.hdf5"), "another file"
    return "whole"


def hdf5_content(path: Path) -> dict[str, str]:
    """Return all datasets of an HDF5 file as digests."""
    found: dict[str, str] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = fingerprint(node[()])

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _filled(policy: Any, value: float) -> Any:
    for parameter in policy.parameters():
        parameter.data.fill_(value)
    return policy


def _save(base: Path, place: Path) -> None:
    policy = _filled(load_policy(base / "one"), 2.0)
    tensors = {"a": torch.full((1000,), 2.0)}
    state = {"weights": tensors, "ema": {}, "optimizer": {}, "progress": {"step": 2}}
    save_checkpoint(place / "last", policy, train_state=state)


def _saved(base: Path, place: Path) -> str:
    policy: Any = load_policy(place / "last")
    values = {float(v) for p in policy.parameters() for v in p.detach().unique()}
    value = int(values.pop())
    assert not values and load_train_state(place / "last").progress["step"] == value, "mixed"
    return str(value)


def _train(base: Path, place: Path) -> None:
    config: TrainConfig = pickle.loads((base / "train.pickle").read_bytes())
    config.out = str(place / "run")
    with suppress_output():
        run(config)


def _trained(base: Path, place: Path) -> str:
    known = json.loads((base / "trained.json").read_text())
    last = place / "run" / "checkpoints" / "last"
    step = str(load_train_state(last).progress["step"])
    assert checkpoints.state(last)["weights"] == known[step], f"step {step} has other weights"
    load_policy(last)
    return step


def make(base: Path) -> None:
    """Make a store, a file, two checkpoints and a run, and note what is in them."""
    torch.set_num_threads(1)
    stores.make(base)
    store = base / "artefact" / stores.NAME
    command(cli.main, ["convert", str(store), str(base / "demos.hdf5")], stores.NAME)
    command(cli.main, ["convert", str(base / "demos.hdf5"), str(base / "x.zarr")], stores.NAME)
    (base / "imported.json").write_text(json.dumps(read(base / "x.zarr")))
    demos = checkpoints.demos(base / "demos.zarr")
    known = {}
    config = checkpoints.config(demos, base / "run", f"steps={STEPS}", "checkpoint_every=1")
    for step in range(1, STEPS + 1):
        config.steps, config.resume = step, step > 1
        config.optimizer.warmup_steps = 2
        run(config)
        known[str(step)] = checkpoints.state(base / "run" / "checkpoints" / "last")["weights"]
        if step == 1:
            shutil.copytree(base / "run", base / "begun")
    (base / "trained.json").write_text(json.dumps(known))
    config.resume = True
    (base / "train.pickle").write_bytes(pickle.dumps(config))
    one = _filled(load_policy(base / "run" / "checkpoints" / "last"), 1.0)
    state = {"weights": {}, "ema": {}, "optimizer": {}, "progress": {"step": 1}}
    save_checkpoint(base / "one", one, train_state=state)


def _copy(source: str, name: str) -> Callable[[Path, Path], None]:
    def prepare(base: Path, place: Path) -> None:
        shutil.copytree(base / source, place / name)

    return prepare


def _nothing(base: Path, place: Path) -> None:
    place.mkdir(exist_ok=True)


OPERATIONS: dict[str, Operation] = {
    "append": Operation(
        _copy(f"artefact/{stores.NAME}", stores.NAME),
        _append,
        _episodes,
        lambda state: str(int(state) + 1),
        (stores.NAME,),
    ),
    "create": Operation(_nothing, _create, _made, lambda state: "new", (stores.NAME,)),
    "create over a store": Operation(
        _copy(f"artefact/{stores.NAME}", stores.NAME),
        _create,
        _made,
        lambda state: "new",
        (stores.NAME,),
    ),
    "convert to a store": Operation(
        _nothing, _import, _imported, lambda state: "whole", (stores.NAME,)
    ),
    "convert to HDF5": Operation(
        _nothing, _export, _exported, lambda state: "whole", ("demos.hdf5",)
    ),
    "save a checkpoint": Operation(
        _copy("one", "last"), _save, _saved, lambda state: "2", ("last",)
    ),
    "resume a training": Operation(
        _copy("begun", "run"), _train, _trained, lambda state: str(STEPS), ("run",)
    ),
}


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack`."""
    how, _, name = attack.partition(": ")
    operation = OPERATIONS[name]
    body = {"kill -9": _killed, "full disk": _on_a_full_disk, "at once": _at_once}[how]

    def case(folder: Path) -> Iterator[Step | str]:
        torch.set_num_threads(1)
        yield from body(operation, base, folder / "artefact" / "place", rng)

    return case


def judge(result: Result) -> None:
    """Note nothing more: the steps say it."""


def _killed(op: Operation, base: Path, place: Path, rng: Random) -> Iterator[Step | str]:
    """Kill a process that acts, at a change of the disk or at a moment, and act again."""
    op.prepare(base, place)
    before = op.state(base, place)
    began = time.perf_counter()
    by_time = rng.random() < 0.4
    at = float(rng.random())
    child = os.fork()
    if not child:
        if not by_time:
            _die_at(int(at * 60))
        _act_and_exit(op, base, place)
    if by_time:
        time.sleep(at * 0.3)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    survived = os.WIFEXITED(status)
    yield f"{'after' if survived else 'killed in'} {(time.perf_counter() - began) * 1e3:.0f} ms" + (
        "" if by_time else f", at change {int(at * 60)}"
    )
    states = {before, op.after(before)}
    found = ""

    def state() -> str:
        nonlocal found
        found = op.state(base, place)
        # a training leaves any step between
        assert found in states or op.names == ("run",), f"{found}, expected one of {states}"
        return EQUAL

    yield attempt("state", state, "place")
    if found:
        yield from _again(op, base, place, found)


def _again(op: Operation, base: Path, place: Path, found: str) -> Iterator[Step]:
    """Act, which must succeed now, and look for what is left beside the result."""

    def again() -> str:
        op.act(base, place)
        assert op.state(base, place) == op.after(found), "not what it should be"
        return EQUAL

    def refused() -> str:
        try:
            return again()
        except ValueError as error:  # a one-line refusal is wrong here too
            raise RuntimeError(f"refused: {error}") from error

    yield attempt("again", refused, "place")
    left = {path.name for path in place.iterdir()} - set(op.names)
    if left:
        yield Step("again: then", "left", ", ".join(sorted(left)))


def _on_a_full_disk(op: Operation, base: Path, place: Path, rng: Random) -> Iterator[Step | str]:
    """Act twice on a disk with little room, then with room."""
    place.mkdir()
    mounted = mount_tmpfs(place, DISK_BYTES)
    op.prepare(base, place / "at")
    room = int(2 ** rng.uniform(0, 20)) if rng.random() < 0.8 else 0
    filler = place / "filler"
    if mounted:
        _fill(filler, room)
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    yield f"{room} bytes of room {'on a tmpfs' if mounted else 'a file'}"
    current = op.state(base, place / "at")

    def found(allowed: set[str]) -> str:
        got = op.state(base, place / "at")
        # a training leaves any step between
        assert got in allowed or op.names == ("run",), f"{got}, not {allowed}"
        return EQUAL

    for turn in ("act", "act again"):
        step = attempt(turn, lambda: done(op, base, place / "at"), "place")
        yield step
        allowed = {op.after(current) if step.outcome == EQUAL else current}
        yield attempt(f"{turn}: state", lambda may=allowed: found(may), "place")  # type: ignore[misc]
        with suppress(ValueError, AssertionError):
            current = op.state(base, place / "at")
    if mounted:
        filler.unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    yield from _again(op, base, place / "at", current)


def _at_once(op: Operation, base: Path, place: Path, rng: Random) -> Iterator[Step | str]:
    """Have several processes act at the same moment."""
    op.prepare(base, place)
    before = op.state(base, place)
    start_reading, start_writing = os.pipe()
    children, pipes = [], []
    for _ in range(WRITERS):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(start_writing)
            os.read(start_reading, 1)
            _act_and_exit(op, base, place, writing)
        os.close(writing)
        children.append(child)
        pipes.append(reading)
    os.close(start_writing)  # all begin
    told = []
    for child, reading in zip(children, pipes, strict=True):
        with os.fdopen(reading, "rb") as pipe:
            told.append(json.loads(pipe.read() or b'["killed", ""]'))
        os.waitpid(child, 0)
    yield f"{WRITERS} writers: " + ", ".join(outcome for outcome, _ in told)
    for number, (outcome, text) in enumerate(told):
        yield Step(f"writer {number}", outcome, text)
    succeeded = sum(outcome == EQUAL for outcome, _ in told)

    def state() -> str:
        found = op.state(base, place)
        assert succeeded, "nobody succeeded"
        expected = before
        for _ in range(succeeded):
            expected = op.after(expected)
        assert found == expected, f"{found}, expected {expected} after {succeeded} successes"
        left = {path.name for path in place.iterdir()} - set(op.names)
        assert not left, f"left: {left}"
        return EQUAL

    yield attempt("state", state, "place")


def done(op: Operation, base: Path, place: Path) -> str:
    """Act."""
    op.act(base, place)
    return EQUAL


def _act_and_exit(op: Operation, base: Path, place: Path, writing: int | None = None) -> None:
    """Act in a child and end it, after writing what it came to."""
    told = ["traceback", ""]
    try:
        step = attempt("act", lambda: done(op, base, place), "place")
        told = [step.outcome, step.text]
    finally:
        if writing is not None:
            os.write(writing, json.dumps(told).encode())
        os._exit(0)


def _die_at(change: int) -> None:
    """Have this process killed at a change of the disk that Python tells audit hooks of."""
    left = change

    def watch(event: str, _: Any) -> None:
        nonlocal left
        if event in CHANGES:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _fill(filler: Path, room: int) -> None:
    """Fill the disk but for about `room` bytes."""
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.ftruncate(file.fileno(), max(0, file.tell() - room))


class suppress_output:
    """Sends what Python prints nowhere."""

    def __enter__(self) -> None:
        self._kept = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = Path(os.devnull).open("w")

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._kept


ATTACKS = [f"{how}: {name}" for how in ("kill -9", "full disk", "at once") for name in OPERATIONS]
