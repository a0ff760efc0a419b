"""Anchors: the chunks that demonstrations cluster around, from which denoising can begin.

K-means over normalised chunks, as DiffusionDrive (Liao et al. 2024, section 3.3) clusters driven
paths. An action that says where to be counts from where the robot is: an entry that the state has
under the same name (a joint's angle) is taken relative to it, so that an anchor is a motion and
not a place. Displacements and speeds are relative as they are.

K anchors, N chunks, H actions of A values.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scipy.cluster.vq import kmeans2

from telic.policy.encoders.normalizer import Normalizer
from telic.policy.layers.tensors import save_tensors
from telic.replacement import Kind, Replacement
from telic.spec import Array, Interface

FORMAT = "telic-anchors"
_RESTARTS, _ITERATIONS = 10, 30
_SAME_SCALE = 1e-5  # how far two scalings of actions may differ, of their scale


def is_anchors(path: Path) -> bool:
    """Return whether a file of anchors stands at `path`."""
    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


ANCHORS = Kind("a file of anchors", is_anchors)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSet:
    """Anchors and how far the chunks that they were made of lie from the nearest one.

    chunks: f32 [K H A], normalised, relative where `columns` is not -1; counts: i64 [K], chunks
    nearest to each; residual: f64 [A], rms distance of an entry, 0 for one that no chunk uses;
    rms: the same over all entries in use. columns: i64 [A], the entry of the state that an action
    is relative to, or -1; center, scale: f32 [A], how actions were normalised.
    """

    chunks: Array
    counts: Array
    residual: Array
    rms: float
    columns: Array
    center: Array
    scale: Array

    def save(self, path: Path, overwrite: bool = False) -> None:
        """Write a safetensors file; ValueError if it cannot be written, or is there unasked."""
        arrays = {
            name: torch.from_numpy(np.array(getattr(self, name)))
            for name in ("chunks", "counts", "residual", "columns", "center", "scale")
        }
        about = {"format": FORMAT, "about": json.dumps({"rms": self.rms})}
        with Replacement(path, ANCHORS, overwrite=overwrite).writing() as fresh:
            try:
                save_tensors(arrays, fresh, about)
            except SafetensorError as error:
                raise OSError(str(error)) from error

    @classmethod
    def load(cls, path: Path) -> AnchorSet:
        """Return what `save` wrote; ValueError for anything else."""
        if not path.is_file():
            raise ValueError(f"{path}: no file there; build-anchors writes one")
        try:
            with safe_open(path, "np") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path}: is no safetensors file, or a damaged one ({error}); build-anchors "
                "writes one"
            ) from error
        if about.get("format") != FORMAT:
            raise ValueError(f"{path}: holds no anchors; build-anchors writes them")
        wanted = {entry.name for entry in fields(cls)} - {"rms"}
        if unlike := sorted(wanted ^ set(arrays)):
            fault = "lacks" if unlike[0] in wanted else "also holds"
            raise ValueError(f"{path}: damaged ({fault} {unlike[0]}); build the anchors again")
        try:
            rms = float(json.loads(about["about"])["rms"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged (lacks rms); build the anchors again") from error
        found = cls(**arrays, rms=rms)
        found._require_whole(path)
        return found

    def _require_whole(self, path: Path) -> None:
        """Raise ValueError unless the arrays belong together and are finite."""
        if self.chunks.ndim != 3:
            raise ValueError(
                f"{path}: damaged (chunks is {self.chunks.shape}, expected [K H A]); build the "
                "anchors again"
            )
        count, _, size = self.chunks.shape
        sizes = {"counts": count, "residual": size, "columns": size, "center": size, "scale": size}
        for name, wanted in sizes.items():
            if (shape := getattr(self, name).shape) != (wanted,):
                raise ValueError(
                    f"{path}: damaged ({name} is {shape}, expected {(wanted,)}); build the "
                    "anchors again"
                )
        for name in ("chunks", "center", "scale", "rms"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{path}: damaged ({name} is not finite); build the anchors again")

    def require(self, horizon: int, columns: Array, normalizer: Normalizer) -> None:
        """Raise ValueError unless these are anchors for such chunks."""
        size = len(columns)
        if self.chunks.shape[1:] != (horizon, size):
            raise ValueError(
                f"the anchors are chunks of {self.chunks.shape[1]} actions of "
                f"{self.chunks.shape[2]} numbers, the policy's have {horizon} of {size}; build "
                f"them with action_horizon={horizon} from the stores that it is trained on"
            )
        if not np.array_equal(self.columns, columns):
            raise ValueError(
                "the anchors are relative to other entries of the state than the policy's "
                "actions; build them with the same `relative` from stores of the same robot"
            )
        center, scale = normalizer.center.cpu().numpy(), normalizer.scale.cpu().numpy()
        differ = np.maximum(np.abs(self.center - center), np.abs(self.scale - scale)) / scale
        if differ.max() > _SAME_SCALE:
            entry = int(differ.argmax())
            raise ValueError(
                f"the anchors' actions are scaled by other statistics (entry {entry}: "
                f"{self.center[entry]:.4g} +- {self.scale[entry]:.4g}, the policy's "
                f"{center[entry]:.4g} +- {scale[entry]:.4g}); build them from its own stores"
            )


def relative_columns(interface: Interface, relative: bool = True) -> Array:
    """Return for each action entry the state's entry of the same name, else -1; i64 [A].

    All -1 if not `relative`.
    """
    size = interface.action.shape[-1] or 0
    names, known = interface.action.names, interface.state.names
    if not relative or not names:
        return np.full(size, -1, np.int64)
    return np.array([known.index(name) if name in known else -1 for name in names], np.int64)


def build_anchors(
    batches: Iterable[Mapping[str, Any]],
    count: int,
    normalizer: Normalizer,
    columns: Array,
    seed: int = 0,
) -> AnchorSet:
    """Return `count` anchors of the chunks in batches of windows, numpy arrays (Windows.batch).

    Chunks that an episode's end cuts off are left out. ValueError where fewer chunks differ.
    """
    center, scale = normalizer.center.cpu().numpy(), normalizer.scale.cpu().numpy()
    chunks, used = [], []
    for batch in batches:
        whole = batch["action_mask"].all(1)
        state, action = batch["state"][whole, -1], batch["action"][whole]
        origin = np.where(columns < 0, center, state[:, np.maximum(columns, 0)])
        slots_used = batch.get("action_slots", np.ones((len(whole), len(columns)), bool))[whole]
        chunks.append((action - origin[:, None]) / scale * slots_used[:, None])
        used.append(slots_used)
    found, slots = np.concatenate(chunks), np.concatenate(used)
    shape = found.shape[1:]
    different = len(np.unique(found.reshape(len(found), -1), axis=0)) if len(found) else 0
    if count > different:
        raise ValueError(
            f"{count} anchors are asked for, and only {different} different chunks of {shape[0]} "
            "actions are there; ask for fewer or for shorter ones, or record more"
        )
    centres, nearest = cluster(found.reshape(len(found), -1), count, seed)
    squared = (found - centres.reshape(-1, *shape)[nearest]) ** 2
    per_entry = (squared.mean(1) * slots).sum(0) / np.maximum(slots.sum(0), 1)
    return AnchorSet(
        chunks=centres.reshape(-1, *shape).astype(np.float32),
        counts=np.bincount(nearest, minlength=count),
        residual=np.sqrt(per_entry),
        rms=float(np.sqrt((squared.mean(1) * slots).sum() / slots.sum())),
        columns=columns,
        center=center,
        scale=scale,
    )


def cluster(points: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Return the centres [count D] and each point's nearest, i64 [N].

    K-means from k-means++ starts (Arthur and Vassilvitskii 2007), the best of 10. The largest
    cluster comes first.
    """
    points = points.astype(np.float64)
    best, least = points[:count], np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster left empty keeps its centre
        for restart in range(_RESTARTS):
            rng = np.random.default_rng([seed, restart])
            centres, nearest = kmeans2(points, count, iter=_ITERATIONS, minit="++", seed=rng)
            error = float(((points - centres[nearest]) ** 2).sum())
            if error < least:
                best, least = centres, error
    distances = -2 * points @ best.T + (best**2).sum(1)
    sizes = np.bincount(distances.argmin(1), minlength=count)
    order = np.argsort(-sizes, kind="stable")
    return best[order], distances[:, order].argmin(1)
