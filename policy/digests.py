"""Digests of a checkpoint's files: what was written is what is loaded, to the last bit.

`digests.json` holds size and SHA-256 of every other file. Whoever changes a file by hand says so
with `python -m telic.policy.digests CHECKPOINT`, which writes it anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

FILE, SIZES, ALGORITHM = "digests.json", "bytes", "sha256"
_MOST_BYTES = 16 << 20  # of digests.json
_WAY_OUT = "restore it from a copy of the checkpoint"
_known: dict[tuple[int, int, int, int], str] = {}  # of files that are linked from run to run


def write_digests(folder: Path) -> None:
    """Write `digests.json` for all files that `folder` holds, however deep."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    manifest = {
        SIZES: {name: path.stat().st_size for name, path in names.items()},
        ALGORITHM: {name: of_file(path) for name, path in names.items()},
    }
    (folder / FILE).write_text(json.dumps(manifest, indent=1))


def require_intact(folder: Path, *names: str) -> None:
    """Raise ValueError where one of these files and subfolders is not as it was written.

    A folder without `digests.json`, as was written before there were any, is taken as it is.
    """
    if not (folder / FILE).is_file():
        return
    listed, sizes = _listed(folder)
    for name in names:
        if (folder / name).is_file() and name not in listed:
            raise ValueError(f"{folder / FILE}: damaged (no digest of {name}); {_WAY_OUT}")
    for name, digest in listed.items():
        if name.partition("/")[0] not in names or ".." in Path(name).parts:
            continue
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: {name} is missing; the checkpoint is incomplete")
        size = (folder / name).stat().st_size  # told first: it costs no reading
        differs = "size" if sizes.get(name, size) != size else ALGORITHM
        if differs == "size" or of_file(folder / name) != digest:
            raise ValueError(
                f"{folder / name}: damaged (its {differs} is not the one in {FILE}); {_WAY_OUT}, "
                f"or, if it was changed on purpose, run python -m telic.policy.digests {folder}"
            )


def listed(folder: Path) -> dict[str, str]:
    """Return the digest of each file by name, of a folder that has them; else nothing."""
    return _listed(folder)[0] if (folder / FILE).is_file() else {}


def _listed(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return digest and size by name; there were no sizes at first."""
    try:
        if (size := (folder / FILE).stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size} bytes")
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
        digests, sizes = dict(manifest[ALGORITHM]), dict(manifest.get(SIZES, {}))
        if all(isinstance(digest, str) for digest in digests.values()):
            return digests, sizes
        reason = "digests are text"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:120]
    raise ValueError(f"{folder / FILE}: damaged ({reason}); {_WAY_OUT}")


def of_file(path: Path) -> str:
    """Return the digest of a file in hexadecimal; it is computed once while the file stays."""
    about = path.stat()
    key = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size)
    if about.st_nlink > 1 and key in _known:
        return _known[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, ALGORITHM).hexdigest()
    if about.st_nlink > 1:
        _known[key] = digest
    return digest


def main() -> int:
    """Accept the checkpoints named on the command line as they are now; return 2 on bad input."""
    for name in sys.argv[1:]:
        if not (Path(name) / "config.yaml").is_file():
            print(f"{name}: no checkpoint directory there", file=sys.stderr)
            return 2
        write_digests(Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
