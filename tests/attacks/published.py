"""Attacks on published checkpoints that `import-checkpoint` reads: damaged files, hostile pickles.

A copy must import as the original does, or be refused in one line. No pickle may run anything, nor
make a small file take much memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from telic.policy.checkpoint import load_policy
from telic.policy.published.import_checkpoint import main
from telic.tests.attacks.arena import REFUSED, Result, Step, attempt, command, tree_digest
from telic.tests.attacks.mutations import ANY_FOLDER, HUGE, Mutation, Random, pick, rewrite_json
from telic.tests.attacks.stores import compare
from telic.tests.policy.published.imports import test_import_rdt as rdt

NAME = "published"
BIN = "pytorch_model.bin"
BOMBS = ["data.pkl", "data/0"]  # members of an archive that unpack to 4 GiB


def make(base: Path) -> None:
    """Write a small RDT to `base`/artefact, SigLIP and the words of a sentence beside it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"hidden_size": rdt.SEEN, **small}
    seen = transformers.SiglipConfig(
        vision_config={"image_size": 28, "patch_size": 14, **size},
        text_config={"vocab_size": 8, **size},
    )
    transformers.SiglipModel(seen).save_pretrained(base / "siglip")
    processor = transformers.SiglipImageProcessor(size={"height": 28, "width": 28})
    processor.save_pretrained(base / "siglip")
    rdt.write(base / "artefact" / NAME, rdt.random_weights(), BIN)
    arguments = rdt.arguments(base, base / "siglip")
    (base / "arguments.json").write_text(json.dumps(arguments))
    known = imported(base / "artefact" / NAME, base / "imported", arguments)
    (base / "content.json").write_text(json.dumps(known))


def warm(base: Path) -> None:
    """Import the original once, so that cases need not load what that takes."""
    torch.set_num_threads(1)
    arguments = json.loads((base / "arguments.json").read_text())
    imported(base / "artefact" / NAME, base / "warm", arguments)
    shutil.rmtree(base / "warm")
    whole = (base / "artefact" / NAME / BIN).read_bytes()
    for end in BOMBS:
        _zip_bomb(whole, end)


def imported(source: Path, target: Path, arguments: list[str]) -> dict[str, str]:
    """Import `source` and return the policy's weights as digests."""
    command(main, [str(source), str(target), *arguments], NAME)
    weights = load_policy(target).state_dict()  # type: ignore[attr-defined]
    return {
        name: f"{tuple(t.shape)} {hashlib.sha1(t.float().numpy().tobytes()).hexdigest()}"
        for name, t in weights.items()
    }


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack` on a copy of the original in `base`."""
    known = json.loads((base / "content.json").read_text())
    arguments = json.loads((base / "arguments.json").read_text())

    def body(folder: Path) -> Iterator[Step | str]:
        torch.set_num_threads(1)
        path, target = folder / "artefact" / NAME, folder / "artefact" / "ours"
        shutil.copytree(base / "artefact" / NAME, path)
        yield ATTACKS[attack](rng, path, folder / "outside")
        before = tree_digest(folder)
        use = lambda: compare(imported(path, target, arguments), known)  # noqa: E731
        step = attempt("import", use, NAME)
        yield step
        if step.outcome == REFUSED and target.exists():
            yield Step("import: then", "left", "a refused import wrote its target")
        shutil.rmtree(target, ignore_errors=True)
        after = tree_digest(folder)
        if after != before:
            changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            yield Step("import: then", "changed", ", ".join(changed)[:300])

    return body


def judge(result: Result) -> None:
    """Note nothing more: a published file carries no digest, so other numbers may come in."""


def _config(rng: Random, root: Path, outside: Path) -> str:
    """Change one thing in config.json."""
    return rewrite_json(rng, root / "config.json", "config.json")


def _weights(rng: Random, root: Path, outside: Path) -> str:
    """Save other things where tensors by name are expected."""
    weights: dict[str, Any] = dict(torch.load(root / BIN, weights_only=True))
    one = pick(rng, sorted(weights))
    name = pick(rng, sorted(WRONG_TENSORS))
    weights[one] = WRONG_TENSORS[name](weights[one])
    data: Any = weights
    if rng.random() < 0.25:
        name, data = pick(
            rng,
            [
                ("a list", list(weights.values())),
                ("nothing", None),
                ("numbers for names", dict(enumerate(weights.values()))),
                ("an empty mapping", {}),
                ("a lone tensor", torch.zeros(3)),
                ("module is a list", {"module": [1, 2]}),
                ("nested", {"module": {"module": weights}}),
                ("None for a name", dict([(None, torch.zeros(2)), *weights.items()])),
            ],
        )
    torch.save(data, root / BIN, _use_new_zipfile_serialization=bool(rng.random() < 0.7))
    return f"{one}: {name}"


WRONG_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "float16": lambda t: t.half(),
    "int64": lambda t: t.long(),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.bool(),
    "sparse": lambda t: t.to_sparse(),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "empty": lambda t: t[:0],
    "no axes": lambda t: t.reshape(-1)[0],
    "more axes": lambda t: t[None, None],
    "flat": lambda t: t.reshape(-1),
    "nan": lambda t: t * float("nan"),
    "a number": lambda t: 3.0,
    "a sentence": lambda t: "x",
    "a list": lambda t: [1.0],
    "None": lambda t: None,
    "expanded to 8 GiB": lambda t: torch.zeros(1, dtype=torch.float16).expand(2**31),
    "expanded to a petabyte": lambda t: torch.zeros(1).expand(2**25, 2**25),
    "on meta": lambda t: t.to("meta"),
    "a parameter": lambda t: torch.nn.Parameter(t),
}


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def _pickles(rng: Random, root: Path, outside: Path) -> str:
    """Put a hostile pickle where the weights are."""
    import os
    import subprocess

    owned = outside / "owned"
    calls = {
        "os.system": _Call(os.system, f"touch {owned}"),
        "eval": _Call(eval, f"open({str(owned)!r}, 'w')"),
        "exec": _Call(exec, f"open({str(owned)!r}, 'w')"),
        "Popen": _Call(subprocess.Popen, ["touch", str(owned)]),
        "open": _Call(open, str(owned), "w"),
        "torch.load": _Call(torch.load, str(root / BIN)),
        "hub": _Call(torch.hub.load, "x/y", "z"),
        "bytearray": _Call(bytearray, 8 << 30),
        "range": _Call(list, range(10)),
        "OrderedDict of pairs": _Call(OrderedDict, [[1, 2]]),
        "tensor of storage": _Call(torch.FloatStorage, 2**40),
        "zeros": _Call(torch.zeros, 2**32),
    }
    bombs = {
        "a million OrderedDicts": b"\x80\x02ccollections\nOrderedDict\nq\x00)Rh\x00)R" * 1
        + b"("
        + b"h\x00)R" * 1_000_000
        + b"l.",
        "4 million dicts": b"\x80\x02(" + b"}" * 4_000_000 + b"l.",
        "4 million lists": b"\x80\x02(" + b"]" * 4_000_000 + b"l.",
        "open marks": b"\x80\x02" + b"(" * 4_000_000 + b".",
        "deep tuples": b"\x80\x02N" + b"\x85" * 4_000_000 + b".",
        "laughs": b"\x80\x02]q\x00"
        + b"".join(
            b"(" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 99 + b"lq" + bytes([i + 1])
            for i in range(60)
        )
        + b".",
        "long string": b"\x80\x02\x8d" + (2**40).to_bytes(8, "little") + b"x.",
        "long bytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
        "long integer": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"\x7f" * 100 + b".",
        "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "protocol 9": b"\x80\x09N.",
        "no end": b"\x80\x02" + b"N0" * 100_000,
        "nothing": b"",
        "text": b"not a pickle\n",
    }
    name = pick(rng, [*calls, *bombs])
    data = pickle.dumps({"a": calls[name]}, protocol=2) if name in calls else bombs[name]
    how = pick(rng, ["bare", "zip", "packed zip", "legacy"])
    if how == "bare":
        (root / BIN).write_bytes(data)
    elif how == "legacy":
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
        (root / BIN).write_bytes(magic + pickle.dumps({"little_endian": True}, 2) + data)
    else:
        (root / BIN).write_bytes(zip_of(data, packed=how == "packed zip"))
    return f"{name} ({how}, {(root / BIN).stat().st_size} bytes)"


def _containers(rng: Random, root: Path, outside: Path) -> str:
    """Have the zip around the weights lie."""
    whole = (root / BIN).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    top = next(iter(members)).split("/")[0]
    pkl = f"{top}/data.pkl"
    how = pick(
        rng, ["bomb", "lost", "cut", "exchanged", "sizes", "escape", "twice", "empty", "tar"]
    )
    if how == "bomb":
        (root / BIN).write_bytes(_zip_bomb(whole, pick(rng, BOMBS)))
        return how
    if how == "empty":
        (root / BIN).write_bytes(b"")
        return how
    if how == "tar":
        (root / BIN).write_bytes(bytes(257) + b"ustar" + bytes(9000))
        return how
    stored = sorted(n for n in members if "/data/" in n)
    one, two = pick(rng, stored), pick(rng, stored)
    if how == "lost":
        del members[pick(rng, list(members))]
    elif how == "cut":
        members[one] = members[one][: len(members[one]) // 2]
    elif how == "exchanged":
        members[one], members[two] = members[two], members[one]
    elif how == "escape":
        members[f"{top}/../../../outside/owned"] = b"x"
    elif how == "sizes":  # sizes and strides that reach beyond the storage
        members[pkl] = _reach(rng, members[pkl])
    with zipfile.ZipFile(root / BIN, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if how == "twice":
            archive.writestr(pkl.replace("data.pkl", "data/0"), b"again")
    return f"{how}: {one}"


@cache
def _zip_bomb(whole: bytes, end: str) -> bytes:
    """Return `whole`, an archive, with 4 GiB in a few MB in the place of its member `end`."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as archive,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for name in archive.namelist():
            if not name.endswith(f"/{end}"):
                bomb.writestr(name, archive.read(name))
                continue
            with bomb.open(name, "w", force_zip64=True) as file:
                for _ in range(1024):
                    file.write(bytes(4 << 20))
    return out.getvalue()


def _reach(rng: Random, data: bytes) -> bytes:
    """Return a pickle of tensors with one of its small numbers changed to a large one."""
    at = [place for code, _, place in pickletools.genops(data) if code.name == "BININT1" and place]
    spot = int(pick(rng, at))
    number = pick(rng, [2**31 - 1, HUGE, -1, 2**62])
    size = (number.bit_length() + 8) // 8
    return (
        data[:spot]
        + b"\x8a"
        + bytes([size])
        + number.to_bytes(size, "little", signed=True)
        + data[spot + 2 :]
    )


def zip_of(pkl: bytes, packed: bool = False) -> bytes:
    """Return what torch would have saved around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pkl)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(64))
        file.writestr("archive/version", "3\n")
    return out.getvalue()


ATTACKS: dict[str, Mutation] = {
    **{f"published: {name}": mutation for name, mutation in ANY_FOLDER.items()},
    "published: config.json of another kind": _config,
    "published: other things than tensors by name": _weights,
    "published: hostile pickles and pickle bombs": _pickles,
    "published: zips that lie": _containers,
}
