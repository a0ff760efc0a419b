"""Attacks on robomimic HDF5 files: damaged and hostile ones, and what converts them to a store.

A file must convert to the store that the original gives, or be refused in one line, with nothing
left beside the target and nothing read from other files. HDF5 guards no bytes of its own, so a
file of somebody else may hold other numbers where bytes flipped; one of ours knows its digests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.datasets import cli
from telic.datasets.store import EpisodeStore, Segment
from telic.spec import ArraySpec
from telic.tests.attacks.arena import EQUAL, OTHER, REFUSED, Result, Step, attempt, tree_digest
from telic.tests.attacks.arena import command as run_command
from telic.tests.attacks.mutations import HUGE, VALUES, Random, change_tree, flip, pick, resize
from telic.tests.attacks.stores import compare, episode, read

NAME = "demos.hdf5"
MUST_NOT_COME_IN = {  # what an edited file must not bring in
    *("external", "raw", "virtual", "device", "demo"),  # out of another file
    *("some", "ragged", "huge", "wide", "bomb"),  # demos that do not hold the same
}
SECRET = b"root:x:0:0:a line of another file\n" * 40
Change = Callable[[Random, h5py.File, Path], str]


def make(base: Path) -> None:
    """Write two originals to `base`: `ours` from a store, `foreign` as robomimic has them."""
    fields = {
        "state": ArraySpec(shape=(600,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
        "image/front": ArraySpec(shape=(4, 5, 3), dtype="uint8"),
    }
    with EpisodeStore.create(base / "demos.zarr", fields, rate_hz=20, robot="arm") as store:
        for number in range(3):
            said = [Segment(start=0, end=9, instruction=f"do {number}", task="t")]
            store.append(episode(10 + number, number), said)
    known = {}
    for kind in ("ours", "foreign"):
        (base / kind).mkdir()
    cli_convert(base / "demos.zarr", base / "ours" / NAME)
    write_foreign(base / "foreign" / NAME)
    for kind in ("ours", "foreign"):
        cli_convert(base / kind / NAME, base / "imported.zarr")
        known[kind] = read(base / "imported.zarr")
        shutil.rmtree(base / "imported.zarr")
    (base / "content.json").write_text(json.dumps(known))


def write_foreign(path: Path) -> None:
    """Write a small file as robomimic's tools do."""
    rng = np.random.default_rng(1)
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["total"] = 23
        for number, steps in enumerate((12, 11)):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = steps
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["states"] = rng.normal(size=(steps, 5))
            demo["rewards"] = np.zeros(steps)
            demo["dones"] = np.zeros(steps)
            for key, size in (("object", 4), ("robot0_eef_pos", 3)):
                demo[f"obs/{key}"] = rng.normal(size=(steps, size))
            demo["obs/agentview_image"] = rng.integers(0, 256, (steps, 6, 6, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_0"])


def cli_convert(source: Path, target: Path) -> None:
    """Convert, or raise what is wrong."""
    run_command(cli.main, ["convert", str(source), str(target)], source.name)


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack` on a copy of one of the originals in `base`."""
    known = json.loads((base / "content.json").read_text())
    kind = pick(rng, ["ours", "foreign"])

    def body(folder: Path) -> Iterator[Step | str]:
        path = folder / "artefact" / NAME
        target = folder / "artefact" / "converted.zarr"
        shutil.copyfile(base / kind / NAME, path)
        (folder / "outside" / "secret").write_bytes(SECRET)
        change = ATTACKS[attack]
        yield f"{kind}: {change(rng, path, folder / 'outside')}"
        before = tree_digest(folder)

        def convert() -> str:
            cli_convert(path, target)
            if any(SECRET[:30] in p.read_bytes() for p in target.rglob("c.*") if p.is_file()):
                raise RuntimeError("the store holds what lies in another file")
            validated = run_command(cli.main, ["validate", str(target)], target.name)
            print(f"validate: {validated}")
            return compare(read(target), known[kind])

        step = attempt("convert", convert, NAME)
        yield step
        if step.outcome not in (EQUAL, OTHER):
            left = {k for k in tree_digest(folder) if k not in before}
            if left and step.outcome == REFUSED:
                yield Step("convert: then", "left", ", ".join(sorted(left))[:200])
        shutil.rmtree(target, ignore_errors=True)
        after = tree_digest(folder)
        if after != before and step.outcome in (EQUAL, OTHER, REFUSED):
            changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            yield Step("convert: then", "changed", ", ".join(changed)[:300])

    return body


def judge(result: Result) -> None:
    """Note where other data came in without a word: of a file of ours whose bytes changed, out of
    another file, from demos that do not hold the same. A file that was edited may say otherwise.
    """
    told = next((s.text for s in result.steps if s.outcome == OTHER), None)
    if told is None:
        return
    ours, done = result.mutation.partition(": ")[::2]
    damaged, edited = result.attack in BYTES, result.attack not in BYTES
    if (damaged and ours == "ours") or (edited and done.split(":")[0] in MUST_NOT_COME_IN):
        result.wrong.append(f"silent: convert: {told.strip()}")


def unguarded(result: Result) -> bool:
    """Whether a file without digests came through with other numbers."""
    return result.attack in BYTES and result.outcomes().get("convert") == OTHER


def edit(*changes: Change) -> Callable[[Random, Path, Path], str]:
    """Return an attack that opens the file and makes one of `changes`."""

    def attack(rng: Random, path: Path, outside: Path) -> str:
        with h5py.File(path, "r+") as file:
            return pick(rng, list(changes))(rng, file, outside)

    return attack


def _demo(rng: Random, file: h5py.File) -> h5py.Group:
    return file[f"data/{pick(rng, [n for n in file['data'] if n.startswith('demo')])}"]


def _dataset(rng: Random, file: h5py.File) -> tuple[h5py.Group, str]:
    """Return (demo, path in it) of one of the datasets that are converted."""
    demo = _demo(rng, file)
    found: list[str] = []
    demo.visititems(
        lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None
    )
    return demo, pick(rng, [name for name in found if not name.startswith("next_obs")])


def _taken_out(rng: Random, file: h5py.File) -> tuple[h5py.Group, str, np.ndarray]:
    """Delete one of these datasets; return (demo, path in it, what it held)."""
    demo, name = _dataset(rng, file)
    rows = demo[name][()]
    del demo[name]
    return demo, name, rows


def _lose(rng: Random, file: h5py.File, outside: Path) -> str:
    path = pick(rng, ["data", "mask", "data/demo_0", "obs", "actions", "states", "some", "all obs"])
    demo = _demo(rng, file)
    if path == "some":
        demo, name = _dataset(rng, file)
        del demo[name]
        return f"some: {demo.name}/{name} lost"
    if path == "all obs":
        for one in file["data"].values():
            del one["obs"]
    elif path in ("obs", "actions", "states"):
        demo.pop(path, None)
    else:
        del file[path]
    return f"{path} lost ({demo.name})"


def _nest(rng: Random, file: h5py.File, outside: Path) -> str:
    demo, name = _dataset(rng, file)
    how = pick(rng, ["group", "deeper", "cycle", "dataset for group", "many", "empty"])
    if how in ("group", "empty"):
        del demo[name]
        demo.create_group(name)
        if how == "group":
            demo[f"{name}/left"] = np.zeros((12, 3))
    elif how == "deeper":
        demo["obs/robot0/joints/pos"] = np.zeros((12, 3))
    elif how == "cycle":
        demo["obs/again"] = demo
    elif how == "dataset for group":
        del demo["obs"]
        demo["obs"] = np.zeros((12, 3))
    else:
        at = demo["obs"]
        for _ in range(600):
            at = at.create_group("d")
    return f"{how}: {demo.name}/{name}"


def _link(rng: Random, file: h5py.File, outside: Path) -> str:
    demo, name = _dataset(rng, file)
    rows = demo[name][()]
    other = outside / "other.hdf5"
    how = pick(rng, ["external", "soft", "dangling", "loop", "raw", "virtual", "device", "demo"])
    del demo[name]
    if how in ("external", "virtual", "demo"):
        with h5py.File(other, "w") as elsewhere:
            text = SECRET[: rows.nbytes].ljust(rows.nbytes)
            elsewhere["rows"] = np.frombuffer(text, rows.dtype).reshape(rows.shape)
            elsewhere.copy(demo, "demo")
    if how == "external":
        demo[name] = h5py.ExternalLink(str(other), "/rows")
    elif how == "demo":
        place = demo.name
        del file[place]
        file[place] = h5py.ExternalLink(str(other), "/demo")
    elif how == "soft":
        demo[name] = h5py.SoftLink(pick(rng, ["/data/demo_1/actions", "/data", "/mask/train"]))
    elif how == "dangling":
        demo[name] = h5py.SoftLink("/nowhere")
    elif how == "loop":
        demo[name] = h5py.SoftLink(f"{demo.name}/{name}")
    elif how == "virtual":
        layout = h5py.VirtualLayout(rows.shape, rows.dtype)
        layout[...] = h5py.VirtualSource(str(other), "rows", rows.shape)
        demo.create_virtual_dataset(name, layout)
    else:
        target = outside / "secret" if how == "raw" else Path("/dev/zero")
        demo.create_dataset(name, rows.shape, rows.dtype, external=[(str(target), 0, rows.nbytes)])
    return f"{how}: {demo.name}/{name}"


def _size(rng: Random, file: h5py.File, outside: Path) -> str:
    demo, name, rows = _taken_out(rng, file)
    how = pick(
        rng, ["huge", "huge", "wide", "ragged", "none", "scalar", "flat", "more axes", "bomb"]
    )
    if how == "huge":
        shape = (pick(rng, [10**8, HUGE, 10**15]), *rows.shape[1:])
        demo.create_dataset(name, shape, rows.dtype, chunks=(1024, *rows.shape[1:]))
    elif how == "wide":
        demo.create_dataset(name, (len(rows), 10**9), rows.dtype, chunks=(1, 1024))
    elif how == "bomb":  # a small file that unpacks to 4 GiB
        shape = (2**29, *([1] * (rows.ndim - 1)))
        demo.create_dataset(name, shape, "f8", chunks=(2**20, *shape[1:]), compression="gzip")
    elif how == "none":
        demo.create_dataset(name, data=h5py.Empty(rows.dtype))
    elif how == "scalar":
        demo[name] = rows.reshape(-1)[0]
    elif how == "flat":
        demo[name] = rows.reshape(-1)
    elif how == "more axes":
        demo[name] = rows[:, None, None]
    else:
        demo[name] = rows[: int(rng.integers(len(rows)))]
    return f"{how}: {demo.name}/{name}"


def _type(rng: Random, file: h5py.File, outside: Path) -> str:
    demo, name, rows = _taken_out(rng, file)
    how = pick(
        rng,
        [
            "object",
            "string",
            "bytes",
            "compound",
            "complex",
            "bool",
            "f2",
            "i8",
            "big",
            "enum",
            "reference",
            "nan",
            "inf",
            "f16",
            "u8",
        ],
    )
    flat = rows.reshape(len(rows), -1)
    if how == "object":
        demo.create_dataset(name, (len(rows),), h5py.vlen_dtype(np.float64))
        for i, row in enumerate(flat):
            demo[name][i] = row[: i % len(row) + 1]
    elif how == "string":
        demo.create_dataset(name, (len(rows),), h5py.string_dtype(), data=["é"] * len(rows))
    elif how == "bytes":
        demo[name] = np.array([b"abc"] * len(rows))
    elif how == "compound":
        demo[name] = np.zeros(rows.shape, [("x", "f4"), ("y", "f4")])
    elif how == "enum":
        demo.create_dataset(name, rows.shape, h5py.enum_dtype({"A": 1}, "i4"))
    elif how == "reference":
        demo.create_dataset(name, (len(rows),), h5py.ref_dtype)
    elif how in ("nan", "inf"):
        changed = rows.astype(np.float64)
        changed.reshape(-1)[int(rng.integers(changed.size))] = float(how)
        demo[name] = changed
    else:
        kinds = {"complex": "c16", "bool": "?", "f2": "f2", "i8": "i8", "big": ">f8", "f16": "f16"}
        with np.errstate(all="ignore"):
            demo[name] = rows.astype(kinds.get(how, "u8"))
    return f"{how}: {demo.name}/{name}"


def _attributes(rng: Random, file: h5py.File, outside: Path) -> str:
    data = file["data"]
    node = data if rng.random() < 0.7 else _demo(rng, file)
    key = pick(rng, sorted(node.attrs) or ["env_args"])
    old = node.attrs.get(key)
    how = pick(rng, ["tree", "tree", "tree", "value", "gone", "text", "json"])
    if how == "gone":
        node.attrs.pop(key, None)
        return f"{node.name}: {key} gone"
    if how == "tree" and isinstance(old, str) and old[:1] in "{[" and len(old) > 2:
        tree = json.loads(old)
        done = change_tree(rng, tree)
        node.attrs[key] = json.dumps(tree)
        return f"{node.name}: {key}{done}"
    if how == "json":
        value: Any = json.dumps(pick(rng, VALUES))
    elif how == "text":
        value = pick(rng, ["", "{", "x" * 40_000, "[" * 30_000, "null", "\ud7ff", "{'a': 1}"])
    else:
        value = pick(
            rng, [0, -1, HUGE, 0.5, np.nan, b"\xff\xfe", "x", np.zeros(3), h5py.Empty("f4"), True]
        )
    node.attrs[key] = value
    return f"{node.name}: {key} = {str(value)[:60]!r}"


def _names(rng: Random, file: h5py.File, outside: Path) -> str:
    data = file["data"]
    old = pick(rng, sorted(data))
    new = pick(
        rng,
        [
            "demo_x",
            "demo_-1",
            "demo_٣",
            "demo_²",
            "demo_01",
            "demo_" + "9" * 40,
            "demo_ 1",
            "Demo_0",
            "demo_0.5",
            "demo_00000000000000000000000000000001",
            "x",
        ],
    )
    if rng.random() < 0.5:
        data.move(old, new)
        return f"{old} renamed {new!r}"
    if rng.random() < 0.5:
        data[new] = np.zeros(3)
        return f"a dataset {new!r} beside the demos"
    demo = _demo(rng, file)
    key = pick(
        rng,
        [
            "a b",
            "é",
            "..",
            "x.y",
            "-",
            "state",
            "action",
            "image",
            "agentview",
            "x" * 300,
            "timestamp_ns",
            "front_image",
            "front",
            "a/b",
            "\x01",
        ],
    )
    demo[f"obs/{key}"] = np.zeros((len(demo["actions"]), 2))
    return f"{demo.name}/obs/{key[:20]!r} added"


BYTES = {
    "HDF5: bytes flipped, zeroed, overwritten": flip,
    "HDF5: files cut short, lengthened, emptied": resize,
}
ATTACKS: dict[str, Callable[[Random, Path, Path], str]] = {
    **BYTES,
    "HDF5: groups and datasets lost": edit(_lose),
    "HDF5: nested groups, cycles, datasets for groups": edit(_nest),
    "HDF5: links, external and virtual storage": edit(_link),
    "HDF5: sizes beyond memory, ragged, bombs": edit(_size),
    "HDF5: types that are no numbers, NaN": edit(_type),
    "HDF5: attributes of another kind": edit(_attributes),
    "HDF5: odd names": edit(_names),
}
