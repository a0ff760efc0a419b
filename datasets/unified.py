"""The robots of some stores, and the statistics of all of them in RDT's unified space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.datasets.store_reader import pooled_stats
from telic.embodiment import NUM_SLOTS, SlotMap, unified_interface
from telic.spec import FieldStats, Interface


def robots_of(stores: Sequence[EpisodeStore]) -> dict[str, Interface]:
    """Return the robots of some stores by name: the store's attribute `robot`, else its own name.

    ValueError if two stores of one robot differ in what it senses, is told, or how often.
    """
    robots: dict[str, Interface] = {}
    for store in stores:
        name = str(store.attrs.get("robot") or store.path.stem)
        known = robots.setdefault(name, store.interface)
        for part in ("state", "action"):
            mine, other = getattr(known, part).names, getattr(store.interface, part).names
            if mine != other:
                raise ValueError(
                    f"{store.path}: the {part} of robot {name!r} has {len(other)} entries, in "
                    f"another store {len(mine)} or others; a robot is one interface"
                )
        if known.rate_hz != store.rate_hz:
            raise ValueError(
                f"{store.path}: robot {name!r} runs at {store.rate_hz:g} Hz, in another store at "
                f"{known.rate_hz:g} Hz; a robot is one interface"
            )
        without_images = (replace(each, images={}) for each in (known, store.interface))
        next(without_images).require(next(without_images), f"robot {name!r}", f"store {store.path}")
        shared = unified_interface({"known": known, "other": store.interface}).images
        robots[name] = replace(known, images=shared)
    return robots


def unified_stats(
    stores: Sequence[EpisodeStore], videos: Sequence[EpisodeStore] = ()
) -> dict[str, FieldStats]:
    """Return the statistics of state and action over all stores, slot by slot.

    Of `videos`, whose actions nobody uses, they are the state's.
    """
    merged = {}
    for name, those in (("state", [*stores, *videos]), ("action", stores)):
        those = [store for store in those if store.num_episodes]
        maps = [SlotMap.of(store.fields[name], f"{store.path}: {name}") for store in those]
        merged[name] = _merge(maps, [pooled_stats(name, [store]) for store in those])
    return merged


def shared_stats(
    stores: Sequence[EpisodeStore], videos: Sequence[EpisodeStore] = ()
) -> dict[str, FieldStats]:
    """Return the statistics over all stores of one robot, of each field that all have alike.

    Of `videos`, whose actions nobody uses, they are those of all else.
    """
    merged = {}
    for name, spec in stores[0].fields.items():
        those = [*stores, *(() if name == "action" else videos)]
        alike = [
            store.fields[name].shape == spec.shape and store.fields[name].dtype == spec.dtype
            for store in those
            if name in store.fields
        ]
        filled = [store for store in those if store.num_episodes]
        if filled and len(alike) == len(those) and all(alike):
            merged[name] = pooled_stats(name, filled)
    return merged


def _merge(maps: Sequence[SlotMap], stats: Sequence[FieldStats]) -> FieldStats:
    """Return the statistics of slots; a slot in no use has zeros.

    Means and deviations are those of all steps together. q01 and q99 are the outermost of the
    stores' own, outside of which lies at most 1 % at each end.
    """
    zeros = np.zeros(NUM_SLOTS)
    count, mean, square = zeros.copy(), zeros.copy(), zeros.copy()
    low, high = {}, {}
    for name in ("minimum", "q01"):
        low[name] = np.full(NUM_SLOTS, np.inf)
    for name in ("maximum", "q99"):
        high[name] = np.full(NUM_SLOTS, -np.inf)
    for map_, own in zip(maps, stats, strict=True):
        at, factor = map_.slots, map_.factors.astype(np.float64)
        count[at] += own.count
        mean[at] += own.count * own.mean * factor
        square[at] += own.count * (own.std**2 + own.mean**2) * factor**2
        for bottom, top in (("minimum", "maximum"), ("q01", "q99")):
            ends = np.sort(np.stack([getattr(own, bottom), getattr(own, top)]) * factor, 0)
            low[bottom][at] = np.minimum(low[bottom][at], ends[0])
            high[top][at] = np.maximum(high[top][at], ends[1])
    used = count > 0
    mean = np.divide(mean, count, out=zeros.copy(), where=used)
    square = np.divide(square, count, out=zeros.copy(), where=used)
    ends_of = {name: np.where(used, value, 0.0) for name, value in (low | high).items()}
    return FieldStats(
        mean=mean,
        std=np.sqrt(np.maximum(square - mean**2, 0)),
        count=sum(own.count for own in stats),
        **ends_of,
    )
