"""Pictures of a camera that look wrong: still, upside down, or with red for blue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from telic.datasets.statistics import evenly_spaced
from telic.datasets.store_reader import StoreReader
from telic.spec import Array

RUN = 24  # consecutive frames that are looked at for stillness
FRAMES = 4  # of an episode, for its mean picture
STILL = 0.5  # share of frames that may be like the one before
_SIZE = 32  # pixels of the mean pictures that are compared
_MORE_ALIKE = 0.15  # by how much a turned picture must be more like the others


def suspicions(store: StoreReader, name: str, episodes: list[int]) -> Iterator[str]:
    """Yield what looks wrong with the pictures of a field in the episodes."""
    yield from _of_stillness(store, name, episodes)
    means = np.stack([_mean_picture(store, name, index) for index in episodes])
    red, blue = means[..., 0].mean(), means[..., 2].mean()
    if blue > 1.5 * red and blue > 40:
        yield (
            f"{name} is far more blue ({blue:.0f}) than red ({red:.0f}); are its channels BGR? "
            "import it with --colours bgr"
        )
    if len(episodes) >= 4:
        yield from _of_odd_ones(name, means, episodes)


def _of_stillness(store: StoreReader, name: str, episodes: list[int]) -> Iterator[str]:
    same = num_pairs = 0
    for index in episodes[:4]:
        episode = store.episode(index)
        stop = min(episode.stop, episode.start + RUN)
        frames = store.read(name, episode.start, stop)
        same += sum(np.array_equal(a, b) for a, b in zip(frames[1:], frames[:-1], strict=True))
        num_pairs += max(len(frames) - 1, 0)
    if num_pairs >= RUN // 2 and same > STILL * num_pairs:
        yield (
            f"{name}: {same} of {num_pairs} frames are like the one before; is the camera slower "
            "than the steps, or frozen?"
        )


def _of_odd_ones(name: str, means: Array, episodes: list[int]) -> Iterator[str]:
    """Find episodes that fit the others better when they are turned, or recoloured."""
    others = np.median(means, 0)
    turns = {
        "upside down": lambda picture: picture[::-1],
        "turned by 180 degrees": lambda picture: picture[::-1, ::-1],
        "mirrored": lambda picture: picture[:, ::-1],
        "with red for blue": lambda picture: picture[..., ::-1],
    }
    for index, mean in zip(episodes, means, strict=True):
        plain = _alike(mean, others)
        fits = {what: _alike(turn(mean), others) for what, turn in turns.items()}
        what = max(fits, key=lambda key: fits[key])
        if fits[what] > 0.6 and fits[what] - plain > _MORE_ALIKE:
            yield f"{name} of episode {index} looks {what} against the other episodes"


def _mean_picture(store: StoreReader, name: str, index: int) -> Array:
    """The mean of some frames of an episode, at most 32 x 32, f64 [h w 3]."""
    episode = store.episode(index)
    rows = episode.start + evenly_spaced(len(episode), FRAMES)
    frames = store.array(name).gather(rows)
    height, width = frames.shape[1:3]
    ys, xs = evenly_spaced(height, _SIZE), evenly_spaced(width, _SIZE)
    return np.asarray(frames[:, ys][:, :, xs].astype(np.float64).mean(0))


def _alike(one: Array, other: Array) -> float:
    """Correlation of two pictures, each channel less the mean of all."""
    a, b = (one - one.mean()).reshape(-1), (other - other.mean()).reshape(-1)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 1e-9 else 0.0
