"""What an exported folder says of itself: manifest.json. numpy and the standard library alone.

model.onnx            the graph (weights beside it in model.onnx.data where they are large)
model.xml, model.bin  the same as OpenVINO's IR, where OpenVINO was installed
manifest.json         inputs, outputs, robot, goal, schedule, precision, origin, parity
stats.safetensors     the statistics that the policy scales by
embeddings.safetensors  vectors of the sentences that it knows
digests.json          of all these files
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from telic.policy import digests
from telic.replacement import Kind
from telic.spec import Array, Interface

FILE, FORMAT, VERSION = "manifest.json", "telic-export", 1
ONNX, IR = "model.onnx", "model.xml"
# of a checkpoint: what acts
_ACTING = ("config.yaml", "embeddings.safetensors", "model.safetensors", "spec.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor that goes into a graph, or comes out. names: of the entries of its last axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int | None],
        dtype: str,
        unit: str = "",
        names: Sequence[str] = (),
    ) -> TensorSpec:
        """Return the spec of a tensor whose every size is known."""
        sizes = tuple(int(size or 0) for size in shape)
        return cls(name=name, shape=sizes, dtype=dtype, unit=unit, names=tuple(names))

    def require(self, array: Array, batch_key: str = "--batch") -> Array:
        """Return the array in memory as graphs want it; ValueError where it does not fit."""
        if array.shape != self.shape or array.dtype != np.dtype(self.dtype):
            way = ""
            if array.ndim == len(self.shape) and array.shape[1:] == self.shape[1:]:
                way = f"; export-policy {batch_key} {len(array)} makes a graph for that many"
            raise ValueError(
                f"{self.name} is {array.dtype} {array.shape}, and the graph was made for "
                f"{self.dtype} {self.shape}{way}"
            )
        return np.ascontiguousarray(array)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalSpec:
    """The kind of goal that a graph takes: text, images, state. encoder, dim, words: of text (L
    words at most, 0: a vector for a sentence); cameras: of images."""

    kind: str
    encoder: str = ""
    dim: int = 0
    words: int = 0
    cameras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The fields of manifest.json.

    kind: of denoiser; max_delay: actions that a prefix may fix, 0: none; files: runtime's file by
    format ("onnx", "openvino"); checkpoint: path, sha256, git_commit of its origin; sampling: its
    settings, and `sigmas`, the schedule; parity: of each file, to torch.
    """

    kind: str
    precision: str
    batch: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    interface: Interface
    obs_horizon: int
    action_horizon: int
    cameras: tuple[str, ...]
    goal: GoalSpec
    max_delay: int
    sampling: dict[str, Any]
    files: dict[str, str]
    checkpoint: dict[str, str]
    versions: dict[str, str]
    parity: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON data."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["inputs"] = [dataclasses.asdict(spec) for spec in self.inputs]
        data["outputs"] = [dataclasses.asdict(spec) for spec in self.outputs]
        data["goal"], data["interface"] = dataclasses.asdict(self.goal), self.interface.to_json()
        rate = {"rate_hz": self.interface.rate_hz}
        return {"format": FORMAT, "version": VERSION, **rate, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Return the manifest that `to_json` wrote; KeyError, TypeError for anything else."""
        own = {f.name: data[f.name] for f in dataclasses.fields(cls)}
        for name in ("inputs", "outputs"):
            own[name] = tuple(_tensor_spec(entry) for entry in own[name])
        goal = dict(own["goal"])
        own["goal"] = GoalSpec(**goal | {"cameras": tuple(goal["cameras"])})
        own["cameras"] = tuple(own["cameras"])
        own["interface"] = Interface.from_json(own["interface"])
        return cls(**own)


def _tensor_spec(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**entry, "shape": tuple(entry["shape"]), "names": tuple(entry["names"])})


def is_exported(path: Path) -> bool:
    """Return whether an exported folder stands at `path`."""
    try:
        with (path / FILE).open(encoding="utf-8") as file:
            return f'"format": "{FORMAT}"' in file.read(200)
    except (OSError, ValueError):
        return False


EXPORTED = Kind(
    "an exported policy of ours",
    is_exported,
    files=r"(manifest|digests)\.json|model\.(onnx(\.data)?|xml|bin)"
    r"|(stats|embeddings)\.safetensors|tensorrt/.*",
)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into a folder, and the digests of all its files."""
    (folder / FILE).write_text(json.dumps(manifest.to_json(), indent=1))
    digests.write_digests(folder)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an exported folder.

    ValueError where it is damaged or of another version, or where the checkpoint that it was made
    from is there and has changed since.
    """
    digests.require_intact(folder, FILE)
    where = folder / FILE
    try:
        data = json.loads(where.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}, expected {VERSION}")
        manifest = Manifest.from_json(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line = str(error).partition("\n")[0][:200]
        raise ValueError(f"{where}: damaged ({line}); run export-policy again") from error
    origin = Path(manifest.checkpoint["path"])
    there = (origin / "model.safetensors").is_file()
    if there and checkpoint_digest(origin) != manifest.checkpoint["sha256"]:
        raise ValueError(
            f"{folder}: the checkpoint {origin} has changed since the export; run export-policy "
            f"{origin} {folder} --overwrite"
        )
    return manifest


def checkpoint_digest(folder: Path) -> str:
    """Return the SHA-256 of the digests of what acts in a checkpoint directory."""
    digest = hashlib.sha256()
    known = digests.listed(folder)
    for name in _ACTING:
        if (folder / name).is_file():
            digest.update(f"{name} {known.get(name) or digests.of_file(folder / name)}\n".encode())
    return digest.hexdigest()
