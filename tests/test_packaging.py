"""The wheel and the sdist hold every module and config, and nothing of ours shadows others."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOMS = ("policy", "envs", "datasets", "training", "real_robot", "configs")


def modules(root: Path) -> set[str]:
    """Return the dotted names of all modules under the package root `root`."""
    files = [path for path in root.glob("*.py") if path.name != "__init__.py"]
    for room in ROOMS:
        files += (root / room).rglob("*.py")
    names = set()
    for path in files:
        parts = path.relative_to(root).with_suffix("").parts
        names.add(".".join(("telic", *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return names


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a copy of the files that git knows: builds leave folders behind."""
    copy = tmp_path_factory.mktemp("source") / "telic"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (repository / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel that is built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        cwd=out,
    )
    return out


def test_every_folder_with_modules_is_packaged(repository: Path) -> None:
    listed = set(
        tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {name.rpartition(".")[0] for name in modules(repository)}
    assert found <= listed
    assert not (repository / "datasets" / "__init__.py").exists()


def test_wheel_and_sdist_hold_all_modules_and_configs(built: Path, repository: Path) -> None:
    expected = {
        str(Path("telic") / path.relative_to(repository))
        for path in (repository / "configs").rglob("*.yaml")
    }
    expected |= {
        str(Path("telic") / path.relative_to(repository))
        for room in ROOMS
        for path in (repository / room).rglob("*")
        if path.suffix in (".py", ".txt", ".yaml")
    }
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        assert expected <= names
        assert not [name for name in names if name.startswith("telic/pretrained/")]
        assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"telic"}
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        inside = {"telic/" + name.partition("/")[2] for name in sdist.getnames()}
        assert expected <= inside


def test_every_module_and_config_loads_from_the_wheel(
    built: Path, repository: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
        + ["--target", str(target), str(next(built.glob("*.whl")))],
        check=True,
        capture_output=True,
    )
    program = f"""
import importlib, pathlib, sys
sys.path.insert(0, {str(target)!r})
import telic
assert pathlib.Path(telic.__file__).is_relative_to({str(target)!r}), telic.__file__
for name in {sorted(modules(repository))!r}:
    importlib.import_module(name)
from telic.build_anchors import BuildAnchorsConfig
from telic.configs.launch import CONFIGS, compose
from telic.collect import CollectConfig
from telic.control import ControlConfig
from telic.evaluate import EvaluateConfig
from telic.recipe import RecipeConfig
from telic.train import TrainConfig
composed = 0
for schema, name, needed in (
    (CollectConfig, "collect", []),
    (TrainConfig, "train", ["data.stores=[a]"]),
    (EvaluateConfig, "evaluate", ["checkpoint=a"]),
    (ControlConfig, "control", ["checkpoint=a"]),
    (RecipeConfig, "recipe", []),
    (BuildAnchorsConfig, "build_anchors", ["stores=[a]"]),
):
    folder = CONFIGS / name
    assert folder.is_relative_to({str(target)!r})
    compose(schema, name, needed)
    for path in folder.glob("*/*.yaml"):
        compose(schema, name, [*needed, f"{{path.parent.name}}={{path.stem}}"])
        composed += 1
assert composed >= 4, composed
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_hugging_face_datasets_wins_over_our_folder(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "site" / "datasets"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("Dataset = 'theirs'\n")
    program = "import sys; sys.path.append(sys.argv[1]); import datasets; print(datasets.Dataset)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(other.parent)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "theirs"
