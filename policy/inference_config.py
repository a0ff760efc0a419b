"""What may be chosen of a trained policy without training it again: keys of several commands.

It loads torch only where a policy is there to be changed, so that a command that leaves the policy
to another process can do without.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from telic.spec import ChunkPolicy

if TYPE_CHECKING:
    from telic.policy.diffusion.sampling import SamplingConfig


@dataclass(kw_only=True, slots=True)
class SamplingChoice:
    """What is taken in place of the checkpoint's own sampling, key by key."""

    shorthand: ClassVar[str] = "preset"  # the key that `sampling=2` stands for

    # a named sampling, which `sampling=2` is short for: 1, 2, 4, 5, 10 steps
    preset: str | None = None
    # the loop over sigmas; None: the checkpoint's
    sampler: str | None = field(
        default=None, metadata={"choices": "telic.policy.diffusion.samplers.SAMPLERS"}
    )
    # denoising steps of a chunk, of the checkpoint's own schedule; None: as many as it has
    steps: int | None = None
    # how sigmas are spaced; None: the checkpoint's
    schedule: str | None = field(
        default=None, metadata={"choices": "telic.policy.diffusion.sampling.SCHEDULES"}
    )
    # sigmas in falling order, without the final 0, in place of a schedule; None: the checkpoint's
    sigmas: list[float] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is not left to the checkpoint, by key."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def of(self, own: SamplingConfig) -> SamplingConfig:
        """The sampling of a policy whose own is `own`; ValueError where the choices exclude."""
        from telic.policy.diffusion.sampling import preset

        given = self.given
        base = own if self.preset is None else preset(given.pop("preset"))
        if self.sigmas is not None and (other := given.keys() & {"steps", "schedule"}):
            raise ValueError(
                f"sampling.sigmas={self.sigmas} says all of the schedule; leave sampling."
                f"{min(other)} out"
            )
        if self.schedule is not None:
            given["sigmas"] = None
        elif self.steps is not None and base.sigmas is not None:
            whose = "the checkpoint" if self.preset is None else f"sampling={self.preset}"
            instead = "" if self.preset is None else "sampling=null, the checkpoint's, or "
            raise ValueError(
                f"sampling.steps={self.steps}: the schedule of {whose} is a list of sigmas, "
                f"{base.sigmas}; take {instead}sampling.schedule=exponential"
            )
        return replace(base, **given)


@dataclass(kw_only=True)
class InferenceKeys:
    """The keys of `InferenceConfig`, as a base of a command's config.

    It has no room of its own (`__slots__`), so that the config may have another base beside it.
    """

    __slots__ = ()

    sampling: SamplingChoice = field(default_factory=SamplingChoice)
    # of a policy with anchors: how many a chunk is denoised from; None: the checkpoint's
    anchors: int | None = None
    # 0: the best anchor; 1: each as often as its score says; None: the checkpoint's
    temperature: float | None = None
    # format of the large matrices: fp32, fp32_packed, bf16, fp16, int8, w8a8; None: fp32
    precision: str | None = None
    # how a chunk goes on from the rest of the last one: none, guided, trained; None: as the
    # checkpoint was trained
    prefixing: str | None = None
    # what computes: torch for a checkpoint; for what export-policy wrote onnxruntime, openvino,
    # tensorrt, or auto, the fastest of those installed; None: torch, or auto
    runtime: str | None = None

    def inference(self) -> InferenceConfig:
        """These keys alone."""
        names = [entry.name for entry in fields(InferenceConfig)]
        return InferenceConfig(**{name: getattr(self, name) for name in names})


@dataclass(kw_only=True, slots=True)
class InferenceConfig(InferenceKeys):
    """How a trained policy acts; the defaults leave it as the checkpoint says.

    sampling: sampler, steps, schedule. anchors, temperature: from how many anchors a chunk is
    denoised and how freely one is chosen (`StartConfig`). precision: of the large matrices
    (`Precision`). prefixing: how a chunk goes on from what is left of the last one (`Prefixing`).
    runtime: of an exported folder (`RUNTIMES`).
    """

    def require_known(self) -> None:
        """Raise ValueError for a name or a number that no policy takes."""
        from telic.policy.diffusion.sampling import SamplingConfig
        from telic.policy.inference.precision import precision_named
        from telic.policy.inference.prefix import prefixing_way
        from telic.policy.inference.truncated import StartConfig

        self.sampling.of(SamplingConfig())
        if self.precision is not None:
            precision_named(self.precision)
        if self.prefixing is not None:
            prefixing_way(self.prefixing)
        if self.anchors is not None and self.anchors < 0:
            raise ValueError(
                f"anchors={self.anchors} to begin from must be 0 or more; 0 begins at noise alone"
            )
        StartConfig().changed(self.anchors, self.temperature)

    def refuse(self, who: str) -> None:
        """Raise ValueError if anything is chosen: `who` does not denoise."""
        chosen = {f"sampling.{name}": value for name, value in self.sampling.given.items()}
        chosen |= {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in ("sampling", "runtime")
        }
        for name, value in chosen.items():
            if value is not None:
                name = name.removesuffix(f".{SamplingChoice.shorthand}")
                raise ValueError(f"{name}={value}: {who} does not denoise; leave {name} out")

    def apply(self, policy: ChunkPolicy, who: str) -> None:
        """Have `policy` act so from now on.

        ValueError where it does not denoise, has no such anchors, was not trained on prefixes, or
        where two choices do not go together.
        """
        from telic.policy.inference.precision import precision_named, quantize
        from telic.policy.policy import Policy

        self.require_known()
        if self.runtime not in (None, "torch", "auto"):
            raise ValueError(
                f"runtime={self.runtime} runs exported graphs, and {who} is a checkpoint; "
                "export-policy CHECKPOINT OUT makes one, or leave runtime out"
            )
        if not isinstance(policy, Policy):
            self.refuse(who)
            return
        policy.sampling = self.sampling.of(policy.sampling)
        if self.anchors is not None or self.temperature is not None:
            policy.start_from(policy.start.changed(self.anchors, self.temperature))
        if policy.truncated is not None and policy.start.best:
            policy.sampling.truncated(policy.truncated.sigma_trunc)
        if self.prefixing is not None:
            policy.prefixer.use(self.prefixing)
        if self.precision is not None:
            quantize(policy.denoiser, precision_named(self.precision))
        policy.prefixer.require(policy.denoiser)
