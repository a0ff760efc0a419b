"""`demo-store`: look at an episode store, check it, convert it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from telic.command_line import Parser
from telic.datasets import validation
from telic.datasets.converters import CONVERTERS, converter_for
from telic.datasets.feature_arguments import add_features
from telic.datasets.formats.converter import add_import_options
from telic.datasets.info import info_tables, store_info
from telic.datasets.layout import require_there
from telic.datasets.rebuild import rebuild_ends
from telic.datasets.relabel import read_sentences, relabel
from telic.datasets.store import EpisodeStore
from telic.spec import near_misses, warnings_in_one_line

FINDINGS_SHOWN = 50
PIPED_COLUMNS = 100  # width of tables that do not go to a terminal
EXAMPLES = """examples:
  demo-store info runs/demo/demos.zarr
  demo-store info --json runs/demo/demos.zarr
  demo-store validate runs/demo/demos.zarr
  demo-store convert lift.hdf5 runs/lift.zarr --instruction "lift the cube"
  demo-store features runs/demo/demos.zarr --tower efficientnet_lite0 --crops 4
  demo-store convert pusht_lerobot runs/pusht.zarr --action-is unit=px
  demo-store convert runs/lift.zarr lift_lerobot --to lerobot"""


class _WayAction(argparse.Action):
    """Keeps `--from lerobot` as the converter `from_lerobot`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, f"{str(option_string).lstrip('-')}_{values}")


class StoreParser(Parser):
    """Offers near misses for a wrong choice."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = [name.strip("' ") for name in choice.group(2).split(",")]
            message += near_misses(choice.group(1), known)
        super().error(message)


def main(
    arguments: Sequence[str] | None = None,
    features: Callable[[argparse.Namespace], int] | None = None,
) -> None:
    """Run the command; exit code 0, 1 if `validate` found something, 2 on bad input.

    features: what runs `features`, which needs torch, as this room does not.
    """
    warnings_in_one_line()
    try:
        args = demo_store_parser().parse_args(arguments)
        run = args.run or features
        if run is None:
            raise ValueError("features is run by the command demo-store; install telic anew")
        sys.exit(run(args))
    except (ValueError, OSError) as error:
        print(f"demo-store: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("demo-store: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)


def demo_store_parser() -> StoreParser:
    """The parser of the command line."""
    about = "Look at an episode store, check it, convert it."
    parser = StoreParser.of("demo-store", about, EXAMPLES)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="info|validate|convert|relabel|features|rebuild-ends"
    )
    info = commands.add_parser("info", help="size, times, every entry of every field, tasks")
    info.add_argument("store", type=Path, help="the store's folder")
    info.add_argument("--json", action="store_true", help="the same as JSON, for programs")
    info.set_defaults(run=_info)
    check = commands.add_parser("validate", help="check every episode; exit code 1 on findings")
    check.add_argument("store", type=Path, help="the store's folder")
    check.add_argument(
        "--deep", action="store_true", help="read everything, hold it against the checksums"
    )
    check.add_argument("--all", action="store_true", help=f"show more than {FINDINGS_SHOWN}")
    check.set_defaults(run=_validate)
    rebuild = commands.add_parser(
        "rebuild-ends", help="write damaged meta/episode_ends anew, from meta/stats"
    )
    rebuild.add_argument("store", type=Path)
    rebuild.set_defaults(run=_rebuild_ends)
    _add_relabel(commands)
    _add_convert(commands)
    add_features(commands)
    return parser


def _add_relabel(commands: argparse._SubParsersAction[StoreParser]) -> None:
    relabelled = commands.add_parser(
        "relabel", help="the same steps in a new store, labelled with other sentences"
    )
    relabelled.add_argument("store", type=Path, help="the store's folder")
    relabelled.add_argument("target", type=Path, help="the store to write")
    relabelled.add_argument(
        "--sentences", type=Path, required=True, help="yaml of task -> list of sentences"
    )
    relabelled.add_argument("--overwrite", action="store_true", help="replace the store at target")
    relabelled.set_defaults(run=_relabel)


def _add_convert(commands: argparse._SubParsersAction[StoreParser]) -> None:
    convert = commands.add_parser(
        "convert", help="other formats to a store, a store to other formats"
    )
    convert.add_argument("source", type=Path, help="a file, a folder or a store")
    convert.add_argument("target", type=Path, help="the store, file or folder to write")
    convert.add_argument("--overwrite", action="store_true", help="replace what is at target")
    ways = convert.add_mutually_exclusive_group()
    ways.add_argument(
        "--format", choices=list(CONVERTERS), help="how to convert; default: by source and target"
    )
    for word in ("from", "to"):
        names = [n.removeprefix(f"{word}_") for n in CONVERTERS if n.startswith(f"{word}_")]
        ways.add_argument(
            f"--{word}",
            dest="format",
            choices=names,
            action=_WayAction,
            help=f"short for --format {word}_...",
        )
    add_import_options(convert.add_argument_group("into a store"))
    for name, converter in CONVERTERS.items():
        try:
            converter.add_options(convert.add_argument_group(converter.title))
        except argparse.ArgumentError as error:
            raise ValueError(f"format {name}: {error}; another format has that option") from error
    convert.set_defaults(run=_convert)


def _info(args: argparse.Namespace) -> int:
    info = store_info(EpisodeStore.open(args.store))
    if args.json:
        print(json.dumps(info, indent=2, allow_nan=False))
        return 0
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_COLUMNS
    console.print(info_tables(info))
    return 0


def _validate(args: argparse.Namespace) -> int:
    require_there(args.store)
    most = None if args.all else FINDINGS_SHOWN
    wrong = warned = 0
    for finding in validation.validate(args.store, args.deep):
        warning = isinstance(finding, validation.Warned)
        wrong, warned = wrong + (not warning), warned + warning
        if most is None or wrong + warned <= most:
            print(finding)
    if most is not None and wrong + warned > most:
        print(f"and {wrong + warned - most} more; --all shows them")
    warnings = f", warnings: {warned}" if warned else ""
    if wrong:
        print(f"{args.store}: {wrong} findings{warnings}")
        return 1
    read = "everything was read" if args.deep else "--deep reads everything"
    print(f"{args.store}: nothing wrong found{warnings} ({read})")
    return 0


def _rebuild_ends(args: argparse.Namespace) -> int:
    require_there(args.store)
    before, after = rebuild_ends(args.store)
    print(
        f"{args.store}: meta/episode_ends has {len(after)} episodes of {after[-1:].sum()} steps "
        f"(before: {len(before)} of {before[-1:].sum()})"
    )
    return 0


def _relabel(args: argparse.Namespace) -> int:
    require_there(args.store)
    count = relabel(args.store, args.target, read_sentences(args.sentences), args.overwrite)
    print(f"{args.target}: {count} labels")
    return 0


def _convert(args: argparse.Namespace) -> int:
    if not args.source.exists():
        beside = [path.name for path in args.source.parent.glob("*")]
        raise ValueError(f"{args.source}: not there{near_misses(args.source.name, beside)}")
    converter = converter_for(args.source, args.format, args.target)
    count = converter.convert(args.source, args.target, args, args.overwrite)
    print(f"{args.target}: {count} episodes from {args.source}")
    return 0


if __name__ == "__main__":
    main()
