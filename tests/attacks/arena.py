"""One attack at a time: a child process with limits, and what became of it.

A case is a function that yields `Step`s: what each way to use a damaged artefact came to. It runs
in a forked child with bounded memory and time, in an empty working folder, with an empty TMPDIR.
Afterwards nothing may be left: no process, no shared memory, no file beside the artefact.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

ADDRESS_SPACE = 4 << 30  # bytes a case may map beyond what its parent has
MEMORY = 512 << 20  # bytes a case may hold beyond what its parent has
SECONDS = 20.0  # that one step of a case may take
LONGEST_LINE = 2000
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 1 << 18
CACHES = ("pymp-",)  # what multiprocessing leaves in TMPDIR when it is killed

# What a step may come to. The first five are as promised.
EQUAL = "equal"  # the same as the original, in all it tells
REFUSED = "refused"  # one line of ValueError that names the place
FOUND = "found"  # `validate` says what is wrong
CLEAN = "clean"  # `validate` found nothing, a command had nothing to compare
OTHER = "other"  # other data than the original: right only where a digest was forged, or
# where a check that reads everything finds it
FAILURES = ("traceback", "lines", "vague", "hang", "memory", "killed", "changed", "left", "outside")


@dataclass(frozen=True, slots=True)
class Step:
    """What one way to use an artefact came to."""

    verb: str
    outcome: str
    text: str = ""
    ms: float = 0.0


@dataclass(slots=True)
class Result:
    """What became of one case."""

    attack: str
    case: int
    mutation: str = ""
    steps: list[Step] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what must not happen, a line each

    @property
    def survived(self) -> bool:
        """Whether all that happened is as promised."""
        return not self.wrong

    def outcomes(self) -> dict[str, str]:
        """Verb -> outcome."""
        return {step.verb: step.outcome for step in self.steps}


def attempt(verb: str, use: Callable[[], str], place: str) -> Step:
    """Return what `use` came to: the outcome that it returns, or how it failed.

    A ValueError must be one line in which `place` occurs.
    """
    began = time.perf_counter()

    def step(outcome: str, text: str = "") -> Step:
        return Step(verb, outcome, text[-2000:], (time.perf_counter() - began) * 1e3)

    printed = StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            outcome = use()
        return step(outcome, printed.getvalue())
    except ValueError as error:
        return step(*judge_line(str(error), place))
    except MemoryError:
        return step("memory", _last_lines())
    except BaseException:
        return step("traceback", _last_lines())


def judge_line(line: str, place: str) -> tuple[str, str]:
    """Return the outcome of an error message, and the message."""
    if len(line.strip().splitlines()) != 1 or len(line) > LONGEST_LINE:
        return "lines", f"{len(line.splitlines())} lines, {len(line)} characters: {line[:600]}"
    if place not in line:
        return "vague", f"does not name {place}: {line}"
    return REFUSED, line


def command(main: Callable[[list[str]], None], arguments: list[str], place: str) -> str:
    """Run a command's `main` and return its outcome: CLEAN for 0, FOUND for 1, ValueError for 2."""
    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(arguments)
        code: Any = 0
    except SystemExit as stop:
        code = stop.code or 0
    if code == 2:
        raise ValueError(err.getvalue().strip("\n"))
    if code not in (0, 1):
        raise RuntimeError(f"exit status {code}: {err.getvalue()[-500:]}")
    print(out.getvalue()[-800:])
    return CLEAN if code == 0 else FOUND


def run_case(
    attack: str,
    case: int,
    folder: Path,
    body: Callable[[Path], Iterator[Step | str]],
    limit: int | None = ADDRESS_SPACE,
    seconds: float = SECONDS,
) -> Result:
    """Run `body(folder)` in a child and return what became of it.

    A string that `body` yields says what it did to the artefact. `folder` is made, and removed
    unless something went wrong. The child maps at most `limit` bytes more than this process and
    may take `seconds` between two things that it yields.
    """
    become_subreaper()
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("work", "tmp", "artefact", "outside"):
        (folder / name).mkdir(parents=True)
    result = Result(attack, case)
    segments = shared_memory()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _live(folder, writing, body, limit)
    os.close(writing)
    timed_out = _collect(reading, child, result, seconds)
    _, status, usage = os.wait4(child, 0)
    left = reap()
    if timed_out:
        result.wrong.append(f"hang: nothing for {seconds:g} s after {_last_verb(result)}")
    elif os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status)).name
        result.wrong.append(f"killed: by {number} after {_last_verb(result)}")
    elif os.WEXITSTATUS(status):
        result.wrong.append(f"traceback: the case itself, after {_last_verb(result)}")
    held = usage.ru_maxrss * 1024 - resident()
    if limit is not None and held > MEMORY:
        result.wrong.append(f"memory: {held >> 20} MiB")
    if left:
        result.wrong.append(f"left: {left} processes")
    if more := shared_memory() - segments:
        result.wrong.append(f"left: shared memory {', '.join(sorted(more))}")
    result.wrong += [
        f"{s.outcome}: {s.verb}: {s.text}" for s in result.steps if s.outcome in FAILURES
    ]
    for name in ("work", "tmp"):
        names = sorted(path.name for path in (folder / name).iterdir())
        if names := [other for other in names if not other.startswith(CACHES)]:
            result.wrong.append(f"outside: {name}/ holds {', '.join(names)}")
    if result.survived:
        remove(folder)
    return result


def remove(folder: Path) -> None:
    """Delete a folder whatever its permission bits."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def tree_digest(folder: Path) -> dict[str, str]:
    """Relative path -> what lies there, for all below `folder`; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("latin-1")
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            found[name] = f"-> {path.readlink()}"
        elif stat.S_ISREG(info.st_mode):
            found[name] = _file_digest(path, info)
        else:
            found[name] = stat.filemode(info.st_mode)[0]
    return found


def _file_digest(path: Path, info: os.stat_result) -> str:
    """Return size and digest; of a file that is larger than any here, the beginning's."""
    path.chmod(info.st_mode | 0o400)
    with path.open("rb") as file:
        digest = hashlib.sha1(file.read(64 << 20)).hexdigest()
    path.chmod(info.st_mode & 0o7777)
    return f"{info.st_size} {digest}"


def become_subreaper() -> None:
    """Have orphaned grandchildren become children of this process, where they can be counted."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(seconds: float = 2.0) -> int:
    """Wait a moment for orphans to end, kill those that do not and return their number."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return 0
    left = children()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return len(left)


def children() -> list[int]:
    """Process ids of this process's children."""
    pids = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            pids += [int(pid) for pid in (task / "children").read_text().split()]
    return pids


def shared_memory() -> set[str]:
    """Names of the shared memory segments and semaphores that there are.

    None where this process could not be given a /dev/shm of its own: others' would be counted.
    """
    return {path.name for path in Path("/dev/shm").iterdir()} if _own_shared_memory() else set()


@cache
def _own_shared_memory() -> bool:
    return mount_tmpfs(Path("/dev/shm"), 4 << 30)


def mount_tmpfs(place: Path, size: int) -> bool:
    """Mount a tmpfs for this process and its children alone; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    return bool(libc.mount(b"telic", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()) == 0)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _live(
    folder: Path, writing: int, body: Callable[[Path], Iterator[Step | str]], limit: int | None
) -> None:
    """Be the child: run the case, write a JSON line for each thing that it yields, end."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder / "work")
        os.environ["TMPDIR"] = str(folder / "tmp")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.with_name(f"{folder.name}.inductor"))
        for number, name in ((0, "/dev/null"), (1, "/dev/null"), (2, "/dev/null")):
            os.dup2(os.open(name, os.O_RDWR), number)
        if limit is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + limit
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for item in body(folder):
            os.write(writing, (json.dumps(_plain(item)) + "\n").encode())
        code = 0
    except BaseException:
        step = Step("case", "traceback", _last_lines())
        os.write(writing, (json.dumps(_plain(step)) + "\n").encode())
    finally:
        os._exit(code)


def _collect(reading: int, child: int, result: Result, seconds: float) -> bool:
    """Read what the child yields until it ends; kill it and return True if it takes too long."""
    pending = b""
    with open(reading, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], seconds)
            if not ready:
                os.kill(child, signal.SIGKILL)
                return True
            data = pipe.read(1 << 16)
            if not data:
                return False
            *lines, pending = (pending + data).split(b"\n")
            for line in map(json.loads, lines):
                if isinstance(line, str):
                    result.mutation = line
                else:
                    result.steps.append(Step(**line))


def _plain(item: Step | str) -> Any:
    return item if isinstance(item, str) else asdict(item)


def _last_verb(result: Result) -> str:
    return result.steps[-1].verb if result.steps else "the beginning"


def _last_lines() -> str:
    """Return the end of the traceback of the exception in flight."""
    kind, error, trace = sys.exc_info()
    frames = traceback.extract_tb(trace)
    own = [f for f in frames if "/tests/" not in f.filename][-4:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(own))
    return f"{kind.__name__ if kind else ''}: {str(error)[:300]} at {places}"
