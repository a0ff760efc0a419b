"""What may be chosen of a trained policy without training it again, as commands are told it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from telic.policy.diffusion.sampling import preset
from telic.policy.inference.precision import precision_named, quantize
from telic.policy.inference.prefix import prefixing_way
from telic.policy.inference.truncated import StartConfig
from telic.policy.policy import Policy
from telic.spec import ChunkPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """Names and numbers of a command line; None: as the checkpoint says. ValueError for a bad one.

    sampling: a preset. anchors, temperature: from how many anchors a chunk is denoised and how
    freely one is chosen (`StartConfig`). precision: of the large matrices (`Precision`).
    prefixing: how a chunk goes on from what is left of the last one (`Prefixing`).
    """

    sampling: str | None = None
    anchors: int | None = None
    temperature: float | None = None
    precision: str | None = None
    prefixing: str | None = None

    def __post_init__(self) -> None:
        if self.sampling is not None:
            preset(self.sampling)
        if self.precision is not None:
            precision_named(self.precision)
        if self.prefixing is not None:
            prefixing_way(self.prefixing)
        StartConfig().changed(self.anchors, self.temperature)

    def refuse(self, who: str) -> None:
        """Raise ValueError if anything is chosen: `who` does not denoise."""
        for entry in fields(self):
            if (value := getattr(self, entry.name)) is not None:
                raise ValueError(
                    f"{entry.name}={value}: {who} does not denoise; leave {entry.name} out"
                )

    def apply(self, policy: ChunkPolicy, who: str) -> None:
        """Have `policy` act so from now on.

        ValueError where it does not denoise, has no such anchors, was not trained on prefixes, or
        where two choices do not go together.
        """
        if not isinstance(policy, Policy):
            self.refuse(who)
            return
        if self.sampling is not None:
            policy.sampling = preset(self.sampling)
        if self.anchors is not None or self.temperature is not None:
            policy.start_from(policy.start.changed(self.anchors, self.temperature))
        if policy.truncated is not None and policy.start.best:
            policy.sampling.truncated(policy.truncated.sigma_trunc)
        if self.prefixing is not None:
            policy.prefixer.use(self.prefixing)
        if self.precision is not None:
            quantize(policy.denoiser, precision_named(self.precision))
        policy.prefixer.require(policy.denoiser)
