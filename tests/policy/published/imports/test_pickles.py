"""Files of torch.save that are not what they seem: one line, no code run, no memory taken."""

from __future__ import annotations

import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import pytest
import torch

from telic.policy.published.pickles import read_pickle

GIB = 2**20  # in the kilobytes that getrusage counts


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def peak() -> int:
    """Return the most memory that this process has had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refused(path: Path, match: str) -> None:
    """Require one line of ours, without the way to switch safety off, and little memory."""
    before = peak()
    with pytest.raises(ValueError, match=match) as error:
        read_pickle(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for advice in ("weights_only", "torch.load", "trust", "safe_globals", "arbitrary"):
        assert advice not in message
    assert peak() - before < GIB
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def repacked(path: Path, record: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write torch's archive at `path` again with another data.pkl."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, record if name.endswith("data.pkl") else content)
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return a file of a tensor."""
    torch.save({"weight": torch.ones(300)}, tmp_path / "whole.pt")
    return tmp_path / "whole.pt"


def test_tensors_are_read(whole: Path, tmp_path: Path) -> None:
    assert torch.equal(read_pickle(whole)["weight"], torch.ones(300))
    torch.save(torch.ones(3), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_pickle(tmp_path / "old.bin"), torch.ones(3))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_short_is_fetched_again(whole: Path, share: float) -> None:
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    refused(whole, "fetch it again")


def test_empty_and_absent_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.bin").touch()
    refused(tmp_path / "empty.bin", "is empty")
    refused(tmp_path / "none.bin", "no such file")
    (tmp_path / "folder.bin").mkdir()
    refused(tmp_path / "folder.bin", "no such file")


@pytest.mark.parametrize("legacy", [True, False])
def test_no_python_object_is_made(whole: Path, tmp_path: Path, legacy: bool) -> None:
    done = tmp_path / "done"
    record = pickle.dumps(Calls(os.mkdir, str(done)), protocol=2)
    if legacy:
        whole.write_bytes(record)
    else:
        repacked(whole, record)
    refused(whole, "holds a Python object, posix.mkdir")
    assert not done.exists()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("function", [bytearray, torch.Tensor])
def test_no_more_memory_is_asked_for_than_the_file_holds(
    whole: Path, legacy: bool, function: Any
) -> None:
    record = pickle.dumps(Calls(function, 8_700_000_000), protocol=2)
    if legacy:
        whole.write_bytes(record)
    else:
        repacked(whole, record)
    refused(whole, "whole")


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.zeros(1, dtype=torch.uint8).expand(2**33), r"repeats 1 bytes to 8,589,934,592"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "torch.qint8 on cpu"),
        (torch.ones(3).to_sparse(), "torch.sparse_coo; expected plain numbers"),
        (torch.ones(3, device="meta"), "on meta"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
    ],
)
def test_tensors_are_their_own_numbers_in_full(whole: Path, tensor: torch.Tensor, why: str) -> None:
    torch.save({"module": [{"weight": tensor}]}, whole)
    with catch_warnings(action="error"):  # torch's own would stand beside the one line
        refused(whole, why)


def test_an_archive_that_unpacks_to_more_is_not_read(whole: Path) -> None:
    repacked(whole, b"\0" * 2**26, zipfile.ZIP_DEFLATED)
    refused(whole, r"unpacks to 67,\d+,\d+ bytes")


def test_a_pickle_of_millions_of_instructions_is_not_run(whole: Path) -> None:
    bomb = b"\x80\x02N" + b"\x85" * 4_000_000 + b"."
    refused(repacked(whole, bomb), r"4,000,004 bytes of pickle for \d+,?\d* of the rest")
    whole.write_bytes(bomb)
    refused(whole, "damaged, or none of torch.save's; fetch it again")
