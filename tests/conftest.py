"""Fixtures shared by all rooms."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes and dtypes in signatures of policy and training are checked under pytest, and only there.
install_import_hook(["telic.policy", "telic.training"], "beartype.beartype")

# The same examples at every run; --hypothesis-profile=default draws others.
settings.register_profile("telic", derandomize=True, deadline=None)
settings.load_profile("telic")

# A shell that starts a command in the background has it ignore Ctrl-C, and so would every process
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asks the network. Where there is none, each question for an unknown model would wait 23 s.
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference tables and numbers beside the checkout, or skip."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data beside the checkout is absent")
    return folder
