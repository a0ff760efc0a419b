"""What keeps the control process on time beside other processes: scheduling and memory."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from pathlib import Path

USUAL_PRIORITY = 50  # above all that is not real-time, below the kernel's own threads
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_CAP_IPC_LOCK = 14


def make_prompt(priority: int | None) -> str:
    """Make this process real-time as far as it may be; return what it got, for people.

    `priority` is that of SCHED_FIFO, 0 for none; None is the usual one where the right is there.
    Processes and threads that this one starts afterwards run as any other. ValueError where it is
    asked for without the right.
    """
    gc.collect()
    gc.freeze()  # the collector need not look at what is loaded
    return f"{_schedule(priority)}, {_lock_memory()}"


def _schedule(priority: int | None) -> str:
    if priority == 0:
        return "no real-time scheduling (loop.priority=0)"
    if priority is None and _could_starve_all():
        return "no real-time scheduling (one core, and nothing would be left for others)"
    asked = USUAL_PRIORITY if priority is None else priority
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(asked))
    except (OSError, AttributeError) as error:  # not every system has it
        way = "needs the right to it: ulimit -r, or CAP_SYS_NICE"
        if priority is None:
            return f"no real-time scheduling ({way})"
        raise ValueError(
            f"loop.priority={priority}: real-time scheduling {way}; use loop.priority=0 without it"
        ) from error
    return f"real-time scheduling (SCHED_FIFO {asked})"


def _could_starve_all() -> bool:
    """Return whether a loop that hangs in real time would keep all others from running.

    Linux leaves them 5 % of each core unless that is switched off.
    """
    try:
        unbounded = int(Path("/proc/sys/kernel/sched_rt_runtime_us").read_text()) < 0
    except (OSError, ValueError):
        unbounded = False
    return unbounded and len(os.sched_getaffinity(0)) < 2


def _lock_memory() -> str:
    """Keep this process's memory from being swapped out, so that no tick waits for a disk.

    What is allocated later is locked too, but only where no limit could make an allocation fail.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    free = soft == resource.RLIM_INFINITY or _may_lock_all()
    flags = _MCL_CURRENT | (_MCL_FUTURE if free else 0)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(flags) == 0:
            return "memory locked"
        why = os.strerror(ctypes.get_errno())
    except (OSError, AttributeError):
        why = "the system cannot"
    return f"memory not locked ({why}: ulimit -l, or CAP_IPC_LOCK)"


def _may_lock_all() -> bool:
    """Return whether this process has the capability that no limit binds."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    effective = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    return any(flags >> _CAP_IPC_LOCK & 1 for flags in effective)
