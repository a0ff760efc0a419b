"""MCAP recordings and rosbag2 folders of them to a store: one file an episode.

Messages are JSON, or ROS 2's CDR. Each topic has its own times, so a grid of `--rate-hz` is laid
over the file: a step has the newest message of every topic at that time. Vectors are named by
topic and field, /joint_states.position; topics of pictures become cameras.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.formats.converter import ImportOptions, importer, optional
from telic.datasets.formats.into_store import (
    EpisodeData,
    Recordings,
    nominal_stamps,
    pixel_buffer,
    require_writable,
    spoken,
    write_store,
)
from telic.datasets.formats.mcap_messages import pixels as pixels_of
from telic.datasets.formats.mcap_messages import vector
from telic.spec import Array, ArraySpec, near_misses

MAGIC = b"\x89MCAP0\r\n"
LARGEST_CHUNK = 1 << 30  # bytes that a chunk of messages may unpack to
LONGEST_GAP = 5  # steps for which a topic may be silent
_COMPRESSED = ("sensor_msgs/msg/CompressedImage", "foxglove.CompressedImage")
_RAW = ("sensor_msgs/msg/Image", "foxglove.RawImage")
_GRID = ArraySpec(shape=(), dtype="int64", unit="ns", note="of the grid that messages were laid on")


def recording_files(path: Path) -> list[Path]:
    """The .mcap files at `path`, in the order of their names."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*.mcap") if p.is_file())


def is_mcap(path: Path) -> bool:
    """Return whether a recording, or a folder of recordings, stands at `path`."""
    try:
        files = recording_files(path)
        if not files:
            return False
        with files[0].open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def import_mcap(source: Path, target: Path, options: ImportOptions, overwrite: bool = False) -> int:
    """Write the recordings at `source` to a store and return their number."""
    require_writable(source, target, overwrite)
    return write_store(
        _McapReader(source, options).recordings(), source, target, options, overwrite
    )


class _McapReader:
    """Reads one file after another; all must have the topics of the first."""

    def __init__(self, source: Path, options: ImportOptions) -> None:
        missing = f"{source}: topics have rates of their own; pass --rate-hz for the steps"
        self.rate_hz = options.stated_rate_hz(missing)
        if not 0 < self.rate_hz < 1e6:
            raise ValueError(f"--rate-hz={self.rate_hz} must be more than 0")
        self.source, self.options = source, options
        self._decoders: dict[tuple[Path, int], Any] = {}
        self.files = recording_files(source)
        topics = self._topics(self.files[0])
        self.cameras = {t: _camera(t) for t, s in topics.items() if s in (*_COMPRESSED, *_RAW)}
        self.keys: dict[str, list[tuple[str, str]]] = {}
        for name, keys in (("state", options.state_keys), ("action", options.action_keys)):
            if not keys:
                vectors = [t for t in topics if t not in self.cameras]
                raise ValueError(
                    f"{source}: pass --{name}-keys, such as TOPIC.field, of the topics "
                    f"{', '.join(vectors) or 'none'}"
                )
            self.keys[name] = [_split(str(source), key, list(topics)) for key in keys]
        self.topics = [*self.cameras, *(t for keys in self.keys.values() for t, _ in keys)]

    def recordings(self) -> Recordings:
        """What a store of the recordings holds."""
        episode, _ = self.read(0)
        fields = {
            name: ArraySpec(shape=rows.shape[1:], dtype=str(rows.dtype))
            for name, rows in episode.items()
        }
        return Recordings(
            fields={**fields, "timestamp_ns": _GRID},
            rate_hz=self.rate_hz,
            num_episodes=len(self.files),
            read=self.read,
            files=self.files,
            about={"source": f"MCAP {self.source.name}"},
        )

    def read(self, index: int) -> EpisodeData:
        """All fields of a recording, on the grid."""
        path = self.files[index]
        times = self._grid(path)
        vectors: dict[str, list[Array]] = {name: [] for name in self.keys}
        pixels: dict[str, Array] = {}
        for step, newest in enumerate(self._steps(path, times)):
            where = f"{path} step {step}"
            for name, keys in self.keys.items():
                parts = [vector(f"{where}: {t}.{f}", newest[t][1], f) for t, f in keys]
                vectors[name].append(np.concatenate(parts))
                if len(vectors[name][-1]) != len(vectors[name][0]):
                    raise ValueError(
                        f"{where}: {name} has {len(vectors[name][-1])} entries, at first "
                        f"{len(vectors[name][0])}"
                    )
            for topic, camera in self.cameras.items():
                frame = pixels_of(f"{where}: {topic}", newest[topic][1])
                if camera not in pixels:
                    pixels[camera] = pixel_buffer(f"{path}: {topic}", (len(times), *frame.shape))
                if frame.shape != pixels[camera].shape[1:]:
                    raise ValueError(f"{where}: {topic} has another size, {frame.shape[:2]}")
                pixels[camera][step] = frame
        episode: dict[str, Array] = {n: np.stack(rows) for n, rows in vectors.items()}
        episode["timestamp_ns"] = nominal_stamps(len(times), self.rate_hz)
        return {**episode, **pixels}, spoken(self.options, len(times))

    def _grid(self, path: Path) -> Array:
        """Times of the steps, ns: from when every topic has spoken to when the first ends."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        with _opened(path) as reader:
            for _, channel, message in reader.iter_messages(topics=self.topics):
                first.setdefault(channel.topic, message.log_time)
                last[channel.topic] = message.log_time
        for topic in self.topics:
            if topic not in first:
                raise ValueError(f"{path}: has no message of {topic}")
        begin, end = max(first.values()), min(last.values())
        if begin > end:
            raise ValueError(f"{path}: its topics speak at no common time")
        count = int((end - begin) * 1e-9 * self.rate_hz + 1e-6) + 1
        return begin + nominal_stamps(count, self.rate_hz)

    def _steps(self, path: Path, times: Array) -> Iterator[dict[str, tuple[int, Any]]]:
        """The newest message of every topic, with its time, at each of the times."""
        newest: dict[str, tuple[int, Any]] = {}
        step = 0
        with _opened(path) as reader:
            for schema, channel, message in reader.iter_messages(topics=self.topics):
                while step < len(times) and message.log_time > times[step]:
                    yield self._decoded(path, newest, int(times[step]))
                    step += 1
                newest[channel.topic] = (message.log_time, (schema, channel, message))
        for time in times[step:].tolist():
            yield self._decoded(path, newest, time)

    def _decoded(
        self, path: Path, newest: dict[str, tuple[int, Any]], time: int
    ) -> dict[str, tuple[int, Any]]:
        for topic, (at, content) in newest.items():
            silent_s = (time - at) * 1e-9
            if silent_s * self.rate_hz > LONGEST_GAP:
                raise ValueError(
                    f"{path}: {topic} is silent for {silent_s:.3g} s, {LONGEST_GAP} steps are "
                    "bridged; cut the recording there, or lower --rate-hz"
                )
            if isinstance(content, tuple):  # once for each message that a step has
                newest[topic] = (at, self._decode(path, *content))
        return newest

    def _decode(self, path: Path, schema: Any, channel: Any, message: Any) -> Any:
        """A message as a dictionary or an object of fields."""
        where = f"{path}: {channel.topic}"
        if channel.message_encoding == "json":
            try:
                return json.loads(message.data)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: a message is not JSON ({_line(error)})") from error
        if channel.message_encoding != "cdr" or schema is None:
            raise ValueError(
                f"{where}: messages are encoded as {channel.message_encoding!r:.40}, read are "
                "json and cdr (ROS 2)"
            )
        library = optional("mcap_ros2.decoder", "mcap")
        try:
            if (path, schema.id) not in self._decoders:
                decode = library.DecoderFactory().decoder_for("cdr", schema)
                self._decoders[path, schema.id] = decode
            return self._decoders[path, schema.id](message.data)
        except Exception as error:  # of a description or bytes that do not fit each other
            raise ValueError(f"{where}: a message is not readable ({_line(error)})") from error

    def _topics(self, path: Path) -> dict[str, str]:
        """Names of the schemas by topic."""
        with _opened(path) as reader:
            summary = reader.get_summary()
            if summary is None or not summary.channels:
                raise ValueError(f"{path}: has no summary of its topics; was it cut off?")
            schemas = {i: schema.name for i, schema in summary.schemas.items()}
            return {c.topic: schemas.get(c.schema_id, "") for c in summary.channels.values()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A reader of the file; whatever is wrong with the file is one ValueError."""
    library = optional("mcap.reader", "mcap")
    try:
        with path.open("rb") as file:
            reader = library.make_reader(file, validate_crcs=True)
            summary = reader.get_summary()
            for chunk in summary.chunk_indexes if summary is not None else ():
                if chunk.uncompressed_size > LARGEST_CHUNK:
                    raise ValueError(f"{path}: a chunk unpacks to {chunk.uncompressed_size} bytes")
            yield reader
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not readable as MCAP ({_line(error)})") from error
    except Exception as error:  # the library and its codecs raise anything
        raise ValueError(f"{path}: not readable as MCAP ({_line(error)})") from error


def _camera(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    kept = [p for p in parts if p not in ("camera", "image_raw", "compressed", "image")] or parts
    return "image/" + "_".join("".join(c if c.isalnum() else "_" for c in p) for p in kept)


def _split(where: str, key: str, topics: Sequence[str]) -> tuple[str, str]:
    """Topic and field of TOPIC.field."""
    fitting = [t for t in topics if key == t or key.startswith(f"{t}.")]
    if not fitting:
        topic = key.partition(".")[0]
        raise ValueError(
            f"{where}: has no topic {topic!r}, only {', '.join(topics)}{near_misses(topic, topics)}"
        )
    topic = max(fitting, key=len)
    return topic, key[len(topic) + 1 :]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def write_small(path: Path, steps: int, seed: int = 0) -> None:
    """A recording of two topics of JSON at 20 and 10 Hz."""
    library = optional("mcap.writer", "mcap")
    with path.open("wb") as file:
        writer = library.Writer(file)
        writer.start(profile="", library="telic")
        schema = writer.register_schema("telic.Step", "jsonschema", b"{}")
        topics = [writer.register_channel(t, "json", schema) for t in ("/arm", "/command")]
        for step in range(steps):
            at = 10**18 + step * 50_000_000
            for number, topic in enumerate(topics[: 1 + (step % 2 == 0)]):
                values = {"q": [float(step), float(seed)], "target": [float(step), float(number)]}
                data = json.dumps(values).encode()
                writer.add_message(topic, log_time=at, publish_time=at, data=data)
        writer.finish()


def _small(folder: Path) -> Path:
    root = folder / "recordings"
    root.mkdir()
    for index in range(3):
        write_small(root / f"{index}.mcap", 9, index)
    return root


FROM = importer(
    "from MCAP recordings",
    is_mcap,
    import_mcap,
    _small,
    needs=("mcap",),
    arguments=(
        *("--rate-hz", "20", "--state-keys", "/arm.q", "--action-keys", "/command.target"),
        *("--instruction", "go on"),
    ),
)
