"""Conventions that data sets get wrong without a reader's noticing: what looks so, as suspicions.

Each is found in a sample of at most `EPISODES` episodes, so that a huge store costs no more: how
rotations are laid out, which way the gripper goes, whether states are shifted against actions,
pictures that stand still, lie upside down or have red for blue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from telic.datasets import picture_conventions
from telic.datasets.statistics import evenly_spaced, is_image
from telic.datasets.store_reader import StoreReader
from telic.spec import Array, ArraySpec

EPISODES = 12
STEPS = 512  # of an episode, from its first
FEW_STEPS = 64  # fewer than these in all tell nothing
LAGS = range(-6, 13)  # steps by which the state may follow the action
ALIKE = 0.7  # correlation from which two signals count as one
_TURNING = ("roll", "pitch", "yaw", "rx", "ry", "rz", "_joint_", "angle")  # names of angles
_UNIT = 2e-3  # how far the length of a unit vector may be from 1


@dataclass(frozen=True, slots=True)
class _Sample:
    """Vectors [T D] of some episodes, by field."""

    episodes: list[Mapping[str, Array]]

    def all(self, field: str) -> Array:
        return np.concatenate([episode[field] for episode in self.episodes])


def suspicions(store: StoreReader) -> Iterator[str]:
    """Yield what looks wrong, or ought to be stated, in a line each."""
    if not store.num_episodes:
        return
    chosen = evenly_spaced(store.num_episodes, EPISODES).tolist()
    specs = store.fields
    vectors = [n for n in specs if n in ("state", "action") and len(specs[n].shape) == 1]
    sample = _Sample([_read(store, index, vectors) for index in chosen])
    if vectors and len(sample.all(vectors[0])) >= FEW_STEPS:
        for name in vectors:
            yield from _of_rotation(name, store.fields[name], sample)
        if len(vectors) == 2:
            yield from _of_gripper(store.fields, sample)
            yield from _of_shift(store.fields, sample)
    for name, spec in store.fields.items():
        if name.startswith("image/") and is_image(spec):
            yield from picture_conventions.suspicions(store, name, chosen)


def _read(store: StoreReader, index: int, names: list[str]) -> Mapping[str, Array]:
    episode = store.episode(index)
    stop = min(episode.stop, episode.start + STEPS)
    return {n: store.read(n, episode.start, stop).astype(np.float64) for n in names}


def _of_rotation(name: str, spec: ArraySpec, sample: _Sample) -> Iterator[str]:
    rows = sample.all(name)
    quaternions = [i for i in range(rows.shape[1] - 3) if _is_unit(rows[:, i : i + 4])]
    sixes = [i for i in range(rows.shape[1] - 5) if _is_rotation_6d(rows[:, i : i + 6])]
    if quaternions and not sixes:
        first = quaternions[0]
        where = f"{name} entries {first} to {first + 3}"
        if not spec.rotation:
            yield (
                f"{where} look like a unit quaternion; state rotation=quaternion_xyzw or "
                "quaternion_wxyz, which no program can tell apart"
            )
        elif "quaternion" not in spec.rotation:
            yield f"{where} look like a unit quaternion, the rotation is stated {spec.rotation}"
        yield from _of_quaternion(where, spec, sample, name, first)
    elif spec.rotation.startswith("quaternion"):
        yield f"{name} is stated {spec.rotation}, but no four entries are of length 1"
    if sixes and spec.rotation != "rotation_6d":
        stated = f"the rotation is stated {spec.rotation}" if spec.rotation else "state it"
        yield f"{name} entries {sixes[0]} to {sixes[0] + 5} look like a rotation_6d; {stated}"
    if not sixes and spec.rotation == "rotation_6d":
        yield f"{name} is stated rotation_6d, but no six entries are two orthogonal unit vectors"
    yield from _of_angles(name, spec, sample)


def _of_quaternion(
    where: str, spec: ArraySpec, sample: _Sample, name: str, first: int
) -> Iterator[str]:
    names = [n.lower()[-1:] for n in spec.names[first : first + 4]]
    order = "".join(names)
    if sorted(order) == sorted("wxyz") and spec.rotation == f"quaternion_{_other(order)}":
        yield f"{where} are named in the order {order}, the rotation is stated {spec.rotation}"
    turns = 0
    for episode in sample.episodes:
        q = episode[name][:, first : first + 4]
        turns += int((np.sum(q[1:] * q[:-1], 1) < -0.5).sum())
    if turns:
        yield (
            f"{where}: the quaternion changes its sign {turns} times from one step to the next; "
            "keep one sign, or use rotation_6d"
        )


def _other(order: str) -> str:
    return "wxyz" if order == "xyzw" else "xyzw"


def _is_unit(rows: Array) -> bool:
    """Whether the rows are of length 1 and use more than one entry."""
    fits = np.abs(np.linalg.norm(rows, axis=1) - 1) < _UNIT
    return bool(fits.all() and (np.abs(rows).max(1) < 1 - 1e-6).any())


def _is_rotation_6d(rows: Array) -> bool:
    one, two = rows[:, :3], rows[:, 3:]
    return _is_unit(one) and _is_unit(two) and bool((np.abs((one * two).sum(1)) < _UNIT).all())


def _of_angles(name: str, spec: ArraySpec, sample: _Sample) -> Iterator[str]:
    turns = {}
    for entry, label in enumerate(spec.names):
        if not any(word in label.lower() for word in _TURNING):
            continue
        largest = float(np.abs(sample.all(name)[:, entry]).max())
        if largest > 4 * np.pi and "rad" in spec.unit and "deg" not in spec.unit:
            yield f"{name} entry {label} reaches {largest:.4g}, stated in rad; is it in degrees?"
        turns[label] = sum(
            int((np.abs(np.abs(np.diff(e[name][:, entry])) - 2 * np.pi) < 0.5).sum())
            for e in sample.episodes
        )
    if jumping := [f"{label} {count} times" for label, count in turns.items() if count]:
        yield (
            f"{name} jumps by a whole turn from one step to the next: {', '.join(jumping)}; "
            "unwrap these angles, or use rotation_6d"
        )


def _of_gripper(fields: Mapping[str, ArraySpec], sample: _Sample) -> Iterator[str]:
    """Compare the gripper's command with how its width changes after it."""
    command = [i for i, n in enumerate(fields["action"].names) if "grip" in n.lower()]
    width = [i for i, n in enumerate(fields["state"].names) if _is_width(n)]
    stated = fields["action"].gripper
    if command and not stated:
        yield "action has a gripper whose sign is not stated: gripper=positive_opens or _closes"
    if len(command) != 1 or len(width) != 1:
        return
    pairs = [
        (e["action"][:-1, command[0]], np.diff(e["state"][:, width[0]]))
        for e in sample.episodes
        if len(e["action"]) > 1
    ]
    correlation = _correlation(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
    if stated and abs(correlation) > 0.2 and (correlation > 0) != (stated == "positive_opens"):
        yield (
            f"action's gripper is stated {stated}, but {fields['state'].names[width[0]]} "
            f"{'grows' if correlation > 0 else 'shrinks'} after larger commands (correlation "
            f"{correlation:.2f})"
        )


def _is_width(name: str) -> bool:
    return "width" in name.lower() or "opening" in name.lower()


def _of_shift(fields: Mapping[str, ArraySpec], sample: _Sample) -> Iterator[str]:
    """Find by how many steps the state follows the action, absolute or relative."""
    known = {name: i for i, name in enumerate(fields["state"].names)}
    pairs = [(i, known[n]) for i, n in enumerate(fields["action"].names) if n in known]
    if not pairs and fields["action"].shape == fields["state"].shape:
        pairs = [(i, i) for i in range(int(fields["action"].shape[0] or 0))]
    if not pairs:
        return
    if all(np.array_equal(e["action"], e["state"]) for e in sample.episodes):
        yield "action is the state of the same step, so a policy learns to stand still"
        return
    best = max(LAGS, key=lambda lag: _at_lag(sample, pairs, lag))
    found = _at_lag(sample, pairs, best)
    if found < ALIKE or found - _at_lag(sample, pairs, 0) < 0.005:
        return
    if best < 0:
        yield (
            f"the state is {-best} steps ahead of the action (correlation {found:.3f}); the action "
            "of a step must be commanded after its state is sensed: is one of them shifted?"
        )
    elif best > 6:
        yield f"the state follows the action after {best} steps (correlation {found:.3f})"


def _at_lag(sample: _Sample, pairs: list[tuple[int, int]], lag: int) -> float:
    """Median over the entries of the correlation of action[t] with state[t + lag]."""
    found = []
    for one, other in pairs:
        parts = []
        for episode in sample.episodes:
            action, state = episode["action"][:, one], episode["state"][:, other]
            count = len(action) - abs(lag)
            if count > 1:
                parts.append((action[max(-lag, 0) :][:count], state[max(lag, 0) :][:count]))
        if parts:
            found.append(_correlation(*(np.concatenate(p) for p in zip(*parts, strict=True))))
    return float(np.median(found)) if found else 0.0


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / scale if scale > 1e-9 else 0.0
