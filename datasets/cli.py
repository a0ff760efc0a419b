"""`demo-store`: look at an episode store, check it, convert it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from telic.datasets import validation
from telic.datasets.formats.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.info import info_tables, store_info
from telic.datasets.layout import require_there
from telic.datasets.rebuild import rebuild_ends
from telic.datasets.store import EpisodeStore
from telic.spec import near_misses

FINDINGS_SHOWN = 50
PIPED_COLUMNS = 100  # width of tables that do not go to a terminal
EXAMPLES = """examples:
  demo-store info runs/demo/demos.zarr
  demo-store info --json runs/demo/demos.zarr
  demo-store validate runs/demo/demos.zarr
  demo-store convert lift.hdf5 runs/lift.zarr --instruction "lift the cube" """


class StoreParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with near misses, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = [name.strip("' ") for name in choice.group(2).split(",")]
            message += near_misses(choice.group(1), known)
        print(f"{self.prog}: {message}; {self.prog} --help tells more", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 0, 1 if `validate` found something, 2 on bad input."""
    args = demo_store_parser().parse_args(arguments)
    try:
        sys.exit(args.run(args))
    except (ValueError, OSError) as error:
        print(f"demo-store: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("demo-store: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)


def demo_store_parser() -> StoreParser:
    """The parser of the command line."""
    parser = StoreParser(
        prog="demo-store",
        description="Look at an episode store, check it, convert it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {metadata.version('telic')}"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="info|validate|convert|rebuild-ends"
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
    convert = commands.add_parser(
        "convert", help="robomimic HDF5 to a store, or a store to robomimic HDF5"
    )
    convert.add_argument("source", type=Path, help="an .hdf5 file or a store")
    convert.add_argument("target", type=Path, help="the store or .hdf5 file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace what is at target")
    convert.set_defaults(run=_convert)
    into = convert.add_argument_group("from HDF5")
    into.add_argument("--state-keys", nargs="+", help="obs keys that make up the state, in order")
    into.add_argument("--instruction", default="", help="sentence for demos that have none")
    into.add_argument("--task", default="", help="task name for demos that have none")
    into.add_argument("--rate-hz", type=float, help="if the file's env_args do not say")
    out = convert.add_argument_group("to HDF5")
    out.add_argument("--valid-fraction", type=float, default=0.1, help="of demos in mask/valid")
    out.add_argument("--seed", type=int, default=0, help="of that split")
    out.add_argument("--no-next-obs", action="store_true", help="halves the file; BC works without")
    out.add_argument(
        "--goal-embedding",
        nargs="?",
        const="",
        metavar="ENCODER",
        help="add obs/goal: the instruction's vector cached in the store, or a one-hot task",
    )
    return parser


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


def _convert(args: argparse.Namespace) -> int:
    if not args.source.exists():
        beside = [path.name for path in args.source.parent.glob("*")]
        raise ValueError(f"{args.source}: not there{near_misses(args.source.name, beside)}")
    if args.source.is_dir():
        options = Hdf5ExportOptions(
            valid_fraction=args.valid_fraction,
            seed=args.seed,
            next_obs=not args.no_next_obs,
            goal=args.goal_embedding,
        )
        count = export_hdf5(args.source, args.target, options, args.overwrite)
    else:
        count = import_hdf5(
            args.source,
            args.target,
            Hdf5ImportOptions(
                state_keys=args.state_keys,
                instruction=args.instruction,
                task=args.task,
                rate_hz=args.rate_hz,
            ),
            args.overwrite,
        )
    print(f"{args.target}: {count} episodes from {args.source}")
    return 0


if __name__ == "__main__":
    main()
