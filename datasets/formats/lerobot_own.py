"""meta/telic.json: what a LeRobotDataset has no place for, so that a store comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from telic.datasets import layout as store_layout
from telic.datasets.formats import lerobot_layout as layout
from telic.datasets.store import EpisodeStore, Segment
from telic.spec import Array, ArraySpec

_ABOUT = ("robot", "task_family", "licence", "source")


@dataclass(kw_only=True, slots=True)
class OwnNotes:
    """fields: specs; segments: by episode; about: attributes. Empty for anybody else's set."""

    fields: Mapping[str, ArraySpec] = field(default_factory=dict)
    segments: Mapping[int, list[Segment]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, lengths: Sequence[int]) -> OwnNotes:
        """The notes of a data set of ours, none if its episodes are not those noted any more."""
        path = root / layout.OWN
        if not path.is_file():
            return cls()
        found = layout.read_json(path)
        fields, segments = found.get("fields"), found.get("segments")
        if not isinstance(fields, dict) or not isinstance(segments, list):
            raise ValueError(f"{path}: fields or segments are missing; delete it to go on without")
        if found.get("lengths") != list(lengths):
            return cls()
        try:
            each = [[Segment(**entry) for entry in entries] for entries in segments]
        except TypeError as error:
            raise ValueError(f"{path}: segments are not what was written") from error
        return cls(
            fields=store_layout.read_specs(str(path), fields),
            segments=dict(enumerate(each)),
            about={key: str(found[key]) for key in _ABOUT if found.get(key)},
        )

    def specs(self, found: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
        """The specs of the fields found, as noted where shapes agree."""
        result = {}
        for name, spec in found.items():
            noted = self.fields.get(name)
            same = noted is not None and noted.dtype == spec.dtype
            if noted is not None and same and _entries(noted) == _entries(spec):
                result[name] = noted
            else:
                result[name] = spec
        return result

    def shaped(self, episode: Mapping[str, Array]) -> dict[str, Array]:
        """The fields in the shapes noted: LeRobot has no field of single numbers."""
        result = dict(episode)
        for name, rows in episode.items():
            noted = self.fields.get(name)
            if noted is not None and rows[0].size == _entries(noted):
                result[name] = rows.reshape(len(rows), *store_layout.row_shape(noted))
        return result


def _entries(spec: ArraySpec) -> int:
    size = 1
    for number in store_layout.row_shape(spec):
        size *= number
    return size


def write_own(root: Path, store: EpisodeStore, fields: Sequence[str]) -> None:
    """Note what the store says of the fields, and its segments."""
    notes: dict[str, Any] = {key: store.attrs.get(key, "") for key in _ABOUT}
    notes["fields"] = {name: store.fields[name].to_json() for name in fields}
    notes["lengths"] = [len(episode) for episode in store]
    notes["segments"] = [
        [{k: v for k, v in asdict(s).items() if k != "episode"} for s in episode.segments]
        for episode in store
    ]
    (root / layout.OWN).write_text(json.dumps(notes))
