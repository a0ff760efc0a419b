"""Replacing what a user named: only that kind, asked for, unlocked, apart from what is read."""

import os
import signal
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telic import replacement
from telic.datasets.lock import WriterLock
from telic.replacement import Kind, Replacement, restore


def is_box(path: Path) -> bool:
    return (path / "box").is_file()


BOX = Kind("a box", is_box)


def make_box(path: Path, content: str = "old") -> Path:
    path.mkdir(parents=True)
    (path / "box").write_text(content)
    return path


def box(path: Path, overwrite: bool = True, **options: Any) -> Replacement:
    return Replacement(path, BOX, overwrite=overwrite, **options)


def put(path: Path, content: str = "new", overwrite: bool = True, **options: Any) -> None:
    with box(path, overwrite, **options).writing() as fresh:
        make_box(fresh, content)


def tree(folder: Path) -> dict[str, str]:
    """Return the files below a folder and what is in them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture(params=["exchange", "renames"])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with a file system that can exchange two paths, and with one that cannot."""
    if request.param == "renames":
        monkeypatch.setattr(replacement, "_renameat2", lambda *_: False)


@pytest.mark.usefixtures("any_file_system")
def test_what_is_asked_for_takes_the_place(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "a", "first", overwrite=False)
    put(tmp_path / "deep" / "a", "second")
    assert tree(tmp_path) == {"deep/a/box": "second"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]
    usual = stat.S_IMODE(make_box(tmp_path / "usual").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == usual
    box(tmp_path / "deep" / "a").remove()
    box(tmp_path / "deep" / "a").remove()
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("x")])
def test_what_fails_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    make_box(tmp_path / "a")
    expected = ValueError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected), box(tmp_path / "a").writing() as fresh:
        make_box(fresh, "new")
        raise error
    assert tree(tmp_path) == {"a/box": "old"} and len(list(tmp_path.iterdir())) == 1


Scene = Callable[[Path], object]


def other_folder(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "thesis.tex").write_text("years")


def a_file(folder: Path) -> None:
    (folder / "a").write_text("thesis")


def a_link_to_another_kind(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "b" / "thesis.tex").write_text("years")
    (folder / "a").symlink_to(folder / "b")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "a")


@pytest.mark.parametrize("scene", [other_folder, a_file, a_link_to_another_kind, a_pipe])
def test_another_kind_stays(tmp_path: Path, scene: Scene) -> None:
    scene(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"a: is not a box, so it is not replaced"):
        put(tmp_path / "a")
    with pytest.raises(ValueError, match=r"a: is not a box"):
        box(tmp_path / "a").remove()
    with pytest.raises(ValueError, match=r"a: is already there and is not a box; give another"):
        put(tmp_path / "a", overwrite=False, by="--force")  # which would not replace it either
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "source", "says"),
    [
        ("a", "a", "is .*, which is read"),
        ("a", "a/inner", "holds .*, which is read"),
        ("a/inner", "a", "lies in .*, which is read"),
        ("link", "a", "is .*, which is read"),
        ("a", "link", "is .*, which is read"),
        ("a", "link/inner", "holds .*, which is read"),
        ("b/../a", "./a", "is .*, which is read"),
    ],
)
def test_what_is_read_stays(tmp_path: Path, target: str, source: str, says: str) -> None:
    make_box(tmp_path / "a")
    make_box(tmp_path / "a" / "inner")
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=says):
        put(tmp_path / target, sources=[tmp_path / source])
    assert tree(tmp_path) == before


def test_another_name_of_a_file_that_is_read_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("read")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    anything = Kind("a file", Path.is_file)
    with pytest.raises(ValueError, match="which is read for it"):
        Replacement(tmp_path / "b", anything, overwrite=True, sources=[tmp_path / "a"]).require()


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    lock = WriterLock(make_box(tmp_path / "a"))
    with pytest.raises(ValueError, match="somebody is writing"):
        put(tmp_path / "a")
    lock.release()
    put(tmp_path / "a")
    assert tree(tmp_path) == {"a/box": "new"}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    make_box(tmp_path / "disk" / "a")
    (tmp_path / "a").symlink_to(tmp_path / "disk" / "a")
    put(tmp_path / "a")
    assert (tmp_path / "a").is_symlink() and tree(tmp_path / "disk") == {"a/box": "new"}


def test_of_two_that_make_the_same_the_later_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="is already there"),
        box(tmp_path / "a", overwrite=False).writing() as fresh,
    ):
        make_box(fresh, "later")
        put(tmp_path / "a", "sooner", overwrite=False)
    with pytest.raises(ValueError, match=r"a: is already there; --force replaces it, or give ano"):
        box(tmp_path / "a", overwrite=False, by="--force").require()
    assert tree(tmp_path) == {"a/box": "sooner"}


@pytest.mark.usefixtures("any_file_system")
def test_a_kill_leaves_the_old_one_or_the_new_one_and_no_litter(tmp_path: Path) -> None:
    """A child is killed within the block; nobody else's folders are touched."""
    make_box(tmp_path / "a")
    for name in ("a.partial", ".a.writing", ".a.previous", ".a.0123456.telic", ".b.01234567.telic"):
        make_box(tmp_path / name, "a neighbour's")
    before = tree(tmp_path)
    child = os.fork()
    if not child:
        with box(tmp_path / "a").writing() as fresh:
            make_box(fresh, "new")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert tree(tmp_path).items() >= before.items() and len(tree(tmp_path)) == len(before) + 1
    box(tmp_path / "a").tidy()
    assert tree(tmp_path) == before
    put(tmp_path / "a")
    assert tree(tmp_path) == {**before, "a/box": "new"}


def test_a_kill_between_two_renames_is_mended(tmp_path: Path) -> None:
    """Where the file system cannot exchange two paths in one step."""
    make_box(tmp_path / ".a.01234567.telic" / "previous")
    restore(tmp_path / "a")
    assert (tmp_path / "a" / "box").read_text() == "old"
    put(tmp_path / "a")
    assert tree(tmp_path) == {"a/box": "new"}


def test_what_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    with box(tmp_path / "a").writing() as fresh:
        make_box(fresh, "slow")
        put(tmp_path / "a", "quick")
        assert is_box(fresh)
    assert tree(tmp_path) == {"a/box": "slow"}


def test_a_folder_taken_for_a_leftover_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, usual = [], tempfile.mkdtemp

    def swept(**options: Any) -> str:
        made.append(usual(**options))
        if len(made) < 3:  # another process begins the same, and tidies
            Path(made[-1]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    put(tmp_path / "a", overwrite=False)
    assert len(made) == 3 and tree(tmp_path) == {"a/box": "new"}


FULL = Kind("a box", is_box, files=r"box|lid/\d+")


@pytest.mark.parametrize("stranger", ["notes.txt", "lid/notes.txt", "lid/1/2", "other/3"])
@pytest.mark.parametrize("removed", [False, True])
def test_what_holds_a_users_own_file_is_not_replaced(
    tmp_path: Path, stranger: str, removed: bool
) -> None:
    path = make_box(tmp_path / "a")
    own = path / stranger
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("mine")
    asked = Replacement(path, FULL, overwrite=True)
    with pytest.raises(ValueError, match=rf"^\S*/a: holds {stranger}, which is no part of a box"):
        if removed:
            asked.remove()
        else:
            with asked.writing() as fresh:
                make_box(fresh, "new")
    assert tree(path) == {"box": "old", stranger: "mine"}
    own.rename(tmp_path / "elsewhere")
    asked.remove()
    assert tree(tmp_path) == {"elsewhere": "mine"}


def test_links_in_what_is_replaced_are_strangers_too(tmp_path: Path) -> None:
    path = make_box(tmp_path / "a")
    (path / "lid").symlink_to(make_box(tmp_path / "b"))
    with pytest.raises(ValueError, match="holds lid, which is no part"):
        Replacement(path, FULL, overwrite=True).remove()
    assert (path / "lid/box").exists()


@pytest.mark.usefixtures("any_file_system")
def test_strangers_come_along_where_they_are_to_be_kept(tmp_path: Path) -> None:
    path = make_box(tmp_path / "a")
    (path / "deep").mkdir()
    (path / "deep/notes.txt").write_text("mine")
    (path / "link").symlink_to("nowhere")
    for content in ("second", "third"):
        kept = Replacement(path, FULL, overwrite=True, keep_strangers=True)
        with kept.writing(durable=content == "third") as fresh:
            make_box(fresh, content)
        assert tree(path) == {"box": content, "deep/notes.txt": "mine"}
        assert (path / "link").readlink() == Path("nowhere")
