"""`demo-store`: look at an episode store, check it, convert it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

from telic.datasets import validation
from telic.datasets.feature_arguments import add_features
from telic.datasets.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.store import EpisodeStore, rebuild_ends, require_there
from telic.spec import near_misses

FINDINGS_SHOWN = 50
EXAMPLES = """examples:
  demo-store info runs/demo/demos.zarr
  demo-store validate runs/demo/demos.zarr
  demo-store convert lift.hdf5 runs/lift.zarr --instruction "lift the cube"
  demo-store features runs/demo/demos.zarr --tower efficientnet_lite0 --crops 4"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with near misses, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = [name.strip("' ") for name in choice.group(2).split(",")]
            message += near_misses(choice.group(1), known)
        print(f"{self.prog}: {message}; {self.prog} --help tells more", file=sys.stderr)
        sys.exit(2)


def main(
    arguments: Sequence[str] | None = None,
    features: Callable[[argparse.Namespace], int] | None = None,
) -> None:
    """Run the command; exit code 0, 1 if `validate` found something, 2 on bad input.

    features: what runs `features`, which needs torch, as this room does not.
    """
    args = demo_store_parser().parse_args(arguments)
    try:
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


def demo_store_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="demo-store",
        description="Look at an episode store, check it, convert it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {metadata.version('telic')}"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="info|validate|convert|features|rebuild-ends"
    )
    info = commands.add_parser("info", help="fields, statistics, tasks and size of a store")
    info.add_argument("store", type=Path, help="the store's folder")
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
    add_features(commands)
    return parser


def _info(args: argparse.Namespace) -> int:
    store = EpisodeStore.open(args.store)
    console = Console()
    console.print(_summary(store))
    console.print(_fields(store))
    if len(store.segment_table):
        console.print(_tasks(store))
    return 0


def _summary(store: EpisodeStore) -> Table:
    table = Table(title=str(store.path), show_header=False, title_justify="left")
    lengths = np.diff(store.episode_ends, prepend=0)
    size = sum(path.stat().st_blocks * 512 for path in store.path.rglob("*") if path.is_file())
    span = f" ({lengths.min()} to {lengths.max()} each)" if len(lengths) else ""
    rows = {
        "episodes": f"{store.num_episodes}",
        "steps": f"{store.num_steps}{span}",
        "time": f"{store.num_steps / store.rate_hz / 60:.1f} min at {store.rate_hz:g} Hz",
        "on disk": f"{size / 2**20:.1f} MiB",
        "sentences": f"{len(store.instructions)} in {len(store.segment_table)} segments",
        "embeddings": ", ".join(store.encoders),
    }
    rows |= {key: str(store.attrs.get(key, "")) for key in ("robot", "task_family", "licence")}
    rows["source"] = str(store.attrs.get("source", ""))
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    return table


def _fields(store: EpisodeStore) -> Table:
    table = Table(title="fields", title_justify="left")
    for column in ("field", "type", "unit", "smallest", "largest", "note"):
        table.add_column(column)
    stats = store.stats
    for name, spec in store.fields.items():
        shape = "x".join(map(str, spec.shape)) or "1"
        low = f"{stats[name].minimum.min():.4g}" if stats else ""
        high = f"{stats[name].maximum.max():.4g}" if stats else ""
        table.add_row(name, f"{spec.dtype} {shape}", spec.unit, low, high, spec.note)
    return table


def _tasks(store: EpisodeStore) -> Table:
    table = Table(title="tasks", title_justify="left")
    for column in ("task", "segments", "steps", "sentences", "for example"):
        table.add_column(column)
    segments, tasks, instructions = store.segment_table, store.tasks, store.instructions
    for number, task in enumerate(tasks):
        own = segments[segments[:, 3] == number]
        sentences = np.unique(own[:, 2])
        steps = int((own[:, 1] - own[:, 0]).sum())
        table.add_row(
            task or "(none)",
            str(len(own)),
            str(steps),
            str(len(sentences)),
            instructions[sentences[0]] if len(sentences) else "",
        )
    return table


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
