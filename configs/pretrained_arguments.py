"""The command line of `save-pretrained`; it needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from telic.command_line import Parser

DESCRIPTION = """A checkpoint becomes a pretrained policy, a folder to hand on.

OUT gets the checkpoint without its training state, recorded requests with the chunks that answer
them, the keys of the first evaluation, and a card, README.md, in Hugging Face's layout. The card is
computed from the checkpoint, the folder of its training and results.json of evaluations."""
EXAMPLES = """examples:
  save-pretrained runs/playtable_state/checkpoints/best pretrained/playtable_state \\
      --results runs/playtable_state/eval_2
  save-pretrained runs/demo/checkpoints/best pretrained/mt10 --results runs/demo/eval_2 \\
      runs/demo/eval_10 --overwrite
  save-pretrained --check pretrained/playtable_state"""


def parser() -> Parser:
    """The parser of the command line."""
    parser = Parser.of("save-pretrained", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, nargs="?", help="checkpoint directory"
    )
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="the folder to write")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        help="results.json, or its folder, of evaluations of this checkpoint; the first one's keys "
        "become those of evaluate-policy checkpoint=OUT",
    )
    parser.add_argument(
        "--store",
        type=Path,
        help="episode store of the recorded observations; default: the first it was trained on",
    )
    parser.add_argument(
        "--licence",
        help="of the weights; default: that of this software, where all data have the same",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the one at OUT")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FOLDER",
        help="compare card, weights and chunks of a pretrained policy; writes nothing",
    )
    return parser


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; a wrong one ends the process with one line and exit code 2."""
    reader = parser()
    args = reader.parse_args(arguments)
    if args.check is not None:
        others = [args.checkpoint, args.out, args.store, args.licence, args.overwrite, args.results]
        if any(others):
            reader.error("--check takes a folder and nothing else")
    elif args.out is None:
        reader.error("give CHECKPOINT and OUT, or --check FOLDER")
    elif not args.results:
        reader.error(
            "--results is missing: a card states results; evaluate-policy "
            f"checkpoint={args.checkpoint} writes results.json into its out"
        )
    return args
