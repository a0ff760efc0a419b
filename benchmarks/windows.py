"""Windows per second from a store with two 96x96 cameras, against numpy memory maps of the same.

    python benchmarks/windows.py [--steps 20000] [--batch 256] [--seconds 3] [--rounds 3]

Both read the same random windows (2 observations with both pictures, 8 actions) into fresh arrays;
with workers both go through torch's DataLoader and its shared memory. The files are in the page
cache for both, as far as it holds them. The last column compares with the memory map read in this
process, which no copy between processes slows down.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from telic.datasets.layout import row_shape
from telic.datasets.prefetch import read_ahead
from telic.datasets.sampler import BatchSampler
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.windows import WindowConfig, Windows
from telic.spec import Array, ArraySpec

EPISODE_STEPS = 100
CONFIG = WindowConfig(obs_horizon=2, action_horizon=8)
FIELDS = {
    "state": ArraySpec(shape=(39,)),
    "action": ArraySpec(shape=(4,), minimum=(-1.0,), maximum=(1.0,)),
    "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    "image/front": ArraySpec(shape=(96, 96, 3), dtype="uint8"),
    "image/wrist": ArraySpec(shape=(96, 96, 3), dtype="uint8"),
}
WINDOWED = [name for name in FIELDS if name != "timestamp_ns"]


class Batches(Protocol):
    """What gives a batch of windows for an array of indices."""

    def __getitem__(self, indices: Array) -> dict[str, Any]: ...


class Maps:
    """The limit: one flat file a field, mapped once, one fancy index a field and batch."""

    def __init__(self, folder: Path, store: EpisodeStore) -> None:
        """Write the fields windows need as flat files, and map them."""
        self._maps: dict[str, Array] = {}
        for name in WINDOWED:
            path = folder / name.replace("/", "_")
            with path.open("wb") as file:
                for episode in store:
                    file.write(np.ascontiguousarray(episode[name]).data)
            shape = (store.num_steps, *row_shape(FIELDS[name]))
            self._maps[name] = np.memmap(path, np.dtype(FIELDS[name].dtype), "r", shape=shape)

    def __getitem__(self, indices: Array) -> dict[str, Any]:
        step = indices % len(self._maps["action"])
        first = step // EPISODE_STEPS * EPISODE_STEPS
        last = (first + EPISODE_STEPS - 1)[:, None]
        observed = np.maximum(step[:, None] + np.arange(-1, 1), first[:, None])
        acted = step[:, None] + np.arange(CONFIG.action_horizon)
        batch = {name: rows[observed] for name, rows in self._maps.items() if name != "action"}
        batch["action"] = self._maps["action"][np.minimum(acted, last)]
        batch["action_mask"] = acted <= last
        return batch


def make_store(path: Path, steps: int) -> EpisodeStore:
    """Return a store of random episodes; nothing is compressed, so content does not matter."""
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, FIELDS, rate_hz=20) as store:
        for _ in range(steps // EPISODE_STEPS):
            episode: dict[str, Array] = {"timestamp_ns": np.arange(EPISODE_STEPS) * 50_000_000}
            for name in WINDOWED:
                shape = (EPISODE_STEPS, *row_shape(FIELDS[name]))
                pictures = FIELDS[name].dtype == "uint8"
                values = rng.integers(0, 256, shape, np.uint8) if pictures else rng.random(shape)
                episode[name] = values
            store.append(episode, [Segment(start=0, end=EPISODE_STEPS, instruction="go")])
    return EpisodeStore.open(path)


def rate(batches: Iterable[dict[str, Any]], batch_size: int, seconds: float) -> float:
    """Return windows per second over `seconds`, after four batches to warm up."""
    source = iter(batches)
    for _ in islice(source, 4):
        pass
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        next(source)
        count += 1
    return count * batch_size / (now - begin)


def with_workers(windows: Batches, steps: int, workers: int, args: argparse.Namespace) -> float:
    """Return windows per second of one reader with so many worker processes."""
    sampler = BatchSampler(steps, args.batch, seed=0)
    if not workers:
        return rate((windows[indices] for indices in sampler), args.batch, args.seconds)
    loader: Any = DataLoader(
        windows,  # type: ignore[arg-type]
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
    )
    return rate(loader, args.batch, args.seconds)


def machine() -> str:
    """Return the processor, its cores and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{len(os.sched_getaffinity(0))} cores of {name}, {datetime.date.today()}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="55 kB each")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="in turns; the best one counts")
    args = parser.parse_args()
    table = Table(title=f"windows per second, batch {args.batch}, {machine()}")
    for column in ("read by", "store", "memory map", "ratio", "of the map in this process"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s.zarr", args.steps)
        maps = Maps(Path(folder), store)
        windows = Windows(store, CONFIG)
        first = windows[np.arange(args.batch)]
        for name, values in maps[np.arange(args.batch)].items():
            np.testing.assert_array_equal(first[name], values)
        best = 0.0
        for workers in (0, 1, 2):
            rounds = [
                [with_workers(reader, store.num_steps, workers, args) for reader in (windows, maps)]
                for _ in range(args.rounds)
            ]
            got, limit = (max(rates) for rates in zip(*rounds, strict=True))
            best = best or limit
            who = f"{workers} worker processes" if workers else "this process"
            shares = f"{got / limit:.2f}", f"{got / best:.2f}"
            table.add_row(who, f"{got:,.0f}", f"{limit:,.0f}", *shares)
        got = 0.0
        for _ in range(args.rounds):
            sampler = BatchSampler(len(windows), args.batch, seed=0)
            got = max(got, rate(read_ahead(windows, sampler), args.batch, args.seconds))
        table.add_row("a thread ahead", f"{got:,.0f}", "", "", f"{got / best:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
