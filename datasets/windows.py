"""Windows: what a policy learns from at one step of a demonstration. numpy only."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from telic.datasets.features import FeatureRows
from telic.datasets.goals import Hindsight, TextGoal, WindowGoalConfig, steps_ahead, uniforms
from telic.datasets.rows import HeldRows
from telic.datasets.spans import find_spans
from telic.datasets.store import EpisodeStore
from telic.embodiment import Embodiment, Space, unified_interface
from telic.spec import Array, ArraySpec, near_misses


@dataclass(kw_only=True, slots=True)
class WindowConfig:
    """The shape of a window."""

    obs_horizon: int = 1  # O, steps
    action_horizon: int = 8  # H, steps
    goal: WindowGoalConfig = field(default_factory=WindowGoalConfig)
    cameras: list[str] | None = None  # None: all of the store's
    space: Space = Space.own  # unified: stores of different robots, each in its slots
    scene: bool = False  # windows have the field `scene` at their step
    future_steps: int = 0  # how far ahead the future frames lie (MDT: 3); 0: windows have none
    language_fraction: float = 1.0  # share of the episodes that keep their sentences
    memory_mb: int = 256  # fields of small rows are held in memory up to this, in each process

    def __post_init__(self) -> None:
        for name, least in (("obs_horizon", 1), ("action_horizon", 1), ("future_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"windows.{name}={getattr(self, name)} must be >= {least}")
        if not 0 <= self.language_fraction <= 1:  # NaN too
            raise ValueError(f"data.language_fraction={self.language_fraction} must lie in [0, 1]")
        silent = self.goal.text is TextGoal.optional and self.goal.hindsight is Hindsight.none
        if self.language_fraction < 1 and silent:
            raise ValueError(
                f"data.language_fraction={self.language_fraction} leaves windows without a "
                "goal; set data.goal.hindsight=uniform, or data.goal.text=required to do without "
                "them"
            )


class Windows:
    """All windows of one or more stores: one for each step, or each labelled step.

    What a sentence asks for ends with its segment. MDT and CALVIN draw labelled windows that lie in
    their segment whole (MDT: only from steps with 21 more left in it; CALVIN: shorter ones near its
    end, padded with the last action), and windows without a sentence anywhere in a recording. So
    here: the actions of a window with a sentence count up to the end of its segment, those of one
    without up to the end of its episode.

    `seed` decides the draws (goals, the sentence where several segments cover a step). Index i of
    epoch e is written e * len + i, which is what `BatchSampler` yields, so a draw depends on
    (seed, epoch, index) alone, in whatever process it is made. Picklable; a worker process opens
    the files itself. Works as a torch map-style dataset: `DataLoader(windows, batch_size=None,
    sampler=BatchSampler(...))` gives batches of tensors.
    """

    def __init__(
        self,
        stores: Sequence[EpisodeStore] | EpisodeStore,
        config: WindowConfig,
        episodes: Sequence[Array | Sequence[int] | int | None] | Array | None = None,
        seed: int = 0,
        video_only: Collection[int] = (),
    ) -> None:
        """`episodes` picks a subset: indices for one store, one such list (or None) for each of
        several stores. `video_only` numbers the stores whose actions, of any size or absent, are
        not used: there they are zero and `action_mask` is False. ValueError where stores do not
        agree, where no window is left, or none of a video-only store."""
        self.stores = [stores] if isinstance(stores, EpisodeStore) else list(stores)
        self.config = config
        self.seed = seed
        self._video_only = frozenset(video_only)
        acting = [s for number, s in enumerate(self.stores) if number not in self._video_only]
        if not acting:
            raise ValueError("windows need at least one episode store with actions")
        videos = [self.stores[number] for number in self._video_only]
        self._action_shape = acting[0].array("action").row_shape
        self._robots: list[Embodiment] = []
        if config.space is Space.unified:
            self._robots = _embodiments(self.stores, videos, acting[0].interface.action)
            self.cameras = _shared_cameras(self._robots, config.cameras)
        else:
            self.cameras = _common_cameras(acting, videos, config.cameras)
        self._features: Mapping[str, Sequence[FeatureRows]] = {}
        self._augment = False
        chosen = _episode_lists(self.stores, episodes)
        labelled_only = config.goal.text is TextGoal.required
        self._spans = [
            find_spans(store, subset, labelled_only, self._speaking(number))
            for number, (store, subset) in enumerate(zip(self.stores, chosen, strict=True))
        ]
        budget = config.memory_mb * 2**20 // len(self.stores)
        self._rows = [HeldRows(store, budget) for store in self.stores]
        self._sentences = [store.instructions for store in self.stores]
        lengths = np.concatenate([[0], *(spans.lengths for spans in self._spans)])
        self._first_index = lengths.cumsum()  # of each span, over all stores, and the total
        self._first_span = np.cumsum([0, *(len(spans.start) for spans in self._spans)])
        if not len(self):
            names = ", ".join(str(store.path) for store in self.stores)
            why = "empty"
            if labelled_only and any(store.num_steps for store in self.stores):
                why = "no labelled step: label them or set goal.text=optional"
                if config.language_fraction < 1:
                    why += f", or raise language_fraction={config.language_fraction}"
            raise ValueError(f"{names}: no window to learn from ({why})")
        for number in self._video_only:
            if not len(self._spans[number].start):
                raise ValueError(
                    f"{self.stores[number].path}: video only, but none of its steps is a window; "
                    "set goal.text=optional and goal.hindsight=uniform for videos without sentences"
                )

    def __len__(self) -> int:
        return int(self._first_index[-1])

    def labelled(self) -> Array:
        """Return the indices of the windows that carry a sentence, i64, rising."""
        counts = np.concatenate([np.diff(spans.first_label) for spans in self._spans])
        carries = np.repeat(counts > 0, np.diff(self._first_index))
        return np.flatnonzero(carries)

    def __getitem__(self, index: int | Array) -> dict[str, Any]:
        """Return one window without a batch axis, or the batch of an array of indices."""
        if np.ndim(index):
            return self.batch(np.asarray(index))
        return {name: values[0] for name, values in self.batch(np.array([index])).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch of the indices: what torch's DataLoader hands to `collate_fn`."""
        return self.batch(np.asarray(indices))

    def use_features(self, features: Mapping[str, Sequence[FeatureRows]], augment: bool) -> None:
        """Give features in place of pictures: "image/<camera>" or "goal_image/<camera>" -> those
        of each store. Crops are drawn by the seed, or are the first without `augment`."""
        self._features, self._augment = features, augment

    def without_pictures(self) -> Windows:
        """Return the same windows without their images."""
        blind = copy.copy(self)
        blind.cameras = []
        return blind

    def batch(self, indices: Array) -> dict[str, Any]:
        """Return the windows at `indices` [B], each field stacked.

        "state" f32 [B O P], "image/<camera>" u8 [B O h w 3]: the last O observations, the first of
        an episode repeated before it; "action" f32 [B H A] from the window's step on, the last
        repeated after the episode, or after the segment of its text, where "action_mask" bool [B H]
        is False; "text" list[str] ("": none); with hindsight "goal_state" f32 [B P],
        "goal_image/<camera>" u8 [B h w 3] and "goal_ahead" i64 [B], how many steps ahead; with
        `scene` "scene" f32 [B S]; with `future_steps` "future_image/<camera>" u8 [B h w 3], the
        frame so many steps ahead, or the episode's last; "store", "episode", "step" i64 [B]: where.
        In a video-only store actions are zero and the mask is False. Where `use_features` has those
        of a camera, there is "image_features/<camera>" f16 [B O ...] in place of its pictures, and
        "goal_image_features/<camera>" f16 [B ...]. In the unified space P and A are its 128 slots,
        and each sample says which of them are in use and how fast its robot is (`Embodiment.into`).
        """
        indices = np.asarray(indices, np.int64)
        epoch, index = np.divmod(indices, len(self))
        draws = [uniforms(self.seed, epoch, index, stream) for stream in (0, 1, 3, 4)]
        span = np.searchsorted(self._first_index, index, side="right") - 1
        store = np.searchsorted(self._first_span, span, side="right") - 1
        parts = []
        places = []
        for number in np.unique(store):
            chosen = np.flatnonzero(store == number)
            local = span[chosen] - self._first_span[number]
            offset = index[chosen] - self._first_index[span[chosen]]
            parts.append(self._of_store(int(number), local, offset, [d[chosen] for d in draws]))
            places.append(chosen)
        return parts[0] if len(parts) == 1 else _interleave(parts, np.concatenate(places))

    def _of_store(
        self, number: int, span: Array, offset: Array, draws: Sequence[Array]
    ) -> dict[str, Any]:
        """Return the batch of windows `offset` steps into the spans of one store."""
        spans, rows = self._spans[number], self._rows[number]
        ends = self.stores[number].episode_ends
        episode = spans.episode[span]
        step = spans.start[span] + offset
        first = np.where(episode > 0, ends[episode - 1], 0)
        last = ends[episode] - 1
        observed = step[:, None] + np.arange(1 - self.config.obs_horizon, 1)
        observed = np.maximum(observed, first[:, None])
        texts, text_stop = self._texts(number, span, draws[0])
        acted = step[:, None] + np.arange(self.config.action_horizon)
        acted_last = np.minimum(last, text_stop - 1)[:, None]
        if number in self._video_only:
            actions = np.zeros((*acted.shape, *self._action_shape), np.float32)
            known = np.zeros(acted.shape, bool)
        else:
            actions = rows.gather("action", np.minimum(acted, acted_last))
            known = acted <= acted_last
        batch: dict[str, Any] = {
            "state": rows.gather("state", observed),
            "action": actions,
            "action_mask": known,
            "text": texts,
            "store": np.full(len(span), number),
            "episode": episode,
            "step": step - first,
        }
        if self.config.scene:
            batch["scene"] = rows.gather("scene", step)
        for camera in self.cameras:
            batch |= self._pictures(number, "image", camera, observed, draws[2])
        if self.config.future_steps:
            future = np.minimum(step + self.config.future_steps, last)
            for camera in self.cameras:
                batch[f"future_image/{camera}"] = rows.gather(f"image/{camera}", future)
        goal = self.config.goal
        if goal.hindsight is not Hindsight.none:
            ahead = steps_ahead(goal, last - step, draws[1])
            batch["goal_ahead"] = ahead
            if goal.state:
                batch["goal_state"] = rows.gather("state", step + ahead)
            for camera in self.cameras if goal.images else ():
                batch |= self._pictures(number, "goal_image", camera, step + ahead, draws[3])
        return self._robots[number].into(batch) if self._robots else batch

    def _pictures(
        self, number: int, field: str, camera: str, steps: Array, uniform: Array
    ) -> dict[str, Array]:
        """Return a camera's pictures at the steps [B ...] of a store, or the features of them."""
        found = self._features.get(f"{field}/{camera}")
        if found is None:
            pictures = self._rows[number].gather(f"image/{camera}", steps)
            return {f"{field}/{camera}": pictures}
        features = found[number]
        crop = (uniform * features.crops * self._augment).astype(np.int64)
        return {f"{field}_features/{camera}": features.gather(steps, crop)}

    def _speaking(self, number: int) -> Array | None:
        """Return which episodes of a store keep their sentences, bool [N]; None: all do.

        A function of the seed, the store's number and the episode's: of two fractions, the larger
        one keeps what the smaller one keeps, and episodes added later change nothing.
        """
        fraction = self.config.language_fraction
        if fraction == 1:
            return None
        episode = np.arange(self.stores[number].num_episodes)
        kept: Array = uniforms(self.seed, np.full_like(episode, number), episode, 2) < fraction
        return kept

    def _texts(self, number: int, span: Array, uniform: Array) -> tuple[list[str], Array]:
        """Return a sentence of each span, drawn where several segments cover it, and the step at
        which its segment ends, i64 [B]; without a sentence beyond all steps."""
        spans, sentences = self._spans[number], self._sentences[number]
        endless = np.iinfo(np.int64).max
        if self.config.goal.text is TextGoal.none or not len(spans.labels):
            return [""] * len(span), np.full(len(span), endless)
        first = spans.first_label[span]
        count = spans.first_label[span + 1] - first
        pick = np.minimum(first + (uniform * count).astype(np.int64), len(spans.labels) - 1)
        texts = [
            sentences[label] if any_label else ""
            for label, any_label in zip(spans.labels[pick].tolist(), count > 0, strict=True)
        ]
        return texts, np.where(count > 0, spans.label_stop[pick], endless)


def split_episodes(store: EpisodeStore, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return the episodes (to train on, held out), i64 sorted; `fraction` of them is held out.

    At least one is, if fraction > 0 and there are two; at least one is left to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction is {fraction}, expected 0 <= fraction < 1")
    count = store.num_episodes
    held_out = min(max(round(fraction * count), int(fraction > 0)), max(count - 1, 0))
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _interleave(parts: Sequence[dict[str, Any]], places: Array) -> dict[str, Any]:
    """Return one batch of several, whose samples belong at `places`."""
    order = np.argsort(places)
    merged: dict[str, Any] = {}
    for name in parts[0]:
        if isinstance(parts[0][name], list):
            joined = [value for part in parts for value in part[name]]
            merged[name] = [joined[i] for i in order]
        else:
            merged[name] = np.concatenate([part[name] for part in parts])[order]
    return merged


def _common_cameras(
    acting: Sequence[EpisodeStore], videos: Sequence[EpisodeStore], asked: Sequence[str] | None
) -> list[str]:
    """Return the cameras windows carry; ValueError where the stores do not agree."""
    first = acting[0]
    offered = first.interface.images
    for camera in asked or ():
        if camera not in offered:
            raise ValueError(
                f"{first.path}: no camera {camera!r}, only {', '.join(offered) or 'none'}"
                f"{near_misses(camera, offered)}"
            )
    cameras = list(offered if asked is None else asked)
    needed = replace(first.interface, images={camera: offered[camera] for camera in cameras})
    for other in acting[1:]:
        needed.require(other.interface, f"store {first.path}", f"store {other.path}")
    for video in videos:
        offer = video.interface_as(needed.action)
        needed.require(offer, f"store {first.path}", f"store {video.path}")
    return cameras


def _embodiments(
    stores: Sequence[EpisodeStore], videos: Collection[EpisodeStore], action: ArraySpec
) -> list[Embodiment]:
    """Return the robot of each store; `action`: of those that have videos alone."""
    return [
        Embodiment.of(
            store.interface_as(action) if store in videos else store.interface, str(store.path)
        )
        for store in stores
    ]


def _shared_cameras(robots: Sequence[Embodiment], asked: Sequence[str] | None) -> list[str]:
    """Return the cameras that all robots have alike; ValueError for others that are asked for."""
    interfaces = {str(number): robot.interface for number, robot in enumerate(robots)}
    offered = unified_interface(interfaces).images
    for camera in asked or ():
        if camera not in offered:
            raise ValueError(
                f"data.cameras: no camera {camera!r} that all stores have alike, only "
                f"{', '.join(offered) or 'none'}{near_misses(camera, offered)}"
            )
    return list(offered if asked is None else asked)


def _episode_lists(
    stores: Sequence[EpisodeStore],
    episodes: Sequence[Array | Sequence[int] | int | None] | Array | None,
) -> list[Array | None]:
    """Return for each store the chosen episodes, or None for all of them."""
    if episodes is None:
        return [None] * len(stores)
    flat = len(stores) == 1 and (
        isinstance(episodes, np.ndarray) or all(isinstance(e, int | np.integer) for e in episodes)
    )
    listed: list[Any] = [episodes] if flat else list(episodes)
    if len(listed) != len(stores):
        raise ValueError(f"episodes are chosen for {len(listed)} stores, there are {len(stores)}")
    chosen: list[Array | None] = []
    for store, subset in zip(stores, listed, strict=True):
        kept = None if subset is None else np.asarray(subset, np.int64).reshape(-1)
        if kept is not None and ((kept < 0) | (kept >= store.num_episodes)).any():
            raise ValueError(
                f"{store.path}: episodes up to {kept.max()} chosen, it has {store.num_episodes}"
            )
        chosen.append(kept)
    return chosen
