"""Loading weights into a network: everything fits, or one error names what does not."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from telic.spec import near_misses


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; raise ValueError naming the first key that does not fit."""
    wanted = module.state_dict()
    for key, want in wanted.items():
        if key not in tensors:
            raise ValueError(
                f"{where}: no tensor {key} {tuple(want.shape)}{near_misses(key, tensors)}; "
                "it was written by another configuration or is incomplete"
            )
        if tensors[key].shape != want.shape:
            raise ValueError(
                f"{where}: {key} is {tuple(tensors[key].shape)}, expected {tuple(want.shape)}; "
                "the configuration beside it must be the one it was trained with"
            )
    for key, got in tensors.items():
        if key not in wanted:
            raise ValueError(
                f"{where}: unexpected tensor {key} {tuple(got.shape)}{near_misses(key, wanted)}; "
                "the configuration beside it must be the one it was trained with"
            )
    module.load_state_dict(tensors)
