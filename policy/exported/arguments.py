"""The command line of `export-policy`; it needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from telic.command_line import Parser

DESCRIPTION = """A checkpoint becomes one static graph: ONNX, and OpenVINO's IR where that is there.

The graph goes from physical units to physical units: normaliser, encoders, the whole sampler over
one schedule, unnormaliser, bounds. The folder OUT is a checkpoint to evaluate-policy and
control-daemon, which then run it without torch. What differs from the policy by more than the
tolerance is refused."""
EXAMPLES = """examples:
  export-policy runs/demo/checkpoints/best runs/demo/exported --sampling 2
  export-policy runs/demo/checkpoints/best runs/demo/int8 --sampling 2 \\
      --precision int8 --store runs/demo/demos.zarr
  control-daemon checkpoint=runs/demo/exported task=drawer-open-v3"""
PRECISIONS = ("fp32", "bf16", "int8", "w8a8")


def parser() -> Parser:
    """The parser of the command line."""
    parser = Parser.of("export-policy", DESCRIPTION, EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint directory")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported one at OUT")
    _add_graph(parser.add_argument_group("the graph"))
    _add_sampling(parser.add_argument_group("sampling, in place of the checkpoint's own"))
    _add_parity(parser.add_argument_group("parity"))
    return parser


def _add_graph(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp32; bf16 (OpenVINO's computing); int8 (8-bit weights); w8a8 (8-bit weights and "
        "activations, calibrated on --store)",
    )
    group.add_argument(
        "--goal",
        choices=("text", "images", "state"),
        help="the kind of goal that the graph takes; default: the first that the policy knows",
    )
    group.add_argument("--batch", type=int, default=1, help="observations at a time; default: 1")
    group.add_argument(
        "--sentence",
        action="append",
        default=[],
        metavar="TEXT",
        help="a sentence whose vector is stored besides the trained ones; may be repeated",
    )
    group.add_argument("--embodiment", metavar="NAME", help="robot, of a policy for several")


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--sampling", metavar="NAME", help="1, 2, 4, 5 or 10 steps, by name")
    group.add_argument("--sampler", metavar="NAME", help="the loop over sigmas")
    group.add_argument("--steps", type=int, help="steps of the checkpoint's own schedule")
    group.add_argument("--schedule", metavar="NAME", help="how sigmas are spaced")
    group.add_argument(
        "--sigmas", type=float, nargs="+", metavar="S", help="sigmas in falling order"
    )
    group.add_argument("--anchors", type=int, help="anchors that a chunk is denoised from")
    group.add_argument("--temperature", type=float, help="how freely an anchor is chosen")
    group.add_argument("--prefixing", metavar="WAY", help="none or trained")


def _add_parity(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--store", type=Path, help="episode store of the observations; default: random ones"
    )
    group.add_argument(
        "--observations", type=int, default=16, help="how many observations; default: 16"
    )
    group.add_argument(
        "--tolerance",
        type=float,
        help="largest difference accepted, in half ranges of an action; default: 1e-4 (fp32), "
        "0.25 (others)",
    )
