"""The evaluation protocols by name. A protocol is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from telic.envs.evaluation.paraphrase import ParaphraseProtocol
from telic.envs.evaluation.playtable import ChainProtocol, SingleProtocol
from telic.envs.evaluation.protocol import EvaluationProtocol, ProtocolSettings, TaskProtocol
from telic.envs.records import read_record
from telic.spec import near_misses


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolEntry:
    """A protocol, and which of the settings it takes besides those that all take (`COMMON`)."""

    protocol: type[EvaluationProtocol]
    takes: frozenset[str]


EPISODES = frozenset(["episodes_per_task", "seed"])
TABLE = frozenset(["env", "scene", "language_file"])
COMMON = frozenset(["protocol", "max_steps", "instructions", "state"])
# what says which episodes there are; `state` says what a policy is given in them
PROTOCOL_KEYS = frozenset(field.name for field in fields(ProtocolSettings)) - {"state"}
PROTOCOLS: dict[str, ProtocolEntry] = {
    TaskProtocol.name: ProtocolEntry(protocol=TaskProtocol, takes=EPISODES | {"tasks"}),
    SingleProtocol.name: ProtocolEntry(protocol=SingleProtocol, takes=EPISODES | TABLE),
    ParaphraseProtocol.name: ProtocolEntry(
        protocol=ParaphraseProtocol, takes=EPISODES | {"env", "scene"}
    ),
    ChainProtocol.name: ProtocolEntry(protocol=ChainProtocol, takes=TABLE | {"num_chains"}),
}


def build_protocol(settings: ProtocolSettings) -> EvaluationProtocol:
    """Return the protocol that the settings name.

    ValueError for an unknown name, and for a setting given that this protocol does not take.
    """
    entry = _entry(settings.protocol)
    default = ProtocolSettings()
    for name in [field.name for field in fields(ProtocolSettings)]:
        value = getattr(settings, name)
        if name in entry.takes | COMMON or value == getattr(default, name):
            continue
        takers = [other for other, known in PROTOCOLS.items() if name in known.takes]
        raise ValueError(
            f"{name}={value} is no setting of protocol={settings.protocol}, which takes "
            f"{', '.join(sorted(entry.takes))}; protocol={'|'.join(takers)} takes it"
        )
    return entry.protocol.from_settings(settings)


def protocol_from_json(data: Mapping[str, Any]) -> EvaluationProtocol:
    """Return the protocol that `to_json` wrote; ValueError for what it did not write."""
    if not isinstance(data, Mapping):
        raise ValueError(f"protocol={data!r:.40} is none")
    given = dict(data)
    return read_record(_entry(str(given.pop("protocol", TaskProtocol.name))).protocol, given)


def _entry(name: str) -> ProtocolEntry:
    if name not in PROTOCOLS:
        raise ValueError(
            f"protocol={name} is not one of {', '.join(PROTOCOLS)}{near_misses(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]
