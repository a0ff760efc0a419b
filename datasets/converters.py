"""Formats of demonstrations that `demo-store convert` reads and writes.

A converter is one file and one entry in `CONVERTERS`. Those registered last are asked first.
"""

from __future__ import annotations

from pathlib import Path

from telic.datasets.formats import (
    calvin,
    diffusion_policy,
    lerobot,
    mcap_recordings,
    rdt_hdf5,
    robomimic_hdf5,
)
from telic.datasets.formats.converter import Convert, Converter
from telic.registry import Registry

__all__ = ["CONVERTERS", "Convert", "Converter", "converter_for"]

CONVERTERS: Registry[Converter] = Registry(
    "format",
    {
        "from_robomimic": robomimic_hdf5.FROM,
        "to_robomimic": robomimic_hdf5.TO,
        "from_lerobot": lerobot.FROM,
        "to_lerobot": lerobot.TO,
        "from_diffusion_policy": diffusion_policy.FROM,
        "to_diffusion_policy": diffusion_policy.TO,
        "from_calvin": calvin.FROM,
        "from_rdt": rdt_hdf5.FROM,
        "from_mcap": mcap_recordings.FROM,
    },
)


def converter_for(source: Path, name: str | None = None, target: Path | None = None) -> Converter:
    """The converter of that name, or else one that takes the source.

    Of several the first counts that writes what `target` ends in. ValueError where none takes the
    source, or where the ending of the target tells none of several.
    """
    if name is not None:
        return CONVERTERS.require(name, "--format")
    taking = [known for known in reversed(list(CONVERTERS)) if CONVERTERS[known].takes(source)]
    if not taking:
        raise ValueError(f"{source}: none of the formats {', '.join(CONVERTERS)}")
    fitting = [n for n in taking if target is None or CONVERTERS[n].suffix == target.suffix]
    if fitting or len(taking) == 1:
        return CONVERTERS[(fitting or taking)[0]]
    ways = ", ".join(f"{n} ({CONVERTERS[n].suffix or 'a folder'})" for n in taking)
    raise ValueError(f"{target}: its ending tells no format; pass --format, one of {ways}")
