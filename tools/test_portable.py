"""`make test-portable`: the tests that compare numbers, as on other processors.

Torch and its libraries pick kernels by what the processor has, and can be asked for less: each
variant is one run of the tests under such a request. What is lacking here is listed and left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

APART = [  # of the rooms below: files that compute next to nothing
    "policy/exported/test_cpp.py",
    "policy/inference/test_device_alone.py",
    "policy/published/imports/test_pickles.py",
    "policy/test_damage.py",
    "policy/test_digests.py",
    "training/test_loss_curve.py",
    "training/test_readers.py",
    "training/test_time_estimate.py",
]
TESTS = ["tests/policy", "tests/training"]
OF_ONEDNN = [  # where there are convolutions, or weights in fewer bits
    *("tests/policy/encoders", "tests/policy/inference", "tests/policy/exported"),
    *("tests/policy/layers", "tests/policy/published", "tests/training/test_numbers.py"),
]
OPTIONS = [
    *(f"--ignore=tests/{file}" for file in APART),
    *("-k", "not (one_line or refused or kill)"),  # nor those of messages and crashes
]
ISA = {  # ONEDNN_MAX_CPU_ISA -> the flag of /proc/cpuinfo that it takes
    "SSE41": "sse4_1",
    "AVX2": "avx2",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_tile",
}
ATEN = {"default": "", "avx2": "avx2", "avx512": "avx512bw"}


@dataclass
class Variant:
    """One way to run the tests; `needs` is a flag of the processor, "" where any will do."""

    name: str
    needs: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=lambda: TESTS)
    arguments: list[str] = field(default_factory=list)


def variants() -> Iterator[Variant]:
    """Yield every variant, also those that this processor has not."""
    for name, flag in ATEN.items():
        yield _asking("ATEN_CPU_CAPABILITY", name, flag)
    for name, flag in ISA.items():
        yield replace(_asking("ONEDNN_MAX_CPU_ISA", name, flag), tests=OF_ONEDNN)
    yield _asking("MKL_CBWR", "COMPATIBLE")
    yield _asking("OMP_NUM_THREADS", "2")
    yield Variant("one core", before=["taskset", "-c", str(min(os.sched_getaffinity(0)))])
    yield Variant("another rounding", arguments=["-p", "telic.tests.another_rounding"])


def _asking(variable: str, value: str, flag: str = "") -> Variant:
    return Variant(f"{variable}={value}", flag, {variable: value})


def main(arguments: list[str]) -> int:
    """Run every variant that is there, on `arguments` or else its tests, and say how each went."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    rows, failed = [], False
    cores = len(os.sched_getaffinity(0))
    for variant in variants():
        if variant.needs and variant.needs not in flags:
            rows.append((variant.name, f"left out: this processor has no {variant.needs}"))
            continue
        print(f"--- {variant.name}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [*variant.before, sys.executable, "-m", "pytest", "-m", "not slow"]
            + ["-p", "no:cacheprovider", "-n", str(0 if variant.before else min(4, cores))]
            + [*variant.arguments, *(arguments or [*variant.tests, *OPTIONS])],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | variant.environment,
        )
        failed |= done.returncode != 0
        how = "passed" if done.returncode == 0 else f"failed (pytest gave {done.returncode})"
        rows.append((variant.name, f"{how} in {time.monotonic() - began:.0f} s"))
    for name, how in rows:
        print(f"{name:40} {how}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
