"""What published checkpoints have in common: tensors under other names, answers to golden inputs.

Each kind's file (published_mode.py, published_mdt.py) yields its names and adds its sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.formulation import squared_error
from telic.policy.diffusion.sampling import SamplingConfig
from telic.spec import near_misses

Names = Iterable[tuple[str, list[str]]]  # our name, the published names of what it is made of
Join = Callable[[str, list[Tensor]], Tensor]  # our name, those tensors -> ours


def concatenate(key: str, tensors: list[Tensor]) -> Tensor:
    """Return the tensors one after another along their first axis."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def translate(
    names: Names,
    published: Mapping[str, Tensor],
    where: str,
    *,
    dead: Collection[str] = (),
    join: Join = concatenate,
    wanted: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return `published` under our names.

    wanted: our tensors by name, whose shapes the concatenated ones must have.
    ValueError, which begins with `where`, for a name that is absent, or unknown and not `dead`, and
    for a tensor of another shape than `wanted` or than those it is joined with.
    """
    table = dict(names)
    used = {name for group in table.values() for name in group}
    for name in sorted(used - published.keys()):
        raise ValueError(f"{where}: no tensor {name}{near_misses(name, published)}")
    for name in sorted(published.keys() - used - set(dead)):
        raise ValueError(
            f"{where}: unknown tensor {name} {tuple(published[name].shape)}"
            f"{near_misses(name, used)}"
        )
    for key, group in table.items():
        shape = published[group[0]].shape
        if wanted is not None and key in wanted:
            rows, *others = wanted[key].shape
            shape = torch.Size([rows // len(group), *others])
        if not shape and len(group) > 1:
            raise ValueError(f"{where}: {group[0]} is a lone number, expected rows")
        for name in group:
            require_shape(published, name, tuple(shape), where)
    return {key: join(key, [published[n] for n in group]) for key, group in table.items()}


def require_shape(
    published: Mapping[str, Tensor], name: str, shape: tuple[int, ...], where: str
) -> None:
    """Raise ValueError, which begins with `where`, if `name` is there in another shape."""
    if name in published and published[name].shape != shape:
        raise ValueError(
            f"{where}: {name} is {tuple(published[name].shape)}, expected {shape}; "
            "the config beside it must be the one it was trained with"
        )


def edm_outputs(
    network: Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor],
    config: Mapping[str, Any],
    inputs: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return inner, denoised, loss and sample for the inputs of a golden file of an EDM kind."""
    edm = EdmConfig(sigma_data=config["sigma_data"]).build()
    sampling = SamplingConfig(
        sampler=config["sampler"],
        schedule=config["schedule"],
        steps=config["num_steps"],
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
    )
    action, noise, sigma = inputs["action"], inputs["noise"], inputs["sigma"]

    def network_output(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x, sigma, inputs)

    pair = edm.training_pair(action, noise, sigma)
    return {
        "inner": network_output(action, sigma),
        "denoised": edm.denoise(network_output, action, sigma),
        "loss": squared_error(network_output(pair.network_input, sigma), pair.target).mean(),
        "sample": sampling.sample(
            lambda x, sigma: edm.denoise(network_output, x, sigma), inputs["x_T_unit"]
        ),
    }
