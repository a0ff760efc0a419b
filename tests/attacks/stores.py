"""Attacks on an episode store: a damaged copy, and all that opens one.

A copy must read as the original did, or be refused in one line. Bytes that a reader of single rows
cannot check, `demo-store validate --deep` must find. What refuses to open for writing, and what
only reads, must leave every byte as it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from telic.datasets import cli
from telic.datasets.goals import Hindsight, TextGoal, WindowGoalConfig
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.windows import WindowConfig, Windows
from telic.spec import Array, ArraySpec
from telic.tests.attacks.arena import (
    CLEAN,
    EQUAL,
    FOUND,
    OTHER,
    REFUSED,
    Result,
    Step,
    attempt,
    command,
    tree_digest,
)
from telic.tests.attacks.mutations import (
    ANY_FOLDER,
    HUGE,
    Mutation,
    Random,
    change_tree,
    pick,
    rewrite_json,
)

NAME = "demos.zarr"
WIDTH = 600  # of the state: 109 steps a file, so that episodes cross files
LENGTHS = (60, 90, 5, 70)
SENTENCES = ("open the drawer", "close the drawer", "öffne die Schublade")
FIELDS = {
    "state": ArraySpec(shape=(WIDTH,)),
    "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,), names=("dx", "gripper")),
    "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    "image/front": ArraySpec(shape=(4, 5, 3), dtype="uint8"),
}
WINDOWS = WindowConfig(
    obs_horizon=2,
    action_horizon=4,
    goal=WindowGoalConfig(text=TextGoal.optional, hindsight=Hindsight.uniform),
)


def episode(steps: int, seed: int) -> dict[str, Array]:
    """Return an episode of random numbers in FIELDS."""
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(size=(steps, WIDTH)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "timestamp_ns": np.arange(steps) * 50_000_000,
        "image/front": rng.integers(0, 256, (steps, 4, 5, 3)).astype(np.uint8),
    }


EDITED = "edited"
PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}
ODD_CODECS: list[Any] = [[], None, "bytes", [None], [{}], [PLAIN] * 9]
ODD_ATTRIBUTES: list[Any] = [None, [], "x", {"sentences": 3}]
OTHER_SIZES: list[tuple[str, Any]] = [
    *(("rows", n) for n in (0, 1, 2, 3, 226, 10**6, HUGE, 10**30, -1, 1.5, None)),
    *(("row", n) for n in (0, 1, 3, 601, HUGE, -1, None, "3")),
    *(("chunk", n) for n in (0, -1, 1, 10**9, 10**30, None, 2.5)),
    *(("type", n) for n in ("int32", "uint32", "float16", "float99", "bool", "string")),
    *(("type", n) for n in (None, 3, {"name": "numpy.datetime64"}, "complex64", "r8")),
]
OTHER_LAYOUTS: list[tuple[str, Any]] = [
    ("codecs", [PLAIN, {"name": "gzip", "configuration": {"level": 1}}]),
    ("codecs", [PLAIN, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}]),
    ("codecs", [PLAIN, {"name": "crc32c"}, {"name": "crc32c"}]),
    ("codecs", [{"name": "bytes", "configuration": {"endian": "big"}}]),
    ("codecs", [PLAIN, {"name": "rot13"}]),
    ("codecs", [{"name": "crc32c"}, PLAIN]),
    ("codecs", [{"name": "transpose", "configuration": {"order": [0]}}, PLAIN]),
    *(("codecs", value) for value in ODD_CODECS),
    *(("zarr_format", value) for value in (2, 4, "3", None)),
    *(("node_type", value) for value in ("group", "arrays", None)),
    ("chunk_key_encoding", {"name": "v2", "configuration": {"separator": "."}}),
    ("chunk_key_encoding", {"name": "default", "configuration": {"separator": "/"}}),
    ("chunk_key_encoding", {"name": "default", "configuration": {"separator": "../"}}),
    ("chunk_key_encoding", {"name": "default"}),
    ("chunk_grid", {"name": "hexagonal", "configuration": {"chunk_shape": [3]}}),
    ("storage_transformers", [{"name": "x"}]),
    *(("attributes", value) for value in ODD_ATTRIBUTES),
    ("attributes", {"encoder": 3, "sentences": ["a", "a", None]}),
    ("fill_value", "NaN"),
    ("dimension_names", ["a"]),
]


def make(base: Path) -> None:
    """Write the original to `base`/artefact, and to `base`/content.json what it tells."""
    with EpisodeStore.create(
        base / "artefact" / NAME, FIELDS, rate_hz=20, robot="arm", licence="MIT"
    ) as store:
        for number, steps in enumerate(LENGTHS):
            half = steps // 2
            said = [
                Segment(start=0, end=half, instruction=SENTENCES[number % 3], task="drawer"),
                Segment(start=half, end=steps, instruction=SENTENCES[1], task=f"task {number}"),
            ]
            store.append(episode(steps, number), said)
        store.write_embeddings("encoder", np.eye(len(store.instructions), 8, dtype=np.float32))
    known = {
        "read": read(base / "artefact" / NAME),
        "train": windows(base / "artefact" / NAME),
        "deep": has_deep(),
    }
    (base / "content.json").write_text(json.dumps(known))


def has_deep() -> bool:
    """Return whether `demo-store validate` can read everything."""
    try:
        cli.demo_store_parser().parse_args(["validate", "x", "--deep"])
    except SystemExit:
        return False
    return True


def fingerprint(value: Any) -> str:
    """Return a digest of an array, or of anything else as JSON."""
    if isinstance(value, np.ndarray):
        head = f"{value.dtype.str} {value.shape} "
        return head + hashlib.sha1(np.ascontiguousarray(value).tobytes()).hexdigest()
    return json.dumps(value, sort_keys=True, default=str)


def read(path: Path) -> dict[str, str]:
    """Return all that the store at `path` tells, as digests: of each episode and of the whole."""
    with EpisodeStore.open(path) as store:
        told = {"episodes": str(store.num_episodes), "rate_hz": str(store.rate_hz)}
        told["fields"] = fingerprint({k: s.to_json() for k, s in store.fields.items()})
        for key in ("robot", "task_family", "licence", "source"):
            told[key] = str(store.attrs.get(key))
        for one in store:
            for name in store.fields:
                told[f"episode {one.index} {name}"] = fingerprint(one[name])
            said = [(s.start, s.end, s.instruction, s.task) for s in one.segments]
            told[f"episode {one.index} segments"] = fingerprint(said)
        told["sentences"] = fingerprint([store.instructions, store.tasks])
        for name, stats in store.stats.items():
            parts = [stats.minimum, stats.maximum, stats.mean, stats.std, stats.q01, stats.q99]
            told[f"stats {name}"] = fingerprint(np.concatenate([np.ravel(p) for p in parts]))
        for encoder in store.encoders:
            vectors = store.read_embeddings(encoder)
            told[f"embeddings {encoder}"] = fingerprint({k: v.tolist() for k, v in vectors.items()})
    return told


def windows(path: Path) -> dict[str, str]:
    """Return all windows of the store at `path`, as a digest of each entry."""
    with EpisodeStore.open(path) as store:
        batch = Windows(store, WINDOWS, seed=3)
        return {k: fingerprint(v) for k, v in batch[np.arange(len(batch))].items()}


def compare(got: dict[str, str], expected: dict[str, str]) -> str:
    """Return EQUAL or OTHER, and print the keys that differ."""
    keys = [k for k in {**expected, **got} if got.get(k) != expected.get(k)]
    # sentence vectors are a cache: those that are lost are computed again
    keys = [k for k in keys if k in got or not k.startswith("embeddings ")]
    if keys:
        print(f"{len(keys)} differ: " + ", ".join(keys[:6]))
    return OTHER if keys else EQUAL


def uses(path: Path, known: dict[str, Any]) -> dict[str, Callable[[], str]]:
    """Return what reads a store, by name."""
    deep = ["--deep"] if known["deep"] else []
    target = path.parent / "converted.hdf5"

    def convert() -> str:
        try:
            return command(cli.main, ["convert", str(path), str(target)], path.name)
        finally:
            target.unlink(missing_ok=True)

    return {
        "read": lambda: compare(read(path), known["read"]),
        "train": lambda: compare(windows(path), known["train"]),
        "info": lambda: command(cli.main, ["info", str(path)], NAME),
        "validate": lambda: command(cli.main, ["validate", str(path)], NAME),
        "deep": lambda: command(cli.main, ["validate", str(path), *deep], NAME),
        "convert": convert,
    }


def open_to_write(path: Path, expected: dict[str, str]) -> str:
    """Open the store at `path` for writing and close it; EQUAL if nothing is cut off."""
    EpisodeStore.open(path, "a").close()
    return compare(read(path), expected)


def append(path: Path, expected: dict[str, str]) -> str:
    """Append an episode to the store at `path`; EQUAL if it is there and the others still are."""
    new = episode(40, 99)
    with EpisodeStore.open(path, "a") as store:
        store.append(new, [Segment(start=0, end=9, instruction="a new one", task="new")])
        last = store.episode(len(store) - 1)
        for name, rows in new.items():
            assert np.array_equal(last[name], rows), name
    got = read(path)
    before = {k: v for k, v in expected.items() if k.startswith("episode ") or k in ("fields",)}
    return compare({k: got.get(k, "") for k in before}, before)


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack` on a copy of the original in `base`."""
    known = json.loads((base / "content.json").read_text())

    def body(folder: Path) -> Iterator[Step | str]:
        path = folder / "artefact" / NAME
        shutil.copytree(base / "artefact" / NAME, path)
        yield ATTACKS[attack](rng, path, folder / "outside")
        before = tree_digest(folder)
        for verb, use in uses(path, known).items():
            yield attempt(verb, use, NAME)
            after = tree_digest(folder)
            if after != before:
                yield Step(f"{verb}: then", "changed", _differing(before, after))
                before = after
        step = attempt("write", lambda: open_to_write(path, known["read"]), NAME)
        yield step
        after = tree_digest(folder)
        if step.outcome == REFUSED and after != before:
            yield Step("write: then", "changed", _differing(before, after))
        yield attempt("append", lambda: append(path, known["read"]), NAME)
        after = tree_digest(folder)
        elsewhere = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        if any(not name.startswith("artefact/") for name in elsewhere):
            yield Step("append: then", "outside", ", ".join(elsewhere))

    return body


def judge(result: Result) -> None:
    """Note what a case must not come to: other data that nothing finds.

    Sentences and segments that were written anew, checksums and all, say something else, and may.
    """
    if result.mutation.startswith(EDITED):
        return
    outcomes = result.outcomes()
    found = outcomes.get("deep") in (FOUND, REFUSED)
    for verb in ("read", "train", "write", "append"):
        if outcomes.get(verb) == OTHER and not found:
            told = next(s.text for s in result.steps if s.verb == verb)
            result.wrong.append(f"silent: {verb}: {told.strip()}")
    if outcomes.get("read") == REFUSED and outcomes.get("deep") == CLEAN:
        result.wrong.append("silent: deep: nothing wrong found in a store that does not open")


def only_deep(result: Result) -> bool:
    """Whether only `validate --deep` found what was done."""
    return OTHER in (result.outcomes().get(verb) for verb in ("read", "train", "write", "append"))


def _differing(before: dict[str, str], after: dict[str, str]) -> str:
    return ", ".join(k for k in {**before, **after} if before.get(k) != after.get(k))[:300]


def _metadata(rng: Random, root: Path, outside: Path) -> str:
    """Change one thing in one zarr.json."""
    path = pick(rng, sorted(root.rglob("zarr.json")))
    return rewrite_json(rng, path, path.relative_to(root.parent).as_posix())


def _sizes(rng: Random, root: Path, outside: Path) -> str:
    """Have one array or all claim other numbers of rows, other rows, chunks or types."""
    arrays = [p for p in sorted(root.rglob("zarr.json")) if _array(p)]
    chosen = arrays if rng.random() < 0.3 else [pick(rng, arrays)]
    key, value = pick(rng, OTHER_SIZES)
    for path in chosen:
        meta = json.loads(path.read_text())
        grid = meta["chunk_grid"]["configuration"]["chunk_shape"]
        if key == "rows":
            meta["shape"][0] = value
        elif key == "row":
            meta["shape"][1:] = [value] * max(1, len(meta["shape"]) - 1)
            grid[1:] = meta["shape"][1:]
        elif key == "chunk":
            grid[0] = value
        else:
            meta["data_type"] = value
        path.write_text(json.dumps(meta))
    names = ", ".join(p.parent.relative_to(root).as_posix() for p in chosen[:2])
    return f"{key} of {names}{' ...' if len(chosen) > 2 else ''} = {value!r}"


def _codecs(rng: Random, root: Path, outside: Path) -> str:
    """Have an array claim other codecs, another version, another layout of chunks."""
    path = pick(rng, [p for p in sorted(root.rglob("zarr.json")) if _array(p)])
    meta = json.loads(path.read_text())
    key, value = pick(rng, OTHER_LAYOUTS)
    meta[key] = value
    path.write_text(json.dumps(meta))
    return f"{path.parent.relative_to(root)}: {key} = {json.dumps(value)}"


def _tables(rng: Random, root: Path, outside: Path) -> str:
    """Write wrong numbers into a table, checksums as they should be."""
    names = ["meta/episode_ends"] * 3 + ["meta/segments"] * 2 + ["meta/stats", "strings"]
    name = pick(rng, names)
    if name == "strings":
        table = pick(rng, ["instructions", "tasks"])
        array = zarr.open_array(root, path=f"meta/{table}", mode="r+")
        array[int(rng.integers(array.shape[0]))] = pick(rng, ["", " ", "x\ny", "\0", "long " * 999])
        return f"{EDITED}: {array.name}"
    if name == "meta/stats":
        name = f"{name}/{pick(rng, list(FIELDS))}"
    array = zarr.open_array(root, path=name, mode="r+")
    rows = np.asarray(array[:])
    spot = tuple(int(rng.integers(n)) for n in rows.shape)
    old = rows[spot]
    values = [-1, 0, 1, 2, int(old) + 1, int(old) - 1, 109, 10**6, HUGE, 2**62, -(2**63)]
    rows[spot] = pick(rng, values)
    if rng.random() < 0.2:
        rows = rows[::-1]
    array[:] = rows
    edited = f"{EDITED}: " if name == "meta/segments" else ""
    return f"{edited}{name}{list(spot)} = {rows[spot]} (was {old})"


def _attributes(rng: Random, root: Path, outside: Path) -> str:
    """Change one thing that the store's own attributes say of its fields or its rate."""
    meta = json.loads((root / "zarr.json").read_text())
    done = change_tree(rng, meta["attributes"])
    (root / "zarr.json").write_text(json.dumps(meta))
    return f"attributes{done}"


def _array(path: Path) -> bool:
    return bool(json.loads(path.read_text()).get("node_type") == "array")


ATTACKS: dict[str, Mutation] = {
    **ANY_FOLDER,
    "metadata: values of other types, missing keys": _metadata,
    "metadata: sizes and types that are not there": _sizes,
    "metadata: other codecs, versions, layouts": _codecs,
    "attributes that do not fit the data": _attributes,
    "tables of episodes and sentences with wrong numbers": _tables,
}
