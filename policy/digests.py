"""Digests of a checkpoint's files: what was written is what is loaded, to the last bit.

`digests.json` holds the SHA-256 of every other file. Whoever changes a file by hand says so with
`python -m telic.policy.digests CHECKPOINT`, which writes it anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

FILE, ALGORITHM = "digests.json", "sha256"
_WAY_OUT = "restore it from a copy of the checkpoint"
_known: dict[tuple[int, int, int, int], str] = {}  # of files that are linked from run to run


def write_digests(folder: Path) -> None:
    """Write `digests.json` for all files that `folder` holds, however deep."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / FILE).write_text(json.dumps({ALGORITHM: digests}, indent=1))


def require_intact(folder: Path, *names: str) -> None:
    """Raise ValueError where one of these files and subfolders is not as it was written.

    A folder without `digests.json`, as was written before there were any, is taken as it is.
    """
    if not (folder / FILE).is_file():
        return
    listed = _listed(folder)
    for name in names:
        if (folder / name).is_file() and name not in listed:
            raise ValueError(f"{folder / FILE}: damaged (no digest of {name}); {_WAY_OUT}")
    for name, digest in listed.items():
        if name.partition("/")[0] not in names or ".." in Path(name).parts:
            continue
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: {name} is missing; the checkpoint is incomplete")
        if _digest(folder / name) != digest:
            raise ValueError(
                f"{folder / name}: damaged (its {ALGORITHM} is not the one in {FILE}); {_WAY_OUT}, "
                f"or, if it was changed on purpose, run python -m telic.policy.digests {folder}"
            )


def _listed(folder: Path) -> dict[str, str]:
    try:
        digests = json.loads((folder / FILE).read_text(encoding="utf-8"))[ALGORITHM]
        if all(isinstance(digest, str) for digest in digests.values()):
            return dict(digests)
        reason = "digests are text"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = repr(error).splitlines()[0]
    raise ValueError(f"{folder / FILE}: damaged ({reason}); {_WAY_OUT}")


def _digest(path: Path) -> str:
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
