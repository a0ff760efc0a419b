"""The routings by name. A routing is one file and one entry here."""

from __future__ import annotations

from telic.policy.dense_routing import DenseRoutingConfig
from telic.policy.dtr_routing import DtrRoutingConfig
from telic.policy.noise_routing import NoiseRoutingConfig
from telic.policy.routing import RoutingConfig
from telic.policy.switch_routing import SwitchRoutingConfig
from telic.policy.token_routing import TokenRoutingConfig

ROUTINGS: dict[str, type[RoutingConfig]] = {
    "dense": DenseRoutingConfig,
    "noise": NoiseRoutingConfig,
    "token": TokenRoutingConfig,
    "switch": SwitchRoutingConfig,
    "dtr": DtrRoutingConfig,
}
