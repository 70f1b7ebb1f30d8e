"""README.md, CHANGELOG.md and docs/ as a site: every link and anchor holds, and nothing is loaded from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "infra/mkdocs.yml"


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(tmp_path)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="https?://[^"]*"', text), page.name
        assert re.search(r'<script src="[^"]*iframe-worker\.js"', text), page.name
        # Python-Markdown wants an empty line before a list or a table; GitHub does not.
        assert not re.findall(r"<p>[^<]*\n(?:- |\d+\. |\|)[^<]*", text), page.name
    # What searches pages that were opened from a disk, where neither a worker nor a request for the index is allowed.
    assert (tmp_path / "search/search_index.js").is_file() and (tmp_path / "iframe-worker.js").is_file()
    assert len(pages) == 3 + len(
        list((ROOT / "docs").rglob("*.md"))
    )  # README, CHANGELOG and the page for a wrong address
