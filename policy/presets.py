"""Whole policy configurations by name: what `policy=NAME` on a command line chooses among."""

from __future__ import annotations

from telic.embodiment import Space
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mmdit import MmditConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.condition_dropout import ConditionDropoutConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.encoders.language import CLIP_NAME, LanguageConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.encoders.towers import EFFICIENTNET

_RDT_SAMPLING = SamplingConfig(sampler="dpmpp_2m", schedule="timesteps", steps=5)


def _published_rdt(denoiser: RdtConfig) -> PolicyConfig:
    """Return the published way to train it: 128 slots, SI units, padding learnt."""
    return PolicyConfig(
        denoiser=denoiser,
        obs_horizon=2,
        action_horizon=64,
        space=Space.unified,
        train_padding=True,
        state=NormalizerConfig(scaling=Scaling.identity),
        action=NormalizerConfig(scaling=Scaling.identity),
        goal=GoalConfig(dropout=0.1),
        condition_dropout=ConditionDropoutConfig(images=0.1, state=0.1, action_mask=0.1, rate=0.1),
        sampling=_RDT_SAMPLING,
    )


POLICIES: dict[str, PolicyConfig] = {
    # MoDE, 0.9 M parameters: noise-routed experts in one causal stream
    "mode": PolicyConfig(denoiser=ModeConfig()),
    # MoDE in the published size, 686 M, with a FiLM-ResNet-50 for each camera
    "mode_published": PolicyConfig(
        denoiser=ModeConfig.published(),
        action_horizon=10,
        use_state=False,
        images=ImageConfig(tower="film_resnet50", share_projection=True, random_shift=10),
        goal=GoalConfig(language=LanguageConfig(encoder=CLIP_NAME, dim=512), element_dropout=0.1),
    ),
    # MDT, 0.9 M: an encoder over goal and observation, a decoder over the actions
    "mdt": PolicyConfig(denoiser=MdtConfig()),
    # MDT's denoiser behind a perceiver over a pretrained tower's features
    "mdtv": PolicyConfig(
        denoiser=MdtConfig(),
        images=ImageConfig(
            tower=EFFICIENTNET, frozen=True, share_tower=True, pooling=Pooling.perceiver
        ),
    ),
    # MDT's denoiser in the published size
    "mdt_published": PolicyConfig(denoiser=MdtConfig.published(), action_horizon=10),
    # RDT, 0.9 M: cross-attention to language and images in turn
    "rdt": PolicyConfig(denoiser=RdtConfig(), sampling=_RDT_SAMPLING),
    # RDT-170M as published: 128 slots, SI units
    "rdt_published": _published_rdt(RdtConfig.published()),
    # RDT-1B as published
    "rdt_published_1b": _published_rdt(RdtConfig.published_1b()),
    # MMDiT, 0.9 M: a stream of context and one of actions with joint attention
    "mmdit": PolicyConfig(denoiser=MmditConfig()),
}
