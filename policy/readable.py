"""Files of checkpoints that are read without torch: reports of damage, and sentence vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from telic.spec import Array

_UNREADABLE = (OSError, SafetensorError, ValueError)
# of data that are something else
_UNLIKE = (TypeError, AttributeError, IndexError, RecursionError)
_PARSERS = ("yaml", "omegaconf")  # whose errors count too; neither is imported for that


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or absent file of a checkpoint raises into one line."""
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename or "").name or path.name
        raise ValueError(
            f"{path.parent}: {name} is missing; the checkpoint is incomplete"
        ) from error
    except KeyError as error:
        raise ValueError(f"{path}: damaged ({error} is not in it)") from error
    except Exception as error:
        parser = type(error).__module__.partition(".")[0]
        if not (isinstance(error, (*_UNREADABLE, *_UNLIKE)) or parser in _PARSERS):
            raise
        line = str(error).partition("\n")[0] or type(error).__name__
        line = line.removeprefix(f"{path}: ")[:300]
        raise ValueError(f"{path}: damaged ({line})") from error


def load_embeddings(path: Path) -> dict[str, Array]:
    """Return the vectors, [dim] or [words dim], by sentence in an embeddings.safetensors."""
    with readable(path), safe_open(path, "np") as file:
        sentences = json.loads((file.metadata() or {}).get("sentences", "[]"))
        if "lengths" not in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            rows = file.get_tensor("vectors")
        else:
            ends = file.get_tensor("lengths").cumsum()
            rows = np.split(file.get_tensor("words"), ends)
            if len(rows.pop()):
                raise ValueError("it holds more words than its lengths say")
        if len(rows) != len(sentences):
            raise ValueError(f"{len(rows)} vectors for {len(sentences)} sentences")
        if not all(row.dtype.kind == "f" and np.isfinite(row).all() for row in rows):
            raise ValueError("vectors that are not finite numbers")
        return dict(zip(sentences, rows, strict=True))
