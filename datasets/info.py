"""What `demo-store info` shows of a store: size, times, every entry of every field, language."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from telic.datasets.statistics import is_image
from telic.datasets.store import EpisodeStore
from telic.spec import Array, ArraySpec, FieldStats

STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
_ABOUT = ("robot", "task_family", "licence", "source")


def store_info(store: EpisodeStore) -> dict[str, Any]:
    """Everything that `info` shows, as JSON data; a number that is not finite is null."""
    lengths = np.diff(store.episode_ends, prepend=0)
    stats = store.stats
    plain = {name: spec for name, spec in store.fields.items() if not is_image(spec)}
    images = {name: spec for name, spec in store.fields.items() if is_image(spec)}
    return {
        "path": str(store.path),
        **{key: str(store.attrs.get(key, "")) for key in _ABOUT},
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "steps_per_episode": _range(lengths),
        "bytes_on_disk": _bytes(store),
        "time": _times(store, lengths),
        "segments": len(store.segment_table),
        "sentences": len(store.instructions),
        "encoders": store.encoders,
        "fields": [_field(name, spec, stats.get(name)) for name, spec in plain.items()],
        "images": [_image(name, spec, stats.get(name)) for name, spec in images.items()],
        "tasks": list(_tasks(store)),
    }


def _range(values: Array) -> dict[str, float | None]:
    if not len(values):
        return {"min": None, "mean": None, "max": None}
    return {"min": values.min().item(), "mean": values.mean().item(), "max": values.max().item()}


def _bytes(store: EpisodeStore) -> int:
    return sum(path.stat().st_blocks * 512 for path in store.path.rglob("*") if path.is_file())


def _times(store: EpisodeStore, lengths: Array) -> dict[str, Any]:
    """Rate and seconds as stated by the store, and as its time stamps say where it has them."""
    seconds = lengths / store.rate_hz
    times: dict[str, Any] = {
        "rate_hz": store.rate_hz,
        "seconds": float(seconds.sum()),
        "seconds_per_episode": _range(seconds),
    }
    if "timestamp_ns" not in store.fields or store.num_steps == len(lengths):
        return times
    stamps_s = store.read("timestamp_ns", 0, store.num_steps) / 1e9
    periods_s = np.diff(stamps_s)
    in_episode = np.ones(len(periods_s), bool)
    in_episode[store.episode_ends[:-1] - 1] = (
        False  # from one episode's end to the next one's begin
    )
    periods_s = periods_s[in_episode]
    return times | {
        "measured_rate_hz": _finite(1 / float(periods_s.mean())) if periods_s.any() else None,
        "longest_period_s": float(periods_s.max()),
    }


def _field(name: str, spec: ArraySpec, stats: FieldStats | None) -> dict[str, Any]:
    meaning = {
        key: getattr(spec, key)
        for key in ("unit", "rotation", "gripper", "frame", "note")
        if getattr(spec, key)
    }
    return {
        "name": name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        **meaning,
        "entries": [] if stats is None else list(_entries(name, spec, stats)),
    }


def _entries(field: str, spec: ArraySpec, stats: FieldStats) -> Iterator[dict[str, Any]]:
    columns = (stats.minimum, stats.maximum, stats.mean, stats.std, stats.q01, stats.q99)
    count = len(stats.minimum)
    names = spec.names or ([field] if count == 1 else [str(index) for index in range(count)])
    for name, *values in zip(names, *columns, strict=True):
        yield {
            "name": name,
            **{key: _finite(value) for key, value in zip(STATISTICS, values, strict=True)},
            "constant": bool(values[0] == values[1]),
        }


def _image(name: str, spec: ArraySpec, stats: FieldStats | None) -> dict[str, Any]:
    """Camera, size and brightness: the mean over the channels, 0 is black and 255 is white."""
    height, width, channels = spec.shape
    description: dict[str, Any] = {
        "camera": name.removeprefix("image/"),
        "field": name,
        "height": height,
        "width": width,
        "channels": channels,
    }
    if stats is not None:
        columns = (stats.minimum, stats.maximum, stats.mean, stats.std, stats.q01, stats.q99)
        brightness = {k: _finite(v.mean()) for k, v in zip(STATISTICS, columns, strict=True)}
        constant = bool((stats.minimum == stats.maximum).all())
        description |= {"brightness": brightness, "constant": constant}
    return description


def _tasks(store: EpisodeStore) -> Iterator[dict[str, Any]]:
    segments, instructions = store.segment_table, store.instructions
    for number, task in enumerate(store.tasks):
        own = segments[segments[:, 3] == number]
        sentences = np.unique(own[:, 2])
        yield {
            "task": task,
            "segments": len(own),
            "steps": int((own[:, 1] - own[:, 0]).sum()),
            "sentences": len(sentences),
            "example": instructions[sentences[0]] if len(sentences) else "",
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def info_tables(info: dict[str, Any]) -> RenderableType:
    """The data of `store_info` as tables, readable in 80 to 100 columns."""
    parts: list[RenderableType] = [Text(info["path"], style="bold"), _summary(info)]
    for field in info["fields"]:
        if field["name"] != "timestamp_ns":  # the summary has rate and times
            parts += [_field_title(field), _entry_table(field)]
    if info["images"]:
        title = "\ncameras, with the brightness of their pixels (0 black, 255 white)"
        parts += [Text(title, style="bold"), _image_table(info["images"])]
    if info["tasks"]:
        parts += [Text("\ntasks", style="bold"), _task_table(info["tasks"])]
    return Group(*parts)


def _table(names: Sequence[str], right_aligned: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in names:
        table.add_column(column, overflow="fold")
    for column in right_aligned:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _summary(info: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    time, lengths = info["time"], info["steps_per_episode"]
    each = f" ({_span(lengths)} each)" if info["episodes"] else ""
    rows = {
        "episodes": str(info["episodes"]),
        "steps": f"{info['steps']}{each}",
        "time": _time_text(info) if info["episodes"] else f"{time['rate_hz']:g} Hz",
        "measured": _measured_text(time),
        "on disk": f"{info['bytes_on_disk'] / 2**20:.1f} MiB",
        "sentences": f"{info['sentences']} in {info['segments']} segments",
        "embeddings": ", ".join(info["encoders"]),
        **{key: info[key] for key in _ABOUT},
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(value))
    return table


def _time_text(info: dict[str, Any]) -> str:
    time, each = info["time"], info["time"]["seconds_per_episode"]
    minutes = time["seconds"] / 60
    total = f"{minutes:.1f} min" if minutes >= 1.5 else f"{time['seconds']:.3g} s"
    return f"{total} at {time['rate_hz']:g} Hz ({_span(each)} s each)"


def _measured_text(time: dict[str, Any]) -> str:
    measured = time.get("measured_rate_hz")
    if measured is None:
        return ""
    longest_ms = 1000 * time["longest_period_s"]
    return f"{measured:.4g} Hz by timestamp_ns, longest period {longest_ms:.4g} ms"


def _span(extent: dict[str, Any]) -> str:
    low, high = f"{extent['min']:.4g}", f"{extent['max']:.4g}"
    return low if low == high else f"{low} to {high}"


def _field_title(field: dict[str, Any]) -> Text:
    shape = "x".join(map(str, field["shape"])) or "1"
    parts = [f"{field['dtype']} {shape}"]
    if not _one_unit(field) and field.get("unit"):
        parts.append(f"units {field['unit']}")
    parts += [f"{key} {field[key]}" for key in ("rotation", "gripper", "frame") if key in field]
    title = Text("\n").append(field["name"], style="bold").append(f": {', '.join(parts)}")
    return title.append(f"\n{field['note']}") if "note" in field else title


def _one_unit(field: dict[str, Any]) -> bool:
    """Whether the field's unit is that of each entry: a column has it then, else the title."""
    unit = field.get("unit", "")
    return bool(unit) and ";" not in unit


def _entry_table(field: dict[str, Any]) -> Table:
    """One row an entry."""
    some_constant = any(entry["constant"] for entry in field["entries"])
    marks = ("",) if some_constant else ()
    names = ("entry", "unit") if _one_unit(field) else ("entry",)
    table = _table(names, (*STATISTICS, *marks))
    for entry in field["entries"]:
        row = [entry["name"], field.get("unit", "")][: len(names)]
        row += [_number(entry[key]) for key in STATISTICS]
        row += ["constant" if entry["constant"] else ""] * len(marks)
        table.add_row(*map(Text, row))
    return table


def _image_table(images: list[dict[str, Any]]) -> Table:
    table = _table(("camera", "type"), (*STATISTICS, ""))
    for image in images:
        kind = f"uint8 {image['height']}x{image['width']}x{image['channels']}"
        brightness = image.get("brightness", {})
        row = [image["camera"], kind, *(_number(brightness.get(key)) for key in STATISTICS)]
        table.add_row(*map(Text, [*row, "constant" if image.get("constant") else ""]))
    return table


def _task_table(tasks: list[dict[str, Any]]) -> Table:
    table = _table(("task", "for example"), ("segments", "steps", "sentences"))
    for task in tasks:
        counts = (str(task[key]) for key in ("segments", "steps", "sentences"))
        table.add_row(Text(task["task"] or "(none)"), Text(task["example"]), *counts)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
