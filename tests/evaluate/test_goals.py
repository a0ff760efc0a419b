"""`evaluate-policy goal=image|both`: titles, identity, comparisons, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.envs.task import image_specs
from telic.evaluate import EvaluateConfig, run
from telic.goal_choice import StoreGoals
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.policy import Policy
from telic.spec import ArraySpec, FieldStats, Interface

from .conftest import TOY

SIDE = 24
SEEN = Interface(
    state=TOY.state,
    action=TOY.action,
    rate_hz=TOY.rate_hz,
    images=image_specs(["front"], (SIDE, SIDE)),
)
FAST = ["num_workers=0", "device=cpu", "threads=1", "sampling=1", "episodes_per_task=3", "seed=10"]
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return what saves a tiny policy that sees the toy, with the goals asked for."""

    def saved(text: bool = True, images: bool = True) -> Path:
        zeros, ones = np.zeros(2), np.ones(2)
        stats = FieldStats(
            minimum=zeros, maximum=ones, mean=zeros, std=ones, q01=zeros, q99=ones, count=2
        )
        tower = ImageConfig(tower="keypoint_conv", pooling=Pooling.keypoints, random_shift=0)
        config = PolicyConfig(
            denoiser=ModeConfig(width=16, num_layers=1, num_heads=2, feed_forward=16),
            images=tower,
            goal=GoalConfig(text=text, images=images, image=tower),
        )
        policy = Policy(config, SEEN, {"state": stats})
        policy.set_embeddings({t: np.ones(384, np.float32) for t in ("add up", "b", "c", "d")})
        path = tmp_path_factory.mktemp("seen") / "best"
        save_checkpoint(path, policy)
        return path

    return saved


def evaluate(checkpoint: Path | str, toy: str, out: Path, *overrides: str) -> dict[str, Any]:
    given = [f"checkpoint={checkpoint}", f"out={out}", f"tasks=['{toy}']", *FAST]
    cache = f"goal_cache={out.parent / 'goals'}"
    return run(compose(EvaluateConfig, "evaluate", [*given, cache, *overrides]))


def test_titles_identity_and_comparisons_name_the_goal(
    toy: str, save: Save, tmp_path: Path
) -> None:
    policy = save()
    text = evaluate(policy, toy, tmp_path / "text")
    image = evaluate(policy, toy, tmp_path / "image", "goal=image", f"compare={tmp_path / 'text'}")
    both = evaluate(policy, toy, tmp_path / "both", "goal=both", f"compare={tmp_path / 'image'}")
    titles = [result["policy"] for result in (text, image, both)]
    assert titles == [f"mode, euler, 1 step, goal={goal}" for goal in ("text", "image", "both")]
    assert [r["about"]["goal"] for r in (text, image, both)] == ["text", "image", "both"]
    assert image["comparison"]["second"] == titles[0]  # the same episodes, another goal
    assert both["comparison"]["second"] == titles[1]
    assert both["comparison"]["overall"]["pairs"] == 3
    assert "goal=both" in (tmp_path / "both/report.md").read_text()
    assert len(list((tmp_path / "goals").iterdir())) == 3  # one picture an episode, for both runs
    header = json.loads((tmp_path / "text/episodes.jsonl").read_text().splitlines()[0])
    assert "goal" not in header["evaluation"]  # so that logs of before go on
    with pytest.raises(ValueError, match=r"is of goal=image, this evaluation has both"):
        evaluate(policy, toy, tmp_path / "image", "goal=both")


def test_pictures_out_of_a_store(toy: str, save: Save, tmp_path: Path) -> None:
    store = tmp_path / "demos.zarr"
    fields = {"state": SEEN.state, "action": SEEN.action, "image/front": SEEN.images["front"]}
    with EpisodeStore.create(store, fields, rate_hz=TOY.rate_hz) as demos:
        for episode in range(2):
            grey = np.arange(5, dtype=np.uint8) + 10 * episode
            demos.append(
                {
                    "state": np.zeros((5, 2), np.float32),
                    "action": np.zeros((5, 1), np.float32),
                    "image/front": np.tile(grey[:, None, None, None], (1, SIDE, SIDE, 3)),
                },
                [Segment(start=0, end=4, instruction=text) for text in ("add up", "b")],
            )
    policy = save()
    result = evaluate(policy, toy, tmp_path / "out", "goal=image", f"goal_store={store}")
    assert result["policy"].endswith("goal=image from demos.zarr")
    assert result["about"]["goal_store"] == [str(store), 10]
    goals = StoreGoals(store, ["toy/sum"], SEEN.images)
    ends = [int(goals.pictures("toy/sum", number)["front"][0, 0, 0]) for number in (0, 1, 2)]
    assert ends == [3, 13, 3]  # the last step of each segment, in turn
    with pytest.raises(ValueError, match=r"no camera 'frontt', only front; did you mean front"):
        StoreGoals(store, ["toy/sum"], {"frontt": SEEN.images["front"]})
    with pytest.raises(ValueError, match=r"pictures of front are \(24, 24, 3\), the policy takes"):
        StoreGoals(store, ["toy/sum"], {"front": ArraySpec(shape=(8, 8, 3), dtype="uint8")})
    with pytest.raises(ValueError, match=r"no labelled step of task metaworld/reach-v3; collect"):
        StoreGoals(store, ["toy/sum", "metaworld/reach-v3"], SEEN.images)


def test_goals_that_a_policy_does_not_take_are_refused(
    toy: str, save: Save, tmp_path: Path
) -> None:
    told, shown = save(images=False), save(text=False)
    for goal in ("image", "both"):
        with pytest.raises(ValueError, match=rf"^goal={goal}: .* goals by sentences, not by pict"):
            evaluate(told, toy, tmp_path / "out", f"goal={goal}")
    for goal in ("text", "both"):
        with pytest.raises(ValueError, match=rf"^goal={goal}: .* by pictures of front, not by sen"):
            evaluate(shown, toy, tmp_path / "out", f"goal={goal}")
    assert evaluate(shown, toy, tmp_path / "shown", "goal=image")["complete"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["goal=image"], "the scripted experts read the simulator and take no goal"),
        (["goal_store=a.zarr"], "gives pictures, and goal=text asks for none; add goal=image"),
        (["goal_store=' '"], "goal_store=' ' is blank"),
    ],
)
def test_keys_that_do_not_go_together(
    toy: str, tmp_path: Path, given: list[str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate("expert", toy, tmp_path / "out", *given)
