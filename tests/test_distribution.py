"""What is built and installed starts outside the clone, with all that belongs to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from flowbp.extras import DISTRIBUTION

ROOT = Path(__file__).parents[1]
# As a front end builds it, in an environment that has what [build-system] requires.
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
TINY = (
    "training.steps=2",
    "batching.samples=4",
    "evaluation.prompts.count=8",
    "sampling.steps=4",
    "samples=null",
    "checkpoints={every: null, keep: null}",
    "observers.tensorboard=false",
    "run.device=cpu",
    "run.threads=1",
)


def called(*command: str | Path, where: Path) -> str:
    """What a command prints, in a folder and with nothing of the clone."""
    environment = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is built from the sdist."""
    place = tmp_path_factory.mktemp("build")
    copy = place / "clone"
    shutil.copytree(ROOT / "flowbp", copy / "flowbp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    called(sys.executable, "-c", BUILD.format("sdist"), place, where=copy)
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        # Python has it from 3.11.4 on.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(place, **safely)
    source = place / archive.name.removesuffix(".tar.gz")
    called(sys.executable, "-c", BUILD.format("wheel"), place, where=source)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands in an environment with the wheel and what it depends on."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    (packages,) = place.glob("lib/python*/site-packages")
    # The packages of these tests, but not what makes the clone importable there.
    others = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
    called(*pip, "--no-index", "--disable-pip-version-check", wheel, where=place)
    return place / "bin"


def test_a_wheel_starts_in_an_empty_folder(installed, tmp_path):
    where = called(
        installed / "python", "-c", "import flowbp; print(flowbp.__file__)", where=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "written: container.yaml" in called(installed / "flowbp", "init", where=tmp_path)
    printed = called(installed / "flowbp", "container.yaml", *TINY, where=tmp_path)
    assert "report.html" in printed
    assert (tmp_path / "runs" / "shapes" / "checkpoints" / "final").is_dir()
    for command, module in (("flowbp-eval", "flowbp.evaluate"), ("flowbp-study", "flowbp.study")):
        assert module in called(installed / command, "--help", where=tmp_path)


def test_a_wheel_holds_every_file_of_the_package(installed):
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    there = {path.relative_to(packages) for path in (packages / "flowbp").rglob("*")}
    ours = {path.relative_to(ROOT) for path in (ROOT / "flowbp").rglob("*")}
    cached = {path for path in ours if "__pycache__" in path.parts}
    assert ours - cached <= there
    (found,) = (each for each in packages.glob("*.dist-info"))
    assert found.name.startswith(DISTRIBUTION.replace("-", "_"))
    assert (found / "licenses" / "LICENSE").is_file()
