"""The arguments of `demo-store features`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

POOLINGS = ("average", "keypoints", "patches", "perceiver")


def add_features(commands: Any) -> None:
    """Add the subcommand to the subparsers of `demo-store`; who runs it is the caller's choice."""
    features = commands.add_parser(
        "features",
        help="keep what a frozen vision tower answers to the pictures, beside the store",
        description="Keeps what a frozen vision tower answers to the store's pictures beside it, "
        "for train-policy data.features=true. Stopped, it goes on where it was; of a store that "
        "has grown it adds the new episodes.",
    )
    features.add_argument("store", type=Path, help="the store's folder")
    features.add_argument("--tower", required=True, help="as policy.images.tower")
    features.add_argument("--cameras", nargs="+", help="names of cameras; all without it")
    features.add_argument(
        "--pooling", choices=POOLINGS, default="average", help="as policy.images.pooling"
    )
    features.add_argument(
        "--resize",
        nargs="+",
        default=[],
        metavar="CAMERA=SIDE",
        help="pixels of the tower's input, as policy.images.resize",
    )
    features.add_argument("--pad-square", action="store_true", help="as policy.images.pad_square")
    features.add_argument(
        "--crops", type=int, default=1, help="features a picture: itself, and shifted ones"
    )
    features.add_argument(
        "--random-shift",
        type=int,
        default=4,
        help="largest shift in pixels, as policy.images.random_shift",
    )
    features.add_argument("--device", default="auto", help="auto, cpu or cuda")
    features.add_argument("--overwrite", action="store_true", help="make them anew")
    features.set_defaults(run=None)
