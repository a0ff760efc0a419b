"""Configuration values outside their range are named as a user types them."""

from dataclasses import dataclass

import pytest

from telic.ranges import require_range


@dataclass
class Settings:
    """Three numbers, one of them left to others."""

    steps: int = 1
    rate: float = 0.5
    threads: int | None = None


def test_what_lies_inside_passes() -> None:
    require_range(Settings(), "steps", "threads", at_least=1)
    require_range(Settings(), "rate", above=0, at_most=0.5)


@pytest.mark.parametrize(
    ("settings", "range_", "line"),
    [
        (Settings(steps=0), {"at_least": 1}, "loop.steps=0 must be at least 1"),
        (Settings(steps=0), {"above": 0}, "loop.steps=0 must be more than 0"),
        (
            Settings(steps=9),
            {"at_least": 1, "at_most": 8},
            "loop.steps=9 must be at least 1 and at most 8",
        ),
        (Settings(steps=float("inf")), {}, "loop.steps=inf must be a finite number"),  # type: ignore[arg-type]
        (
            Settings(steps=float("nan")),
            {"at_least": 1},
            "loop.steps=nan must be at least 1 and finite",
        ),  # type: ignore[arg-type]
    ],
)
def test_what_lies_outside_is_refused(settings: Settings, range_: dict, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        require_range(settings, "steps", prefix="loop.", **range_)
