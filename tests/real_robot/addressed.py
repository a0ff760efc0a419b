"""An arm that has an address, as real ones do."""

from dataclasses import dataclass

from telic.real_robot.clock import Clock
from telic.real_robot.simulated_arm import ArmConfig, SimulatedArm
from telic.spec import Interface


@dataclass(kw_only=True, slots=True)
class AddressedConfig:
    """An arm at `ip`."""

    ip: str

    def build(self, needs: Interface, clock: Clock) -> SimulatedArm:
        return SimulatedArm(ArmConfig(), clock)
