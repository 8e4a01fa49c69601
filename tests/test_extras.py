"""Optional dependencies: what is said when one is missing, and that none is imported early."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flowbp.extras import packaged, require


def test_a_missing_dependency_names_the_command():
    with pytest.raises(ModuleNotFoundError, match=r'`no_such_package`.*"flowbp-align\[models\]"'):
        require("no_such_package")


def test_a_broken_dependency_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'something_it_needs'"):
        require("half_installed")


def test_adapters_and_rewards_import_nothing_heavy():
    code = (
        "import sys, flowbp.adapters, flowbp.rewards;"
        "print(*sorted({'diffusers', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_file_of_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "with_data").mkdir()
    (tmp_path / "with_data" / "__init__.py").write_text("raise RuntimeError('was run')")
    (tmp_path / "with_data" / "numbers.txt").write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged("with_data", "numbers.txt", extra="models").read_text() == "1"
    with pytest.raises(
        FileNotFoundError, match=r'`with_data` lacks more\.txt.*"flowbp-align\[models\]"'
    ):
        packaged("with_data", "more.txt", extra="models")
    with pytest.raises(ModuleNotFoundError, match=r'`no_such_package`.*"flowbp-align\[models\]"'):
        packaged("no_such_package", "numbers.txt", extra="models")
