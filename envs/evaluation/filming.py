"""Films of some episodes of an evaluation, which are run again before a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from rich.console import Console

from telic.envs.evaluation.outputs import Outputs
from telic.envs.evaluation.results import Evaluation
from telic.envs.rendering import require_rendering
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult

STDERR = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def can_film(out: str) -> bool:
    """Return whether pictures can be drawn here; if not, say why: the figures stand without."""
    try:
        require_rendering()
    except ValueError as error:
        STDERR.print(f"{out}: no videos: {error}")
        return False
    return True


def film(
    evaluation: Evaluation,
    per_task: int,
    outputs: Outputs,
    run: Callable[[list[EpisodeJob]], Iterable[EpisodeResult]],
) -> dict[str, list[str]]:
    """Have `run` run up to `per_task` episodes of each task again, failed ones first, filmed.

    Returns task -> paths of the films relative to the report; a name ends in what was filmed. They
    take the place of earlier films together, once all are there.
    """
    jobs = {(job.task, job.seed): job for job in evaluation.protocol.jobs()}
    paths: dict[str, list[str]] = {task: [] for task, _ in jobs}
    with outputs.films.writing() as folder:
        folder.mkdir()
        filmed = []
        for episode in _chosen(evaluation, list(paths), per_task):
            name = f"{episode.task.rpartition('/')[2]}_{episode.seed}.mp4"
            filmed.append(replace(jobs[episode.task, episode.seed], video=folder / name))
        for result in run(filmed):
            if (why := result.crashed or result.film_failure) is not None:
                STDERR.print(f"{result.task}, seed {result.seed}: no film: {why}")
            if result.video is not None:
                outcome = "success" if result.success else "failure"
                named = result.video.with_stem(f"{result.video.stem}_{outcome}")
                result.video.rename(named)
                paths[result.task].append(f"{outputs.films.path.name}/{named.name}")
    return {task: sorted(films) for task, films in paths.items() if films}


def _chosen(evaluation: Evaluation, tasks: list[str], per_task: int) -> list[EpisodeResult]:
    chosen = []
    for task in tasks:
        finished = [e for e in evaluation.episodes if e.task == task and e.crashed is None]
        finished.sort(key=lambda episode: episode.success)
        chosen += finished[:per_task]
    return chosen
