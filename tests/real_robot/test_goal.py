"""`control-daemon goal.image=CAMERA:FILE`: what is read, what is refused before anything moves."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from telic.configs.launch import compose
from telic.control import ControlConfig, run
from telic.envs import registry
from telic.envs.rendering import choose_backend
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.policy import Policy
from telic.real_robot.goal import ControlGoal, in_words, require_goal
from telic.spec import Array, ArraySpec, FieldStats, GoalKinds, Interface

SIDE = 24
CAMERAS = ("corner2", "gripperPOV")
PICTURE = ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8")
SENTENCE = "open the drawer"


def picture(side: int = SIDE, grey: int = 7) -> Array:
    return np.full((side, side, 3), grey, np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    imageio.imwrite(tmp_path / "goal.png", picture())
    imageio.imwrite(tmp_path / "large.png", picture(2 * SIDE))
    np.save(tmp_path / "goal.npy", picture(grey=9))
    np.save(tmp_path / "floats.npy", picture().astype(np.float32))
    (tmp_path / "torn.png").write_bytes((tmp_path / "goal.png").read_bytes()[:20])
    return tmp_path


def test_pictures_are_read_from_files_camera_by_camera(files: Path) -> None:
    words = [f"goal.image=front:{files}/goal.png", f"goal.image=side:{files}/goal.npy"]
    goal = compose(ControlConfig, "control", ["checkpoint=c", *words, "goal=what's up"]).goal
    assert goal.text == "what's up"
    read = goal.pictures()
    assert list(read) == ["front", "side"]
    assert np.array_equal(read["front"], picture()) and np.array_equal(
        read["side"], picture(grey=9)
    )
    at_once = compose(ControlConfig, "control", ["checkpoint=c", "goal.image=[front:a,side:b]"])
    assert at_once.goal.image == ["front:a", "side:b"]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("front:nowhere.png", r"front:\S*nowhere.png: there is no such file"),
        ("front:torn.png", r"front:\S*torn.png: cannot be read as a picture"),
        ("front:floats.npy", r"front:\S*floats.npy: dtype is float32, expected uint8"),
    ],
)
def test_what_is_no_picture_is_refused(files: Path, entry: str, complaint: str) -> None:
    camera, file = entry.split(":")
    with pytest.raises(ValueError, match=f"^goal.image={complaint}") as refused:
        ControlGoal(image=[f"{camera}:{files / file}"]).pictures()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (["front"], "goal.image=front must be CAMERA:FILE, such as"),
        ([":goal.png"], "must be CAMERA:FILE"),
        (["front:a.png", "front:b.png"], "goal.image=front: is given twice"),
    ],
)
def test_entries_that_are_none(images: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ControlGoal(image=images)


def told(**kinds: Any) -> dict[str, Any]:
    """Return what a policy's worker says of it."""
    seen = Interface(
        state=ArraySpec(shape=(2,)),
        action=ArraySpec(shape=(1,)),
        rate_hz=20.0,
        images=dict.fromkeys(("front", "side"), PICTURE),
    )
    return {"interface": seen.to_json(), "goals": asdict(GoalKinds(**kinds))}


def test_a_goal_must_be_one_that_the_policy_takes() -> None:
    both, one = told(cameras=("front",)), {"front": picture()}
    for text, images in ((None, one), (SENTENCE, one), (SENTENCE, {}), (None, {})):
        require_goal(both, "it", text, images)
    refused: list[tuple[dict[str, Any], str | None, dict[str, Array], str]] = [
        (told(), None, one, "goal.image: it was trained on goals by sentences, not by pictures"),
        (told(text=False, cameras=("front",)), SENTENCE, one, "goal: it .*, not by sentences"),
        (told(text=False, cameras=("front",)), None, {}, "not by sentences; give goal.image=front"),
        (both, None, {"frnt": picture()}, "goal.image=frnt: .* front; did you mean front"),
        (both, None, {"side": picture()}, "goal.image=side: it takes pictures of goals from front"),
        (told(cameras=("front", "side")), None, one, "give goal.image=side:FILE too"),
        (
            both,
            None,
            {"front": picture(9)},
            r"=front: shape is \(9, 9, 3\), expected \(24, 24, 3\)",
        ),
    ]
    for policy, text, images, complaint in refused:
        with pytest.raises(ValueError, match=complaint):
            require_goal(policy, "it", text, images)
    assert in_words(SENTENCE, one) == "open the drawer, picture of front"
    assert in_words(None, one) == "picture of front"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a tiny policy of two cameras that takes sentences and pictures of one of them."""
    env = registry.make("drawer-open-v3")
    interface = Interface(
        state=env.interface.state,
        action=env.interface.action,
        rate_hz=env.interface.rate_hz,
        images=dict.fromkeys(CAMERAS, PICTURE),
    )
    zeros, ones = np.zeros(39), np.ones(39)
    stats = FieldStats(
        minimum=zeros, maximum=ones, mean=zeros, std=ones, q01=zeros, q99=ones, count=2
    )
    tower = {"tower": "keypoint_conv", "pooling": Pooling.keypoints, "random_shift": 0}
    config = PolicyConfig(
        denoiser=ModeConfig(width=16, num_layers=1, num_heads=2, feed_forward=16),
        images=ImageConfig(**tower),
        goal=GoalConfig(images=True, image=ImageConfig(cameras=[CAMERAS[0]], **tower)),
    )
    policy = Policy(config, interface, {"state": stats})
    policy.set_embeddings({SENTENCE: np.ones(384, np.float32)})
    path = tmp_path_factory.mktemp("goal") / "checkpoint"
    save_checkpoint(path, policy)
    return str(path)


def control(checkpoint: str, *words: str) -> dict[str, Any]:
    given = [f"checkpoint={checkpoint}", "task=drawer-open-v3", "sampling=1", "out=null"]
    return run(compose(ControlConfig, "control", [*given, "duration_s=1", *words]))


def test_another_size_is_refused_before_the_robot_is_touched(
    checkpoint: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")  # a scene made would complain of it
    with pytest.raises(ValueError, match=r"^goal.image=corner2: shape is \(48, 48, 3\), expected"):
        control(checkpoint, f"goal.image=corner2:{files}/large.png", f"goal={SENTENCE}")


@pytest.mark.skipif(choose_backend() is None, reason="nothing to draw pictures with")
def test_a_picture_and_a_sentence_at_once(
    checkpoint: str, files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"goal.image=corner2:{files}/goal.png", f"goal={SENTENCE}"]
    summary = control(checkpoint, *words)
    assert summary["ended"]["cause"] == "time is up"
    assert summary["chunks"]["used"] > 0
    assert "goal: open the drawer, picture of corner2" in capfd.readouterr().err
    assert summary["config"]["goal"] == {
        "text": SENTENCE,
        "image": [f"corner2:{files}/goal.png"],
    }
