"""The commands: `--help` and `--version` are answered before anything heavy is imported."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from telic.configs.describe import answered

ROOT = Path(__file__).resolve().parent


def start(module: str) -> None:
    """Run the command whose entry point is `module`, unless only help or the like is asked for."""
    if not answered(ROOT / f"{module}.py", sys.argv[1:]):
        _imported(f"telic.{module}").main()


def _imported(module: str) -> ModuleType:
    """Import what takes a second; Ctrl-C meanwhile ends the process with one line and 130."""
    try:
        return import_module(module)
    except KeyboardInterrupt:
        print("interrupted before anything was done", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


collect_demos = partial(start, "collect")
train_policy = partial(start, "train")
train_baseline = partial(start, "train_baseline")
build_anchors = partial(start, "build_anchors")
evaluate_policy = partial(start, "evaluate")
control_daemon = partial(start, "control")
run_recipe = partial(start, "recipe")


def demo_store() -> None:
    """Run `demo-store`; only `features` needs torch."""

    def features(arguments: Namespace) -> int:
        status: int = _imported("telic.training.features").run(arguments)
        return status

    _imported("telic.datasets.cli").main(features=features)


def import_checkpoint() -> None:
    """Run `import-checkpoint`; help and mistakes in the arguments need no torch."""
    import_module("telic.policy.published.import_arguments").parser().parse_args()
    _imported("telic.policy.published.import_checkpoint").main()


def export_policy() -> None:
    """Run `export-policy`; help and mistakes in the arguments need no torch."""
    import_module("telic.policy.exported.arguments").parser().parse_args()
    _imported("telic.export").main()


def save_pretrained() -> None:
    """Run `save-pretrained`; help and mistakes in the arguments need no torch."""
    import_module("telic.configs.pretrained_arguments").parsed()
    _imported("telic.save_pretrained").main()
