"""The kinds of denoiser by name. A kind is one file and one entry here.

A kind of another package adds itself: `KINDS.register("mine", MyConfig)` in a plug-in.
"""

from __future__ import annotations

from collections.abc import Iterable

from telic.policy.denoisers.denoiser import DenoiserConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mmdit import MmditConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.registry import Registry
from telic.spec import near_misses

KINDS: Registry[type[DenoiserConfig]] = Registry(
    "kind",
    {
        "mode": ModeConfig,
        "mdt": MdtConfig,
        "rdt": RdtConfig,
        "mmdit": MmditConfig,
    },
)


def require_kind(kind: str, known: Iterable[str], where: str, what: str = "kind") -> None:
    """Raise ValueError, which begins with `where`, unless `kind` is known."""
    if kind not in (names := list(known)):
        raise ValueError(
            f"{where}: {what} {kind!r} is not one of {', '.join(names)}{near_misses(kind, names)}"
        )
