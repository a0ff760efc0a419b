"""The command line of a command that takes no configuration: help, version, mistakes. No torch."""

from __future__ import annotations

import argparse
import sys
from importlib import metadata
from typing import NoReturn, Self


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line and exit code 2."""

    @classmethod
    def of(cls, command: str, description: str, examples: str) -> Self:
        """The parser of a command, whose help ends with `examples`, and its --version."""
        parser = cls(
            prog=command,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--version", action="version", version=f"%(prog)s {metadata.version('telic')}"
        )
        return parser

    def error(self, message: str) -> NoReturn:
        """Print the line and leave."""
        print(f"{self.prog}: {message}; {self.prog} --help tells more", file=sys.stderr)
        sys.exit(2)
