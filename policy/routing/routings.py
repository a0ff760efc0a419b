"""The routings by name. A routing is one file and one entry here."""

from __future__ import annotations

from telic.policy.routing.dense import DenseRoutingConfig
from telic.policy.routing.dtr import DtrRoutingConfig
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.routing import RoutingConfig
from telic.policy.routing.switch import SwitchRoutingConfig
from telic.policy.routing.token import TokenRoutingConfig
from telic.registry import Registry

ROUTINGS: Registry[type[RoutingConfig]] = Registry(
    "routing",
    {
        "dense": DenseRoutingConfig,
        "noise": NoiseRoutingConfig,
        "token": TokenRoutingConfig,
        "switch": SwitchRoutingConfig,
        "dtr": DtrRoutingConfig,
    },
)
