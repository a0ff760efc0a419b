"""The language of a store: which sentence describes which steps, and the sentences' vectors.

All of it is appended before the episode is committed. A segment of an uncommitted episode starts
beyond the last committed step, and sentences are numbered in order of first use, so what belongs
to the committed episodes can always be told from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from telic.datasets.array_metadata import read_meta
from telic.datasets.arrays import RowArray, create_rows
from telic.spec import Array, near_misses

SEGMENT_COLUMNS = ("start", "end", "instruction_id", "task_id")  # steps count over all episodes
EMBEDDINGS = "meta/embeddings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Steps [start, end) of an episode, counted from its first, and what is done in them.

    `episode` is set on the segments a store returns.
    """

    start: int
    end: int
    instruction: str
    task: str = ""
    episode: int | None = None


class Language:
    """Segments, instructions and tasks of the first `num_steps` steps of a store."""

    def __init__(self, root: Path, num_steps: int) -> None:
        self._root = root
        self._rows = RowArray(root / "meta/segments")
        if (self._rows.row_shape, self._rows.dtype) != ((len(SEGMENT_COLUMNS),), np.int64):
            raise ValueError(
                f"{self._rows.path}: rows are {self._rows.dtype} {self._rows.row_shape}, expected "
                f"int64 ({len(SEGMENT_COLUMNS)},)"
            )
        rows = self._rows.read_whole()
        beyond = np.flatnonzero(rows[:, 0] >= num_steps)
        committed = beyond[0] if len(beyond) else len(rows)
        self.table, self.uncommitted = rows[:committed], rows[committed:]
        self.instructions = self._committed_strings("instructions", self.table[:, 2])
        self.tasks = self._committed_strings("tasks", self.table[:, 3])

    @staticmethod
    def create(root: Path) -> None:
        """Make the empty tables in a new store."""
        create_rows(root, "meta/segments", (len(SEGMENT_COLUMNS),), "int64", 4096)
        for name in ("instructions", "tasks"):
            zarr.create_array(
                root,
                name=f"meta/{name}",
                shape=(0,),
                chunks=(1024,),
                dtype=str,
                compressors=[Crc32cCodec()],
            )
        zarr.open_group(root).create_group(EMBEDDINGS)

    def append(self, first_step: int, segments: Sequence[Segment]) -> None:
        """Write the segments of the episode that begins at `first_step`."""
        if not segments:
            return
        instructions = self._number("instructions", [s.instruction for s in segments])
        tasks = self._number("tasks", [s.task for s in segments])
        rows = np.array(
            [
                (first_step + s.start, first_step + s.end, instruction, task)
                for s, instruction, task in zip(segments, instructions, tasks, strict=True)
            ],
            np.int64,
        )
        self._rows.write(len(self.table), rows)
        self._rows.resize(len(self.table) + len(rows))
        self.table = np.concatenate([self.table, rows])

    def cut(self) -> None:
        """Drop from the disk what lies beyond the committed tables."""
        self._rows.resize(len(self.table))
        for name, known in (("instructions", self.instructions), ("tasks", self.tasks)):
            array = self._strings(name)
            if array.shape[0] > len(known):
                array.resize((len(known),))
        self.uncommitted = self.uncommitted[:0]

    def stored(self, name: str) -> int:
        """Return how many "instructions" or "tasks" are stored, those in no use among them."""
        return int(self._strings(name).shape[0])

    def require_named(self) -> None:
        """Raise ValueError unless each segment's sentence and task are there."""
        for column, name in ((2, "instructions"), (3, "tasks")):
            used, there = self.table[:, column], len(getattr(self, name))
            if len(used) and (used.max() >= there or used.min() < 0):
                wrong = used.max() if used.max() >= there else used.min()
                raise ValueError(
                    f"{self._root}/meta/segments: names number {wrong} of meta/{name}, which has "
                    f"{there}; restore the file or run demo-store validate"
                )

    def segments(self, episode: int, start: int, stop: int) -> list[Segment]:
        """Return the segments of the episode of steps [start, stop), counted from its first."""
        first, last = np.searchsorted(self.table[:, 0], (start, stop))
        return [
            Segment(
                start=low - start,
                end=high - start,
                instruction=self.instructions[instruction],
                task=self.tasks[task],
                episode=episode,
            )
            for low, high, instruction, task in self.table[first:last].tolist()
        ]

    def _number(self, name: str, sentences: Sequence[str]) -> list[int]:
        """Return the number of each sentence; new ones are written first."""
        known = self.instructions if name == "instructions" else self.tasks
        number = {sentence: i for i, sentence in enumerate(known)}
        new = list(dict.fromkeys(s for s in sentences if s not in number))
        if new:
            array = self._strings(name)
            array.resize((len(known) + len(new),))
            array[len(known) :] = np.array(new, dtype=object)
            number |= {sentence: len(known) + i for i, sentence in enumerate(new)}
            known.extend(new)
        return [number[sentence] for sentence in sentences]

    def _strings(self, name: str) -> zarr.Array:
        return zarr.open_array(self._root, path=f"meta/{name}", mode="r+", zarr_format=3)

    def _committed_strings(self, name: str, used: Array) -> list[str]:
        try:
            array = zarr.open_array(self._root, path=f"meta/{name}", mode="r", zarr_format=3)
            known = min(int(used.max(initial=-1)) + 1, array.shape[0])
            _require_counts(self._root / "meta" / name, array)
            sentences = np.asarray(array[:known])
        except Exception as error:  # zarr raises anything where files are damaged
            why = " ".join(str(error).split())
            raise ValueError(f"{self._root}/meta/{name}: not readable ({why:.200})") from error
        if not all(isinstance(sentence, str) for sentence in sentences.tolist()):
            raise ValueError(f"{self._root}/meta/{name}: holds {array.dtype}, expected sentences")
        known_texts = [str(sentence) for sentence in sentences]
        if len(set(known_texts)) < len(known_texts):  # zarr reads a part that is lost as ""
            raise ValueError(
                f"{self._root}/meta/{name}: holds one text twice, so a part of it is missing; "
                "restore the file"
            )
        return known_texts


def _require_counts(folder: Path, array: zarr.Array) -> None:
    """Raise ValueError for a chunk that says it holds more strings than a chunk does: zarr would
    make room for them."""
    names = [codec["name"] for codec in read_meta(folder)["codecs"]]
    if names != ["vlen-utf8", "crc32c"]:
        return  # of a store without checksums, compressed
    for chunk in sorted((folder / "c").glob("*")):
        with chunk.open("rb") as file:
            count = int.from_bytes(file.read(4), "little")
        if count != array.chunks[0]:
            raise ValueError(f"{chunk} says it holds {count} texts, a chunk has {array.chunks[0]}")


def write_embeddings(root: Path, encoder: str, sentences: Sequence[str], vectors: Array) -> None:
    """Add the vectors [I D] of the sentences; one that is there with the same vector is left."""
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(sentences):
        raise ValueError(
            f"{root}: embeddings of {encoder} have shape {vectors.shape}, "
            f"expected ({len(sentences)}, D), one for each instruction"
        )
    if not np.isfinite(vectors).all():
        raise ValueError(f"{root}: embeddings of {encoder} hold values that are not finite")
    name = f"{EMBEDDINGS}/{quote(encoder, safe='')}"
    if (root / name / "zarr.json").exists():
        array = RowArray(root / name)
    else:
        array = create_rows(root, name, vectors.shape[1:], "float32", 256)
    if array.row_shape != vectors.shape[1:]:
        raise ValueError(
            f"{root}: {encoder} has vectors of {array.row_shape[0]} entries here, "
            f"got {vectors.shape[1]}; name the encoder by its version"
        )
    known = read_vectors(array)
    new = [
        i
        for i, sentence in enumerate(sentences)
        if sentence not in known or not np.array_equal(known[sentence], vectors[i])
    ]
    if new:
        listed = [*array.attributes.get("sentences", []), *(sentences[i] for i in new)]
        array.write(len(array), vectors[new])
        array.resize(len(array) + len(new), {"encoder": encoder, "sentences": listed})


def read_embeddings(root: Path, encoder: str) -> dict[str, Array]:
    """Return sentence -> vector f32 [D]; ValueError naming near misses for an unknown encoder."""
    if encoder not in (known := encoders(root)):
        raise ValueError(
            f"{root}: no embeddings of {encoder!r}, only of {', '.join(known) or 'none'}"
            f"{near_misses(encoder, known)}"
        )
    return read_vectors(RowArray(root / EMBEDDINGS / quote(encoder, safe="")))


def encoders(root: Path) -> list[str]:
    """Return the names of the encoders whose vectors the store holds."""
    folders = sorted((root / EMBEDDINGS).glob("*/zarr.json"))
    arrays = [RowArray(path.parent) for path in folders]
    return [str(a.attributes["encoder"]) for a in arrays if "encoder" in a.attributes]


def read_vectors(array: RowArray) -> dict[str, Array]:
    """Return sentence -> vector; where a sentence was written twice, the later counts."""
    sentences = array.attributes.get("sentences", [])
    whole = isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)
    if not whole or len(sentences) != len(array) or len(array.row_shape) != 1:
        raise ValueError(
            f"{array.path}: vectors {(len(array), *array.row_shape)} and its sentences do not fit "
            "each other; remove the folder and they are computed again"
        )
    return dict(zip(sentences, array.read_whole(), strict=True))
