"""The formulations by name. A formulation is one file and one entry here."""

from __future__ import annotations

from telic.policy.diffusion.ddpm import DdpmConfig
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.flow import FlowConfig
from telic.policy.diffusion.formulation import FormulationConfig
from telic.registry import Registry

FORMULATIONS: Registry[type[FormulationConfig]] = Registry(
    "formulation",
    {
        "edm": EdmConfig,
        "ddpm": DdpmConfig,
        "flow": FlowConfig,
    },
)
