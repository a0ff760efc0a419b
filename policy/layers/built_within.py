"""Building what a file describes, in no more memory than its weights speak for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SPARE = 2**30  # bytes that a network may take besides its weights: tables, masks, buffers
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}


class _Bounded(TorchFunctionMode):
    """Refuses the tensor that would make all those made so far larger than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _MAKERS:
            sizes = args[0] if args and isinstance(args[0], list | tuple) else args
            count = math.prod(size for size in sizes if isinstance(size, int))
            self.left -= 4 * (count**2 if func is torch.eye else count)
            if self.left < 0:
                raise MemoryError(f"a tensor of {count} numbers")
        return func(*args, **(kwargs or {}))


@contextmanager
def built_within(weights: int, where: str) -> Iterator[None]:
    """Turn into one line what building from a damaged description raises.

    ValueError too where it would take more than a few times the bytes of the `weights`.
    """
    try:
        with _Bounded(4 * weights + _SPARE):
            yield
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {str(error).partition(chr(10))[0]}") from error
    except Exception as error:  # a damaged description may raise anything
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{where}: config.yaml or spec.json describes no policy of these weights "
            f"({type(error).__name__}: {line}); they are damaged or of another version"
        ) from error
