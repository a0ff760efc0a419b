"""What may befall a folder of files: a seeded function each, which says in words what it did.

Bytes flip, files are cut short, lost, exchanged; strays and links appear; JSON says other things.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
Mutation = Callable[[Random, Path, Path], str]  # (random, artefact, a folder outside) -> in words

HUGE = 10**12
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 255, HUGE, 10**30, -HUGE, 0.5, -2.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "float32",
        "int64",
        "float99",
        "object",
        "../../outside",
    ),
    *([], [-1], [None], [0], [HUGE], ["a", "b"], [[1]], {}, {"a": 1}, {"name": "gzip"}),
]
ODD_NAMES = [
    *("zarr.json", ".zarray", ".DS_Store", "c", "c.x", "c.-1.0", "c.99.0", "c.0", "notes.txt"),
    *("x.partial", "zarr.json.77.partial", "__pycache__", "c.0.0.0.0.0", "c.\u0661.0", "a\nb"),
    *("~lock", "config.yaml.bak", "model.safetensors.1", "weights.bin", "c.0.0 (copy)"),
]


def files(root: Path) -> list[Path]:
    """Return all regular files below `root`, or `root` if it is one."""
    if root.is_file():
        return [root]
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())


def pick(rng: Random, things: list[Any]) -> Any:
    """Return one of `things`."""
    return things[int(rng.integers(len(things)))]


def flip(rng: Random, root: Path, outside: Path) -> str:
    """Change some bytes of a file: bits, zeros, ones, noise."""
    path = pick(rng, [p for p in files(root) if p.stat().st_size])
    data = bytearray(path.read_bytes())
    how = pick(rng, ["bit", "bit", "byte", "zeros", "ones", "noise", "many"])
    used = len(data.rstrip(b"\0")) or len(data)  # rather than what lies beyond the last row
    at = int(rng.integers(used if rng.random() < 0.9 else len(data)))
    length = min(int(rng.integers(1, 65)), len(data) - at)
    if how == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif how == "byte":
        data[at] = int(rng.integers(256))
    elif how == "many":
        for spot in rng.integers(0, len(data), 16).tolist():
            data[spot] ^= 1 << int(rng.integers(8))
    else:
        new = {"zeros": bytes(length), "ones": b"\xff" * length, "noise": rng.bytes(length)}[how]
        data[at : at + length] = new
    path.write_bytes(data)
    return f"{how} at byte {at} of {path.relative_to(root.parent)}"


def resize(rng: Random, root: Path, outside: Path) -> str:
    """Make a file shorter or longer."""
    path = pick(rng, files(root))
    size = path.stat().st_size
    how = pick(rng, ["cut", "empty", "one less", "noise", "zeros", "sparse", "twice", "moved"])
    data = path.read_bytes()
    at = int(rng.integers(size + 1))
    if how == "sparse":
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes(
            {
                "cut": data[:at],
                "empty": b"",
                "one less": data[:-1],
                "noise": data + rng.bytes(int(rng.integers(1, 5000))),
                "zeros": data + bytes(int(rng.integers(1, 5000))),
                "twice": data + data,
                "moved": data[:at] + rng.bytes(1) + data[at:],
            }[how]
        )
    return f"{how} (at {at} of {size}): {path.relative_to(root.parent)}"


def lose(rng: Random, root: Path, outside: Path) -> str:
    """Delete, rename, swap or copy over files and folders."""
    inside = sorted(p for p in root.rglob("*")) if root.is_dir() else [root]
    one, two = pick(rng, inside), pick(rng, files(root))
    how = pick(rng, ["delete", "rename", "swap", "copy over", "empty folder", "folder for file"])
    name = one.relative_to(root.parent)
    if how == "delete":
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    elif how == "rename":
        free = [n for n in (f"{one.name}.bak", "X", "c", "c.0") if not one.with_name(n).exists()]
        one.rename(one.with_name(pick(rng, free)))
    elif how == "empty folder":
        folder = one if one.is_dir() else one.parent
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        one = pick(rng, files(root))
        name = one.relative_to(root.parent)
        if how == "swap":
            a, b = one.read_bytes(), two.read_bytes()
            one.write_bytes(b)
            two.write_bytes(a)
        elif how == "copy over":
            one.write_bytes(two.read_bytes())
        else:
            one.unlink()
            one.mkdir()
    return f"{how}: {name}, {two.relative_to(root.parent)}"


def stray(rng: Random, root: Path, outside: Path) -> str:
    """Put something beside the files, or something else in the place of one."""
    folder = pick(rng, [root, *(p for p in root.rglob("*") if p.is_dir())])
    name = pick(rng, ODD_NAMES)
    how = pick(rng, ["file", "folder", "json", "bytes", "link", "loop", "pipe", "socket", "mode"])
    path = folder / name
    if how == "mode":
        path = pick(rng, list(root.rglob("*")))
        path.chmod(pick(rng, [0o000, 0o222, 0o111, 0o444, 0o777]))
        return f"mode {path.stat().st_mode & 0o777:o}: {path.relative_to(root.parent)}"
    replaces = how in ("link", "loop", "pipe", "socket") and rng.random() < 0.7
    if replaces:
        path = pick(rng, files(root))
    content = path.read_bytes() if path.is_file() else b"stray"
    if path.exists():
        if not replaces:
            path = path.with_name(f"{name}.stray")
        else:
            path.unlink()
    if how == "file":
        path.write_bytes(rng.bytes(int(rng.integers(0, 200))))
    elif how == "folder":
        (path / "deeper").mkdir(parents=True)
        (path / "deeper" / "zarr.json").write_text("{}")
    elif how == "json":
        path.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    elif how == "bytes":
        path = folder / os.fsdecode(b"c.\xff\xfe")
        path.write_bytes(b"odd name")
    elif how == "link":
        target = outside / "elsewhere"
        target.write_bytes(content)
        path.symlink_to(target)
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "pipe":
        os.mkfifo(path)
    else:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
        os.chdir(here)
    shown = os.fsencode(path.relative_to(root.parent)).decode("latin-1")
    return f"{how}{' in the place of' if replaces else ''}: {shown!r}"


def rewrite_json(rng: Random, path: Path, where: str) -> str:
    """Change one thing in a JSON file: a value, a key, the depth."""
    data = json.loads(path.read_text())
    done = change_tree(rng, data)
    text = json.dumps(data)
    if rng.random() < 0.05:
        text, done = "[" * 200_000 + "]" * 200_000, "nested 200 000 deep"
    path.write_text(text)
    return f"{where}: {done}"


def change_tree(rng: Random, data: Any) -> str:
    """Change one thing in nested lists and dicts, in place."""
    places = list(_places(data, ""))
    where, holder, key = pick(rng, places)
    how = pick(rng, ["value", "value", "value", "delete", "rename", "extra", "scale"])
    old = holder[key]
    if how == "delete":
        del holder[key]
        return f"{where} deleted"
    if how == "rename" and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
        return f"{where} renamed"
    if how == "extra" and isinstance(old, dict | list):
        value = pick(rng, VALUES)
        if isinstance(old, dict):
            old["extra"] = value
        else:
            old.append(value)
        return f"{where} has {value!r} more"
    if how == "scale" and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = old * pick(rng, [-1, 2, 1000, HUGE]) + pick(rng, [0, 1, -1])
    else:
        holder[key] = pick(rng, VALUES)
    return f"{where} = {holder[key]!r} (was {str(old)[:40]})"


def _places(node: Any, path: str) -> Any:
    """Yield (path, holder, key) of every value below `node`."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield f"{path}/{key}", node, key
        if isinstance(value, dict | list):
            yield from _places(value, f"{path}/{key}")


ANY_FOLDER: dict[str, Mutation] = {
    "bytes flipped, zeroed, overwritten": flip,
    "files cut short, lengthened, emptied": resize,
    "files and folders lost, renamed, swapped": lose,
    "strays, links, pipes, permission bits": stray,
}
