"""`python -m telic.tests.attacks.run KIND --cases N`: run attacks, print a JSON line for each case.

Exit code 1 if one of them did not end as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from telic.tests.attacks.arena import ADDRESS_SPACE, SECONDS, Result, run_case

KINDS = ("stores", "checkpoints", "hdf5_files", "published", "kills", "commands")


def run(kind: str, cases: int, first: int, folder: Path, only: str = "") -> Iterator[Result]:
    """Yield what became of cases `first` to `first + cases`, which take the attacks in turns."""
    module: Any = import_module(f"telic.tests.attacks.{kind}")
    base = folder / "base"
    _in_child(module.make, base)
    if hasattr(module, "warm"):
        with redirect_stdout(sys.stderr):
            module.warm(base)
    attacks = [name for name in module.ATTACKS if only in name]
    for case in range(first, first + cases):
        attack = attacks[case % len(attacks)]
        body = module.cases(base, attack, np.random.default_rng([len(kind), case]))
        limits = getattr(module, "LIMIT", ADDRESS_SPACE), getattr(module, "SECONDS", SECONDS)
        result = run_case(attack, case, folder / f"case{case}", body, *limits)
        module.judge(result)
        yield result


def _in_child(make: Any, base: Path) -> None:
    """Have a child make the originals, so that no thread of a library runs where cases fork."""
    (base / "artefact").mkdir(parents=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            with redirect_stdout(sys.stderr):
                make(base)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the originals cannot be made")


def main() -> None:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--attack", default="", help="only attacks whose name contains this")
    parser.add_argument("--folder", type=Path, help="keep what went wrong here")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="attacks"))
    failed = 0
    try:
        for result in run(args.kind, args.cases, args.first, folder, args.attack):
            print(json.dumps(asdict(result)), flush=True)
            failed += not result.survived
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
