"""Tables of parts by name, to which the modules of other people add theirs (plugins.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from telic.plugins import load_plugins
from telic.spec import near_misses

Part = TypeVar("Part")


class Registry(Mapping[str, Part]):
    """Parts of one role by name, in order of registration.

    A name that is not there, and a listing, have the plug-ins imported first.
    """

    def __init__(self, what: str, parts: Mapping[str, Part]) -> None:
        """what: the role, as messages name it: "kind", "sampler"."""
        self.what = what
        self._parts = dict(parts)

    def register(self, name: str, part: Part) -> None:
        """Add a part; ValueError for a name that is taken, or that no command line can hold."""
        if not re.fullmatch(r"\w[\w/.-]*", name):
            raise ValueError(
                f"{self.what} {name!r}: a name is letters, digits and _, such as my_{self.what}"
            )
        if name in self._parts:
            raise ValueError(f"{self.what} {name!r} is registered already")
        self._parts[name] = part

    def unregister(self, name: str) -> None:
        """Take a part out again; KeyError where it is not there."""
        del self._parts[name]

    def require(self, name: str, key: str) -> Part:
        """The part of a name, which is the value of `key`; ValueError offers the near ones."""
        if name not in self:
            raise ValueError(
                f"{key}={name} is not one of {', '.join(self)}{near_misses(name, self)}"
            )
        return self[name]

    def __getitem__(self, name: str) -> Part:
        if name not in self._parts:
            load_plugins()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(list(self._parts))

    def __len__(self) -> int:
        load_plugins()
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Registry({self.what}: {', '.join(self._parts)})"
