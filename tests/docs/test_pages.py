"""Every link, file and Python name of the documentation is there, and each page is of one kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import DOCS, PAGES, REPOSITORY

from telic.configs import source

KINDS = ("tutorials", "how_to", "reference", "results")
IDS = [str(page.relative_to(REPOSITORY)) for page in PAGES]
FILES = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|yaml|txt|sh|md))`")
ROOMS = ("policy", "envs", "datasets", "training", "real_robot", "configs", "tests", "tools")


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and mkdocs both make it."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "").lower())
    return re.sub(r"[\s]+", "-", plain.strip())


def text_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.S | re.M)


def is_there(name: str) -> bool:
    """Return whether a dotted name is a module, or a class, function or constant of one."""
    if source.module(name) is not None or (source.ROOT / "/".join(name.split(".")[1:])).is_dir():
        return True
    parent, _, last = name.rpartition(".")
    if (inner := source.module(parent)) is not None:
        return source.resolve(inner, last) is not None or (
            re.search(rf"^(?:class|def) {last}\b|^{last}\b.*=", inner.path.read_text(), re.M)
            is not None
        )
    above, _, owner = parent.rpartition(".")
    if (inner := source.module(above)) is not None:
        found = [c for c in inner.classes() if c.name == owner]
        return any(f"def {last}(" in source.ast.unparse(c.node) for c in found)
    return False


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            if anchor not in [slug(heading) for heading in headings]:
                broken.append(target)
        elif page.is_relative_to(DOCS) and not file.is_relative_to(DOCS):
            broken.append(f"{target} is not in the site")
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_names_are_there(page: Path) -> None:
    text = text_of(page)
    own = set(re.findall(r"program: (\S+)", page.read_text()))
    files = [f for f in FILES.findall(text) if f.split("/")[0] in ROOMS and f not in own]
    assert not [file for file in files if not (REPOSITORY / file).is_file()]
    names = re.findall(r"`(telic(?:\.\w+)+)(?:\(.*?\))?`", text)
    assert not [name for name in names if not is_there(name)]
    imports = re.findall(
        r"^(?:from|import) (telic[\w.]*)(?: import ([\w, ]+))?", page.read_text(), re.M
    )
    wanted = [
        f"{m}.{n.split(' as ')[0].strip()}" if n else m
        for m, ns in imports
        for n in (ns or "").split(",")
    ]
    assert not [name for name in wanted if not is_there(name)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_network_is_a_person(page: Path) -> None:
    things = (
        r"(?:network|polic(?:y|ies)|sampler|token|tensor|denoiser|head|formulation|patch)(?:s|es)?"
    )
    doings = r"(?:sees?|saw|has seen|knows?|says?|wants?|(?:is|are|was|were) (?:told|shown))"
    assert not re.findall(rf"\b{things} {doings}\b[^.|]*", text_of(page))


def test_each_page_is_of_one_kind_and_in_the_navigation() -> None:
    navigation = set(re.findall(r"^ *- (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(), re.M))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == navigation
    assert {page.split("/")[0] for page in pages - {"index.md"}} == set(KINDS)


def test_every_table_of_results_stands_with_machine_date_and_command() -> None:
    lacking = []
    for page in (DOCS / "results").glob("*.md"):
        if page.name == "index.md":
            continue
        for part in re.split(r"^## ", page.read_text(), flags=re.M)[1:]:
            if "|---" in part:
                machine = re.search(r"\d cores|any machine", part)
                date = re.search(r"20\d\d-\d\d-\d\d", part)
                command = re.search(
                    r"```bash|`(?:python|make|\w+-\w+) |commands are those|No script is kept", part
                )
                if not (machine and date and command):
                    lacking.append(f"{page.name}: {part.splitlines()[0]}")
    assert not lacking


def test_the_reference_is_what_the_configs_say() -> None:
    command = [sys.executable, str(REPOSITORY / "tools/reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), f"run python tools/reference.py {done.stderr}"


def test_the_readme_shows_the_demo_as_the_results_have_it() -> None:
    shown = re.search(r"^```\ntask .*?^```$", (REPOSITORY / "README.md").read_text(), re.S | re.M)
    assert shown is not None
    assert shown.group() in (DOCS / "results/meta_world.md").read_text()


def test_the_picture_is_small() -> None:
    assert (DOCS / "assets/playtable.webp").stat().st_size < 2e6
