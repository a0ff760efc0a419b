"""Which steps of a store are windows: spans of steps covered by the same segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.spec import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """S spans, in order, none of them across an episode's end. Steps count over the whole store.

    start, stop: i64 [S]; episode: i64 [S]; first_label i64 [S + 1]: the instruction ids of span i
    are labels[first_label[i] : first_label[i + 1]], one for each segment that covers it, and
    label_stop, as long as labels, has the steps at which those segments end.
    """

    start: Array
    stop: Array
    episode: Array
    first_label: Array
    labels: Array
    label_stop: Array

    @property
    def lengths(self) -> Array:
        """Steps of each span, i64 [S]."""
        return self.stop - self.start


def find_spans(
    store: EpisodeStore,
    episodes: Array | None,
    labelled_only: bool,
    speaking: Array | None = None,
) -> Spans:
    """Return the spans of the given episodes (None: all); `labelled_only` drops bare ones.

    speaking: bool, one for each episode of the store; the labels of others count as absent.
    """
    ends, table = store.episode_ends, store.segment_table
    known = len(store.instructions)
    if len(table) and not (table[:, 2].min() >= 0 and table[:, 2].max() < known):
        raise ValueError(
            f"{store.path}: a segment's instruction is missing; run demo-store validate"
        )
    if speaking is not None:
        table = table[speaking[np.searchsorted(ends, table[:, 0], side="right")]]
    covers = np.clip(table[:, :2], 0, store.num_steps)
    bounds = np.unique(np.concatenate([[0], ends, covers.reshape(-1)]))
    start, stop = bounds[:-1], bounds[1:]
    episode = np.searchsorted(ends, start, side="right")
    first = np.searchsorted(bounds, covers[:, 0])  # segment s covers spans first[s] : last[s]
    covered = np.maximum(np.searchsorted(bounds, covers[:, 1]) - first, 0)
    segment = np.repeat(np.arange(len(table)), covered)
    span = np.arange(covered.sum()) - np.repeat(covered.cumsum() - covered, covered)
    span += first[segment]
    order = np.argsort(span, kind="stable")
    count = np.bincount(span, minlength=len(start))
    keep = np.ones(len(start), bool) if episodes is None else np.isin(episode, episodes)
    if labelled_only:
        keep &= count > 0
    kept_labels = np.repeat(keep, count)
    return Spans(
        start=start[keep],
        stop=stop[keep],
        episode=episode[keep],
        first_label=np.concatenate([[0], count[keep].cumsum()]),
        labels=table[segment[order], 2][kept_labels],
        label_stop=covers[segment[order], 1][kept_labels],
    )
