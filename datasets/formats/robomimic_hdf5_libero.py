"""What LIBERO's HDF5 says beyond robomimic's: the sentence, and which way up the pictures are.

LIBERO notes robosuite's image convention at the time of recording: pictures of the convention
`opengl` begin with the lowest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py

from telic.datasets import hdf5


@dataclass(frozen=True, kw_only=True, slots=True)
class Libero:
    """instruction and task: of the file, "" where it is not LIBERO's; upside_down: its pictures."""

    instruction: str = ""
    task: str = ""
    upside_down: bool = False

    @classmethod
    def of(cls, data: h5py.Group, where: str) -> Libero:
        """What the attributes of /data say."""
        problem = hdf5.json_object(data, "problem_info", where)
        sentence: Any = problem.get("language_instruction", "")
        if isinstance(sentence, list):
            sentence = " ".join(str(word) for word in sentence)
        if not problem:
            return cls()
        if not isinstance(sentence, str):
            raise ValueError(f"{where}: problem_info: language_instruction is {sentence!r:.60}")
        with hdf5.reading(f"{where}: attribute macros_image_convention"):
            convention = data.attrs.get("macros_image_convention", "")
            bddl = str(data.attrs.get("bddl_file_name", ""))
        return cls(
            instruction=sentence.strip(" \"'"),
            task=bddl.rpartition("/")[2].removesuffix(".bddl"),
            upside_down=str(convention) == "opengl",
        )
