"""The files that an evaluation leaves in its folder: how each is known again, and may be replaced.

All but the list of episodes carry a mark of ours, so that nobody else's results.json, report.md,
success.png or videos/ is taken for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from telic.envs.rollout.video import FILMS
from telic.replacement import Kind, Replacement

FORMAT = "telic-evaluation 1"  # of results.json
MARK = "telic-evaluation"  # in results.json and the plot
FIGURE = "![Success per task with 95 % intervals](success.png)"  # a line of the report
_HEAD = 1 << 16  # bytes from a file's start in which its mark is


def is_episodes(path: Path) -> bool:
    """Return whether the list of an evaluation's episodes stands at `path`, or an empty file.

    One of its first two lines may be damaged.
    """
    lines = _head(path).splitlines()[:2]
    result = b'"first_success_step": '
    is_evaluation = (line.startswith(b'{"evaluation": ') or result in line for line in lines)
    return path.is_file() and (any(is_evaluation) or not path.stat().st_size)


def is_results(path: Path) -> bool:
    """Return whether the results.json of an evaluation stands at `path`, of any version."""
    return b'"format": "' + MARK.encode() in _head(path)


def is_report(path: Path) -> bool:
    """Return whether the report of an evaluation stands at `path`."""
    return FIGURE.encode() in _head(path)


def is_plot(path: Path) -> bool:
    """Return whether the plot of an evaluation stands at `path`."""
    return MARK.encode() in _head(path)


EPISODES = Kind("the list of an evaluation's episodes", is_episodes)
RESULTS = Kind("the results of an evaluation", is_results)
REPORT = Kind("the report of an evaluation", is_report)
PLOT = Kind("the plot of an evaluation", is_plot)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What is made of an evaluation's episodes, in `folder`; see `Replacement` for the others."""

    folder: Path
    overwrite: bool = False
    sources: Sequence[Path | str] = ()

    def require(self, films: bool = True) -> None:
        """Raise ValueError unless all of them, `films` only if asked for, may be written."""
        for output in (self.results, self.report, self.plot, *([self.films] if films else [])):
            output.require()

    @property
    def results(self) -> Replacement:
        """results.json."""
        return self._output("results.json", RESULTS)

    @property
    def report(self) -> Replacement:
        """report.md."""
        return self._output("report.md", REPORT)

    @property
    def plot(self) -> Replacement:
        """success.png, which the report shows."""
        return self._output("success.png", PLOT)

    @property
    def films(self) -> Replacement:
        """videos/, a folder."""
        return self._output("videos", FILMS)

    def _output(self, name: str, kind: Kind) -> Replacement:
        return Replacement(self.folder / name, kind, overwrite=self.overwrite, sources=self.sources)


def _head(path: Path) -> bytes:
    """Return the first bytes of the file at `path`; none where there is no file to read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
