"""What a command does before its heavy imports are done."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

WATCHED = """
import sys, threading
from telic.commands import train_policy

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            threading.Event().wait()

sys.meta_path.insert(0, Finder())
train_policy()
"""


def test_an_interrupt_during_the_imports_is_one_line() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(2, signal.default_int_handler)" + WATCHED,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 130
    assert errors == "interrupted before anything was done\n"
