"""The formulations by name. A formulation is one file and one entry here."""

from __future__ import annotations

from telic.policy.ddpm import DdpmConfig
from telic.policy.edm import EdmConfig
from telic.policy.flow import FlowConfig
from telic.policy.formulation import FormulationConfig

FORMULATIONS: dict[str, type[FormulationConfig]] = {
    "edm": EdmConfig,
    "ddpm": DdpmConfig,
    "flow": FlowConfig,
}
