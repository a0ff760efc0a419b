"""ArraySpec: what an array is, in shape, numbers and meaning. numpy only."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GRIPPER_SIGNS: Final = ("positive_opens", "positive_closes")
_NUMERIC_KINDS: Final = "biuf"  # of numpy's dtypes: no objects, no text


def near_misses(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return "; did you mean a, b?" for the known names closest to `name`, or "" if none is."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """Shape, dtype, unit, bounds and meaning of one array. A dimension of None may have any size.

    `names` labels the entries of a 1-d array (joint names, `gripper`). Where the entries hold
    them: `rotation`, how it is represented (`axis_angle`, `euler_xyz_fixed`, `quaternion_xyzw`,
    `rotation_6d`, ...); `gripper`, which way larger numbers go, one of GRIPPER_SIGNS; `frame`, in
    which places and turns are given (`world`, `base`, `tcp`). `physics`, of a simulator's actions:
    which version of its physics carries them out. "" is unstated. `note` is for people alone.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    unit: str = ""
    minimum: tuple[float, ...] | None = None
    maximum: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    rate_hz: float | None = None
    rotation: str = ""
    gripper: str = ""
    frame: str = ""
    physics: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple | list):
            raise ValueError(f"shape {self.shape!r} must be a tuple of sizes, such as (7,)")
        for size in self.shape:
            if size is not None and (type(size) is not int or size < 0):
                raise ValueError(f"shape {self.shape} must hold whole numbers, or None for any")
        self._require_dtype()
        for bound in (self.minimum, self.maximum):
            if bound is not None and len(bound) not in (1, self.shape[-1] if self.shape else 1):
                raise ValueError(f"a bound of {len(bound)} entries does not fit shape {self.shape}")
            if bound is not None and any(math.isnan(value) for value in bound):
                raise ValueError(f"a bound must not be nan: {bound}")
        if self.minimum is not None and self.maximum is not None:
            low, high = np.broadcast_arrays(self.minimum, self.maximum)
            if (low > high).any():
                raise ValueError(f"minimum {self.minimum} lies above maximum {self.maximum}")
        if self.names and (len(self.shape) != 1 or len(self.names) != self.shape[0]):
            raise ValueError(f"{len(self.names)} names do not label an array of shape {self.shape}")
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ValueError(f"rate_hz={self.rate_hz} must be more than 0 and finite")
        if self.gripper and self.gripper not in GRIPPER_SIGNS:
            raise ValueError(f"gripper={self.gripper!r} must be one of {', '.join(GRIPPER_SIGNS)}")

    def _require_dtype(self) -> None:
        try:
            kind = np.dtype(self.dtype).kind
        except TypeError as error:
            raise ValueError(f"dtype {self.dtype!r} is none of numpy's") from error
        if kind not in _NUMERIC_KINDS:
            raise ValueError(f"dtype {self.dtype!r} is not one of numbers")

    def malformed(self, value: Array) -> str | None:
        """Return what is wrong with shape, dtype or finiteness ("shape is (6,), ..."), or None."""
        value = np.asarray(value)
        fits = len(value.shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            return f"shape is {value.shape}, expected {self.shape}"
        if value.dtype != np.dtype(self.dtype):
            return f"dtype is {value.dtype}, expected {self.dtype}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"entry {_first(~np.isfinite(value))} is not finite"
        return None

    def problem(self, value: Array) -> str | None:
        """Return what is wrong with `value`, its bounds included, or None."""
        value = np.asarray(value)
        if (malformed := self.malformed(value)) is not None:
            return malformed
        if self.minimum is not None and (low := value < np.asarray(self.minimum)).any():
            return f"entry {_first(low)} is {value[low][0]:.6g}, below {min(self.minimum):.6g}"
        if self.maximum is not None and (high := value > np.asarray(self.maximum)).any():
            return f"entry {_first(high)} is {value[high][0]:.6g}, above {max(self.maximum):.6g}"
        return None

    def validate(self, value: Array, where: str) -> Array:
        """Return `value` unchanged if it conforms; else raise ValueError(f"{where}: ...")."""
        if problem := self.problem(value):
            raise ValueError(f"{where}: {problem}")
        return value

    def clip(self, value: Array) -> Array:
        """Return `value` within the bounds, as the spec's dtype."""
        if self.minimum is not None or self.maximum is not None:
            value = np.clip(value, self.minimum, self.maximum)
        return np.asarray(value, dtype=self.dtype)

    def sample(self, rng: np.random.Generator) -> Array:
        """Return a random conforming array; a free dimension becomes 2."""
        shape = tuple(2 if n is None else n for n in self.shape)
        if np.dtype(self.dtype).kind in "ui":
            top = min(np.iinfo(self.dtype).max, 255)
            return rng.integers(0, top, shape, endpoint=True).astype(self.dtype)
        low = np.asarray(self.minimum if self.minimum is not None else -1.0)
        high = np.asarray(self.maximum if self.maximum is not None else 1.0)
        return self.clip(rng.uniform(low, high, shape))

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON data; entries at their default are left out."""
        data: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.default is not MISSING and value != entry.default:
                data[entry.name] = list(value) if isinstance(value, tuple) else value
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArraySpec:
        """Return the spec that `to_json` wrote; ValueError for what it cannot have written."""
        if not isinstance(data, Mapping) or "shape" not in data:
            raise ValueError(f"{data!r:.80} does not describe an array: it has no shape")
        for key, value in data.items():
            if key not in _JSON_KINDS:
                raise ValueError(
                    f"{key!r} is nothing that is said of an array{near_misses(key, _JSON_KINDS)}"
                )
            if not _is_of_kind(key, value):
                raise ValueError(f"{key}={value!r:.80} cannot be said of an array")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**given)


_WORDS = ("dtype", "unit", "rotation", "gripper", "frame", "physics", "note")
_LISTS = ("shape", "minimum", "maximum", "names")
_JSON_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "shape": (int, type(None)),
    "minimum": (int, float),
    "maximum": (int, float),
    "names": (str,),
    "rate_hz": (int, float, type(None)),
    **dict.fromkeys(_WORDS, (str,)),
}


def _is_of_kind(key: str, value: Any) -> bool:
    """Return whether a JSON value may stand at this key of a spec."""
    if value is None and key in ("minimum", "maximum"):
        return True
    if isinstance(value, list) != (key in _LISTS):
        return False
    entries = value if isinstance(value, list) else [value]
    return all(isinstance(e, _JSON_KINDS[key]) and not isinstance(e, bool) for e in entries)


def _first(wrong: Array) -> str:
    return str(tuple(int(i) for i in np.argwhere(wrong)[0]))
