"""One run for all tests of the command line: its folder, and how the command ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Ended, augmill, write_recipe


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """(folder with rows.csv, recipe.yaml and store, how ``augmill run`` ended). Nobody may change what is in it."""
    folder = tmp_path_factory.mktemp("first-run")
    return folder, augmill("run", write_recipe(folder))


@pytest.fixture
def copied_run(first_run: tuple[Path, Ended], tmp_path: Path) -> Path:
    """A copy of that folder, for tests that change it; its recipe names the copy's store."""
    folder = tmp_path / "copy"
    shutil.copytree(first_run[0], folder)
    write_recipe(folder)
    return folder
