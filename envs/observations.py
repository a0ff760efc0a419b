"""What an environment answers with, held against what its interface promises."""

from __future__ import annotations

from telic.envs.task import DictObs
from telic.spec import Array, Interface


class Broken(Exception):
    """Raised where an environment, or its expert, breaks its promise: a crash, in one line."""


def require_observation(obs: DictObs, interface: Interface, step: int) -> None:
    """Raise `Broken` unless the state, and whatever pictures there are, can be observations.

    Bounds are left alone: a simulator may overshoot them, and a policy copes.
    """
    if "state" not in obs:
        raise Broken(f"step {step}: the observation has no state, only {', '.join(obs) or 'none'}")
    specs = {"state": interface.state}
    specs |= {f"image/{camera}": spec for camera, spec in interface.images.items()}
    for name in specs.keys() & obs.keys():
        if (problem := specs[name].malformed(obs[name])) is not None:
            raise Broken(f"step {step}: the observation's {name}: {problem}")


def require_action(action: Array, interface: Interface, step: int) -> None:
    """Raise `Broken` unless an expert's action is one that the interface takes."""
    if (problem := interface.action.problem(action)) is not None:
        raise Broken(f"step {step}: the expert's action: {problem}")
