"""Text that came from elsewhere: read where it is as small as such files are."""

from __future__ import annotations

from pathlib import Path

LARGEST_TEXT = 64 << 20  # bytes; a file full of holes may claim to have any number


def read_text(path: Path) -> str:
    """Return what the UTF-8 file `path` holds.

    ValueError, without the path, for more than LARGEST_TEXT and for other bytes than UTF-8; OSError
    as from reading.
    """
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"it has {size:,} bytes; such a file has at most {LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")
