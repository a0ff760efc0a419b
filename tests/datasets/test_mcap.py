"""MCAP recordings: topics are laid on a grid, ROS 2 and JSON are decoded, damage is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.mcap_recordings import import_mcap, write_small
from telic.datasets.store import EpisodeStore

writers = pytest.importorskip("mcap.writer", reason="mcap is not installed")
KEYS: dict[str, Any] = {"state_keys": ["/arm.q"], "action_keys": ["/command.target"]}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return nine steps of /arm at 20 Hz and /command at 10 Hz."""
    write_small(tmp_path / "a.mcap", 9)
    return tmp_path / "a.mcap"


def test_topics_are_laid_on_a_grid(recording: Path, tmp_path: Path) -> None:
    assert import_mcap(recording, tmp_path / "a.zarr", ImportOptions(rate_hz=20, **KEYS)) == 1
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.read("state", 0, 9)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert store.read("action", 0, 9)[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8]
    import_mcap(recording, tmp_path / "b.zarr", ImportOptions(rate_hz=10, **KEYS))
    assert EpisodeStore.open(tmp_path / "b.zarr").read("state", 0, 5)[:, 0].tolist() == [
        *(0, 2, 4, 6, 8)
    ]


def test_pictures_of_json_become_cameras(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 30)).save(buffer, "PNG")
    raw = np.full((4, 20), 7, np.uint8)  # two bytes of padding in each row
    raw[:, :18] = np.tile(np.array([1, 2, 3], np.uint8), (4, 6))
    messages = {
        "/camera/front/compressed": (
            "foxglove.CompressedImage",
            {"format": "png", "data": base64.b64encode(buffer.getvalue()).decode()},
        ),
        "/camera/wrist": (
            "foxglove.RawImage",
            {
                "encoding": "bgr8",
                "height": 4,
                "width": 6,
                "step": 20,
                "data": base64.b64encode(raw.tobytes()).decode(),
            },
        ),
        "/arm": ("x", {"q": [1.0], "grip": {"width": 0.04}}),
    }
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = writers.Writer(file)
        writer.start(profile="", library="test")
        for topic, (name, content) in messages.items():
            schema = writer.register_schema(name, "jsonschema", b"{}")
            channel = writer.register_channel(topic, "json", schema)
            for step in range(3):
                data = json.dumps(content).encode()
                at = step * 100_000_000
                writer.add_message(channel, log_time=at, publish_time=at, data=data)
        writer.finish()
    options = ImportOptions(rate_hz=10, state_keys=["/arm.q", "/arm.grip.width"])
    options.action_keys = ["/arm.q"]
    import_mcap(tmp_path / "a.mcap", tmp_path / "a.zarr", options)
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.read("image/front", 0, 1)[0, 0, 0].tolist() == [200, 10, 30]
    assert store.read("image/wrist", 2, 3)[0, 3, 5].tolist() == [3, 2, 1]
    np.testing.assert_allclose(store.read("state", 1, 2), [[1.0, 0.04]], rtol=1e-6)


def test_joint_states_of_ros_2_are_read(tmp_path: Path) -> None:
    ros = pytest.importorskip("mcap_ros2.writer", reason="mcap-ros2-support is not installed")
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = ros.Writer(file)
        schema = writer.register_msgdef("test_msgs/msg/Joints", "string name\nfloat64[] position")
        for step in range(4):
            content = {"name": "arm", "position": [step / 2, 1.0]}
            writer.write_message("/joint_states", schema, content, log_time=step * 100_000_000)
        writer.finish()
    keys = ["/joint_states.position"]
    options = ImportOptions(rate_hz=10, state_keys=keys, action_keys=keys)
    import_mcap(tmp_path / "a.mcap", tmp_path / "a.zarr", options)
    state = EpisodeStore.open(tmp_path / "a.zarr").read("state", 0, 4)
    assert state.tolist() == [[0, 1], [0.5, 1], [1, 1], [1.5, 1]]


def test_what_is_damaged_or_unsaid_is_refused(recording: Path, tmp_path: Path) -> None:
    whole = recording.read_bytes()
    for content, options, says in (
        (whole, ImportOptions(**KEYS), "topics have rates of their own; pass --rate-hz"),
        (whole, ImportOptions(rate_hz=20), "pass --state-keys, such as TOPIC.field, of the topics"),
        (whole, ImportOptions(rate_hz=20, **{**KEYS, "state_keys": ["/amr.q"]}), "mean /arm"),
        (whole, ImportOptions(rate_hz=20, **{**KEYS, "state_keys": ["/arm.x"]}), "is not there"),
        (whole, ImportOptions(rate_hz=200, **KEYS), "is silent for .* s, 5 steps"),
        (whole[:200], ImportOptions(rate_hz=20, **KEYS), "not readable as MCAP|no summary"),
        (
            whole[:150] + b"\0\0\0\0" + whole[154:],
            ImportOptions(rate_hz=20, **KEYS),
            "not readable as MCAP",
        ),
    ):
        recording.write_bytes(content)
        with pytest.raises(ValueError, match=says) as refused:
            import_mcap(recording, tmp_path / "a.zarr", options)
        assert len(str(refused.value).splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]
