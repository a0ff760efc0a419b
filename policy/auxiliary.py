"""The auxiliary objectives by name. An objective is one file and one entry here.

`PolicyConfig` has a field for each of these. Those that another package registers stand in its
`auxiliary`: `policy/auxiliary=[mine] policy.auxiliary.mine.weight=1`.
"""

from __future__ import annotations

from telic.policy.inference.truncated import TruncatedConfig
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.objectives.future import FutureConfig
from telic.policy.objectives.objective import ObjectiveConfig
from telic.policy.objectives.repa import RepaConfig
from telic.policy.objectives.scene import SceneConfig
from telic.registry import Registry

OBJECTIVES: Registry[type[ObjectiveConfig]] = Registry(
    "objective",
    {
        "foresight": ForesightConfig,
        "alignment": AlignmentConfig,
        "future": FutureConfig,
        "scene": SceneConfig,
        "repa": RepaConfig,
        "anchors": TruncatedConfig,
    },
)
