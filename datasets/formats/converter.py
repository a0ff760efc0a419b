"""What a format is to `demo-store convert`, and what the user says of demonstrations it reads."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from telic.datasets.store import EpisodeStore, Segment
from telic.spec import Array, ArraySpec


class Convert(Protocol):
    """What converts `source` to `target` and returns the number of episodes.

    options: the command line, parsed. overwrite: what is at `target` may be replaced. ValueError
    for what cannot be converted; then `target` is as it was.
    """

    def __call__(
        self, source: Path, target: Path, options: argparse.Namespace, overwrite: bool
    ) -> int:
        """Convert."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Converter:
    """title: heads its options in --help; takes: whether it is for a source that is there;
    add_options: puts its options on the command line; small: writes an example of a source with
    three episodes into a folder and returns where, for tests; suffix: of what it writes; needs:
    modules that have to be installed for it; arguments: options without which the example is not
    converted."""

    title: str
    takes: Callable[[Path], bool]
    convert: Convert
    small: Callable[[Path], Path]
    add_options: Callable[[argparse._ArgumentGroup], object] = lambda group: None
    suffix: str = ".zarr"
    needs: Sequence[str] = ()
    arguments: Sequence[str] = ()


@dataclass(kw_only=True, slots=True)
class ImportOptions:
    """What the user says of demonstrations that do not say it themselves."""

    instruction: str = ""  # sentence of episodes that have none
    task: str = ""  # name of that task
    rate_hz: float | None = None  # steps a second, where the source does not say
    state_keys: Sequence[str] | None = None  # arrays that make up the state, in order
    action_keys: Sequence[str] | None = None  # arrays that make up the action, in order
    state_is: Sequence[str] = field(default_factory=tuple)  # KEY=VALUE, see `stated`
    action_is: Sequence[str] = field(default_factory=tuple)
    colours: str | None = None  # "bgr" swaps red and blue of every picture; None: as the format has
    flip: str | None = None  # "rows" turns pictures upside down, "both" by 180 degrees, "none" not

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """The options of a parsed command line."""
        return cls(**{entry.name: getattr(options, entry.name) for entry in fields(cls)})

    def stated_rate_hz(self, missing: str) -> float:
        """Steps a second as the user states them; ValueError `missing` where they are not."""
        if self.rate_hz is None:
            raise ValueError(missing)
        return self.rate_hz


class Import(Protocol):
    """What writes the demonstrations at `source` to a store at `target`, as `Convert` does."""

    def __call__(
        self, source: Path, target: Path, options: ImportOptions, overwrite: bool = False
    ) -> int:
        """Write the store and return the number of episodes."""
        ...


def importer(
    title: str,
    takes: Callable[[Path], bool],
    read: Import,
    small: Callable[[Path], Path],
    needs: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Converter:
    """The converter of an import that has the options of every import and no others."""

    def convert(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
        return read(source, target, ImportOptions.of(options), overwrite)

    return Converter(
        title=title, takes=takes, convert=convert, small=small, needs=needs, arguments=arguments
    )


def add_import_options(group: argparse._ArgumentGroup) -> None:
    """Put what `ImportOptions` has on the command line."""
    group.add_argument("--instruction", default="", help="sentence for episodes that have none")
    group.add_argument("--task", default="", help="task name for episodes that have none")
    group.add_argument("--rate-hz", type=float, help="steps a second, if the source does not say")
    group.add_argument("--state-keys", nargs="+", help="arrays that make up the state, in order")
    group.add_argument("--action-keys", nargs="+", help="arrays that make up the action, in order")
    for what in ("state", "action"):
        group.add_argument(
            f"--{what}-is",
            nargs="+",
            default=[],
            metavar="KEY=VALUE",
            help=f"what the {what} means: unit, rotation, gripper, frame, names, minimum, "
            "maximum, note",
        )
    group.add_argument(
        "--colours", choices=["rgb", "bgr"], help="order in the source's pictures, if it is unsure"
    )
    group.add_argument(
        "--flip", choices=["none", "rows", "both"], help="turn pictures: upside down, or by 180"
    )


def optional(module: str, extra: str) -> Any:
    """The imported module; ValueError saying which extra brings it where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module.partition('.')[0]} is not installed; pip install 'telic[{extra}]' brings it"
        ) from error


def small_store(folder: Path) -> Path:
    """An example of a store: three episodes of 3, 4 and 5 steps."""
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    }
    with EpisodeStore.create(folder / "small.zarr", fields, rate_hz=20.0) as store:
        for length in (3, 4, 5):
            rng = np.random.default_rng(length)
            episode: dict[str, Array] = {
                "state": rng.normal(size=(length, 3)).astype(np.float32),
                "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                "timestamp_ns": np.arange(length) * 50_000_000,
            }
            store.append(episode, [Segment(start=0, end=length, instruction="go on", task="go")])
    return folder / "small.zarr"
