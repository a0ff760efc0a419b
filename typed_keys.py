"""Config objects out of OmegaConf's nodes, with errors that name keys as a user types them.

A config does not know where it stands: `SamplingConfig` is `policy.sampling` of one command and
`policy.future.sampling` too. What it raises names its own fields (`steps=0`, `sampling.steps=0`,
or, in a class with a `place`, by the key that it usually has: `policy.images.tower=x`); here the
place where it stands is put before them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf


def to_object(node: DictConfig, path: str = "") -> Any:
    """The config object of a node that stands at `path` of what the user types.

    ValueError of the config within, its own keys made whole.
    """
    try:
        return OmegaConf.to_object(node)
    except ValueError as error:
        found = _origin(node, path, str(error))
        if found is None:
            raise
        raise ValueError(_with_whole_keys(str(error), *found)) from error


def _origin(node: DictConfig, path: str, text: str) -> tuple[str, type[Any]] | None:
    """Where the config stands that raises `text`, and its class; None where none does by itself."""
    for key in node:
        inner = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(inner, DictConfig):
            found = _origin(inner, f"{path}.{key!s}" if path else str(key), text)
            if found is not None:
                return found
    schema = OmegaConf.get_type(node)
    if schema is None or not dataclasses.is_dataclass(schema):
        return None
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        return (path, schema) if str(error) == text else None
    return None


def _with_whole_keys(text: str, path: str, schema: type[Any]) -> str:
    """`text` with each key of the config at `path` by its whole name."""
    if not path:
        return text
    names = "|".join(re.escape(entry.name) for entry in dataclasses.fields(schema))
    places = (path.rpartition(".")[2], getattr(schema, "place", path))
    own = "|".join(map(re.escape, places))
    return re.sub(
        rf"(?<![\w.])(?:(?:{own})\.(?P<named>{names})\b|(?P<bare>{names})(?==))",
        lambda found: f"{path}.{found['named'] or found['bare']}",
        text,
    )
