"""Every line of Python on docs/library.md runs, in its order, in one process that has a running loop."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chain import write_rows
from commands import write_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/library.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    for seed, name in enumerate(("real", "made", "held_out")):
        write_rows(tmp_path / f"{name}.csv", 90, seed)
    write_recipe(tmp_path, 120, name="tickets.yaml")
    shutil.copy(ROOT / "infra/examples/rents/rents.csv", tmp_path)
    rents = (ROOT / "infra/examples/rents/recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "rents.yaml").write_text(f"{rents}\ntrainer: linear\ngate: {{seeds: 3, resamples: 200}}\n")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6 and PAGE.count("```") == 12
    body = "\n".join(blocks).replace("\n", "\n    ")
    program = f"import asyncio\nasync def main():\n    {body}\n    print(len(labels), result.ok)\nasyncio.run(main())\n"
    ended = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].endswith(" True") and "Traceback" not in ended.stderr
    for inline in ('augmill.releases("augmill-store", "tickets")', "asyncio.to_thread(augmill.run, recipe)"):
        assert inline in PAGE  # run by tests/api/test_releases.py and test_calls.py in this form
