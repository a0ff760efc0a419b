"""What a run goes on with when it is resumed, and what would make it another run.

A checkpoint's config.yaml holds the settings (`train`) and which episodes of which stores they were
used on (`run`). A resumed run takes statistics, episodes and the held-out split from there; a
setting that differs is listed where the run stays the same one, and refused where it would not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.statistics import is_image
from telic.datasets.store import EpisodeStore
from telic.datasets.windows import split_episodes
from telic.policy.atomic import existing_directory
from telic.policy.checkpoint import TRAIN_STATE, Parts, read_parts
from telic.training.config import FREE, RECORDED, BestBy, TrainConfig
from telic.yaml_files import plain


@dataclass(kw_only=True, slots=True)
class StoreRecord:
    """The episodes of one store that a run uses: the first `episodes`, but for `held_out`."""

    path: str
    episodes: int
    content: str  # digest of what they are; "" in a checkpoint written before there was one
    held_out: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, store: EpisodeStore, held_out: Sequence[int] = ()) -> StoreRecord:
        """Return the record of all episodes that a store has now."""
        return cls(
            path=str(store.path),
            episodes=store.num_episodes,
            content=content_digest(store, store.num_episodes),
            held_out=[int(episode) for episode in held_out],
        )

    def begins(self, store: EpisodeStore) -> bool:
        """Whether a store has these episodes, and maybe more after them."""
        return store.num_episodes >= self.episodes and (
            not self.content or content_digest(store, self.episodes) == self.content
        )

    @property
    def trained(self) -> list[int]:
        """Return the episodes that are trained on."""
        return sorted(set(range(self.episodes)).difference(self.held_out))


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """What a run is a function of, besides its settings. shards: parts of a global batch."""

    stores: list[StoreRecord]
    video_only: list[StoreRecord]
    shards: int

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        acted: Sequence[EpisodeStore],
        videos: Sequence[EpisodeStore],
        shards: int,
    ) -> RunRecord:
        """Return the record of a run that begins now; it draws the held-out split."""
        splits = [split_episodes(store, config.data.held_out, config.seed)[1] for store in acted]
        return cls(
            stores=[
                StoreRecord.of(s, split.tolist()) for s, split in zip(acted, splits, strict=True)
            ],
            video_only=[StoreRecord.of(store) for store in videos],
            shards=shards,
        )


class Resumed:
    """A checkpoint that a run goes on from. changes: what differs from before, line by line."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """ValueError if the checkpoint is damaged or `config` is that of another run."""
        self.folder = folder
        self.parts: Parts = read_parts(folder)
        self.changes: list[str] = []
        self.best_holds = True  # whether scores of before can be compared with those to come
        was = self.parts.config.get("train")
        if isinstance(was, dict):
            _take_count(config, was)
            self._compare(config, was)

    def record(
        self,
        config: TrainConfig,
        acted: Sequence[EpisodeStore],
        videos: Sequence[EpisodeStore],
        shards: int,
    ) -> RunRecord:
        """Return the episodes to go on with; ValueError where the stores no longer have them."""
        was = self.parts.config.get("run")
        if not isinstance(was, dict):  # written before there was one: the split is drawn again
            return RunRecord.of(config, acted, videos, shards)
        found: dict[str, list[StoreRecord]] = {}
        try:
            for name in ("stores", "video_only"):
                found[name] = [StoreRecord(**entry) for entry in was[name]]
            record = RunRecord(**found, shards=int(was["shards"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / 'config.yaml'}: damaged (run: {error!r})") from error
        for name, stores in (("stores", acted), ("video_only", videos)):
            self._require_same(f"data.{name}", found[name], stores)
        if record.shards != shards:
            raise ValueError(
                f"{self._where}, whose batches have {record.shards} parts: "
                f"{shards // config.accumulate} processes x accumulate={config.accumulate} make "
                f"{shards}; choose accumulate so that they make {record.shards}, or {self._way_out}"
            )
        return record

    @property
    def _where(self) -> str:
        return f"resume=true goes on from {self.folder}"

    @property
    def _way_out(self) -> str:
        return f"start a new run from its weights: init_from={self.folder} and another out"

    def _compare(self, config: TrainConfig, was: Mapping[str, Any]) -> None:
        """List what differs and may; raise ValueError for what would make it another run."""
        differ = {key: (old, new) for key, old, new in differing(was, plain(config))}
        apart = RECORDED if "run" in self.parts.config else ()
        free = [key for key in sorted(differ) if note_of(key) is not None]
        others = [key for key in sorted(differ) if key not in {*free, *apart}]
        if others:
            listed = ", ".join(
                f"{key}={_typed(differ[key][1])} (it has {_typed(differ[key][0])})"
                for key in others
            )
            raise ValueError(
                f"{self._where}, and this would be another run: {listed}; leave that as it was, "
                f"or {self._way_out}"
            )
        for key in free:
            before, now = map(_typed, differ[key])
            note = note_of(key)
            if key not in ("resume", "overwrite"):
                self.changes.append(f"changed: {key}={now} (was {before}){note and f'; {note}'}")
        rollouts = any(key.startswith("rollouts.") for key in free)
        self.best_holds = not (rollouts and config.best_by is BestBy.success)

    def _require_same(
        self, key: str, records: Sequence[StoreRecord], stores: Sequence[EpisodeStore]
    ) -> None:
        """Raise ValueError unless these are the stores of the records; say what has grown."""
        old, new = ([str(one.path) for one in side] for side in (records, stores))
        if len(records) != len(stores):
            raise ValueError(
                f"{self._where}, and this would be another run: {key}={_typed(new)} (it has "
                f"{_typed(old)}); leave that as it was, or {self._way_out}"
            )
        for record, store in zip(records, stores, strict=True):
            if not record.begins(store):
                raise ValueError(
                    f"{self._where}, which learns from {record.episodes} episodes of "
                    f"{record.path}, and {store.path} ({store.num_episodes} episodes) does not "
                    f"begin with these; give {key}={_typed(old)} as it was, or {self._way_out}"
                )
            if store.num_episodes > record.episodes:
                self.changes.append(
                    f"{store.path} has grown from {record.episodes} to {store.num_episodes} "
                    "episodes: the run goes on with those and the split that it began with; a new "
                    "run learns from all"
                )
        if old != new:
            self.changes.append(
                f"changed: {key}={_typed(new)} (was {_typed(old)}), the same episodes"
            )


def to_resume_from(out: Path) -> Path | None:
    """Return the checkpoint of `out` to go on from: `last`, else `best`, else None.

    A run killed early may have no `last`, or one that was put aside while it was replaced.
    """
    for name in ("last", "best"):
        folder = existing_directory(out / "checkpoints" / name)
        if (folder / TRAIN_STATE).is_dir():
            return folder
    return None


def holds_checkpoints(out: Path) -> bool:
    """Return whether there is a checkpoint in `out`, of whatever kind."""
    folder = out / "checkpoints"
    return folder.is_dir() and any(
        path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()
    )


def content_digest(store: EpisodeStore, episodes: int) -> str:
    """Return a digest of the first episodes: fields, ends, statistics of each, language.

    It reads no step and does not change when more episodes are appended.
    """
    digest = hashlib.sha256()
    fields = {name: spec.to_json() for name, spec in sorted(store.fields.items())}
    digest.update(json.dumps([fields, store.rate_hz], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(store.episode_ends[:episodes], np.int64).tobytes())
    for name, spec in sorted(store.fields.items()):
        if not is_image(spec):
            digest.update(np.ascontiguousarray(store.summaries(name)[:episodes]).tobytes())
    for episode in range(episodes):
        segments = [(s.start, s.end, s.instruction, s.task) for s in store.segments_of(episode)]
        digest.update(json.dumps(segments).encode())
    return digest.hexdigest()[:32]


def _take_count(config: TrainConfig, was: Mapping[str, Any]) -> None:
    """Set the number of anchors that a file gave, which is written down beside it."""
    before = (was.get("policy") or {}).get("anchors") or {}
    wanted = config.policy.anchors
    if wanted.file is not None and not wanted.count and before.get("file") == wanted.file:
        wanted.count = int(before.get("count") or 0)


def differing(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted key, old and new value of each setting that both have and that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old:
            if name in new:
                yield from differing(old[name], new[name], f"{key}.{name}" if key else str(name))
    elif old != new:
        yield key, old, new


def note_of(key: str) -> str | None:
    """Return what to say of a setting that may change when a run goes on; None for any other."""
    return next((n for k, n in FREE.items() if key == k or key.startswith(f"{k}.")), None)


def _typed(value: Any) -> str:
    """Return a value as a user types it."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):  # a choice of a group
        value = value.get("name", value.get("kind", dict(value)))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
