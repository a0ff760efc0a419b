"""How far an evaluation is, while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console

from telic.envs.evaluation.results import Evaluation
from telic.envs.rollout.rollout import EpisodeResult
from telic.progress_bar import progress_bar

SAY_EVERY_S = 15.0
STDERR = Console(stderr=True, markup=False)


def with_progress(
    results: Iterator[EpisodeResult], evaluation: Evaluation
) -> Iterator[EpisodeResult]:
    """Yield `results`, showing how far the evaluation is: a bar, or a line now and then."""
    total, printed_s = evaluation.protocol.num_episodes, time.monotonic()
    what = evaluation.protocol.what
    with progress_bar("evaluate", STDERR) as bar:
        bar_task = bar.add_task("", total=total, completed=len(evaluation.episodes))
        for result in results:
            yield result
            text = evaluation.progress()
            bar.update(bar_task, completed=len(evaluation.episodes), description=text)
            if bar.disable and time.monotonic() - printed_s > SAY_EVERY_S:
                printed_s = time.monotonic()
                STDERR.print(f"{len(evaluation.episodes)}/{total} {what}, {text}")
