"""LeRobotDataset v3.0 and v2.1 to a store and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from telic.datasets.formats.converter import Converter, importer, small_store
from telic.datasets.formats.lerobot_export import LeRobotExportOptions, Pictures, export_lerobot
from telic.datasets.formats.lerobot_import import import_lerobot
from telic.datasets.formats.lerobot_layout import is_lerobot
from telic.datasets.layout import is_store

__all__ = ["FROM", "TO", "LeRobotExportOptions", "Pictures", "export_lerobot", "import_lerobot"]


def _export(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    settings = LeRobotExportOptions(
        version=options.lerobot_version,
        pictures=Pictures(options.lerobot_pictures),
        crf=options.lerobot_crf,
    )
    return export_lerobot(source, target, settings, overwrite)


def _export_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--lerobot-version", choices=["v3.0", "v2.1"], default="v3.0")
    group.add_argument(
        "--lerobot-pictures",
        choices=[way.value for way in Pictures],
        default=Pictures.av1.value,
        help="video (av1, h264) or lossless png",
    )
    group.add_argument(
        "--lerobot-crf", type=int, help="of videos, 0 the best; default: 30 for av1, 23 for h264"
    )


def _small(folder: Path) -> Path:
    target = folder / "small_lerobot"
    export_lerobot(small_store(folder), target, LeRobotExportOptions())
    return target


FROM = importer("from LeRobotDataset", is_lerobot, import_lerobot, _small, needs=["pyarrow", "av"])
TO = Converter(
    title="to LeRobotDataset",
    takes=is_store,
    convert=_export,
    small=small_store,
    add_options=_export_options,
    suffix="",
    needs=("pyarrow", "av"),
)
