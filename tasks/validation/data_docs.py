"""Great Expectations' Data Docs from stored summaries: built once, at the end, without reading a row again."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from augmill.tasks.errors import AugmillError
from augmill.tasks.rows.shown import PAGE, POLICY, visible
from augmill.tasks.validation.suites import great_expectations_context

SHARD_PAGES = 100  # a page takes 40 ms and 30 KB; the index lists every shard, with or without a page
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # no clock: the same summaries give the same pages


def build_data_docs(
    directory: Path,
    shards: Mapping[str, Mapping[str, Any]],
    release: Mapping[str, Any] | None,
    *,
    title: str,
    limit: int = SHARD_PAGES,
) -> Path:
    """Writes the site under ``directory``, which must be empty or absent, and returns its ``index.html``.

    ``shards``: summaries of ``validate_shard`` by shard name; ``release``: that of ``validate_release``. They hold
    counts, and values only where the recipe let samples in. Shards that did not pass get the first ``limit`` pages.
    Raises ``AugmillError`` where a page could not be rendered.
    """
    passed_last = sorted(shards, key=lambda name: (shards[name]["outcome"] == "passed", name))
    paged = [name for name in passed_last if shards[name]["planned"]][:limit]
    chosen = [] if release is None or not release["planned"] else [("release metrics", release)]
    chosen += [(f"shard {name}", shards[name]) for name in paged]
    pages = _render(directory.resolve(), chosen)
    for (name, _), page in zip(chosen, pages, strict=True):
        page.write_text(_offline(page.read_text(encoding="utf-8"), name), encoding="utf-8", newline="\n")
    shutil.rmtree(directory / "static", ignore_errors=True)  # 4 MB of fonts and tours that no page here uses
    links = {
        name: page.relative_to(directory.resolve()).as_posix() for (name, _), page in zip(chosen, pages, strict=True)
    }
    everything = [*chosen[: len(chosen) - len(paged)], *((f"shard {name}", shards[name]) for name in passed_last)]
    index = directory / "index.html"
    index.write_text(_index(title, everything, links), encoding="utf-8", newline="\n")
    return index


def _render(directory: Path, chosen: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Path]:
    """Great Expectations' own page of each summary, as files in the order of ``chosen``."""
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(directory)},
        "site_section_builders": {"expectations": "None", "profiling": "None"},
    }
    with great_expectations_context(site=site) as context:
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        # Numbers, not names, in the paths: names hold whatever a class is called.
        run = RunIdentifier("pages", _EPOCH)
        for place, (_, summary) in enumerate(chosen):
            key = ValidationResultIdentifier(ExpectationSuiteIdentifier("augmill"), run, f"{place:04d}")
            context.validation_results_store.store_validation_results(_restore(summary), key)
        context.build_data_docs(build_index=False)
    pages = sorted(directory.glob("validations/**/*.html"))
    if len(pages) != len(chosen):  # Great Expectations only logs a page that breaks
        raise AugmillError(
            f"expected {len(chosen)} Data Docs pages, found {len(pages)}",
            where=directory.name,
            fix="switch them off with `validation: {data_docs: false}`; the report holds the same numbers",
        )
    return pages


def _restore(summary: Mapping[str, Any]) -> Any:
    """The summary as Great Expectations' own result object."""
    import great_expectations
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema

    results = [
        {
            "success": each["status"] == "passed",
            "expectation_config": {"type": each["type"], "kwargs": each["kwargs"], "meta": {}},
            "result": _escaped(each["result"]),
            "meta": {},
            "exception_info": {
                "raised_exception": each["status"] == "errored",
                "exception_message": each["message"],
                "exception_traceback": "",
            },
        }
        for each in summary["results"]
    ]
    passed = sum(each["success"] for each in results)
    statistics = {
        "evaluated_expectations": summary["evaluated"],
        "successful_expectations": passed,
        "unsuccessful_expectations": len(results) - passed,
        "success_percent": 100.0 * passed / len(results),
    }
    meta = {
        "run_id": {"run_name": "augmill", "run_time": _EPOCH.isoformat()},
        "great_expectations_version": great_expectations.__version__,
    }
    value = {"success": summary["success"], "suite_name": "augmill", "results": results, "statistics": statistics}
    return ExpectationSuiteValidationResultSchema().load({**value, "meta": meta})


def _escaped(result: Mapping[str, Any]) -> dict[str, Any]:
    """Great Expectations 1.24 puts offending values (and names of suites and runs) into its pages as they are."""
    values = result.get("partial_unexpected_list")
    return {**result, **({"partial_unexpected_list": [html.escape(str(each)) for each in values]} if values else {})}


_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer>.*?</footer>|url\('https?:[^)]*\)",
    re.DOTALL,
)
_RANDOM = re.compile(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # in the ids of collapsible blocks
_SUITE_LINK = re.compile(
    r"<a\b[^>]*\bhref=\"[^\"]*expectations/[^\"]*\"[^>]*>.*?</a>", re.DOTALL
)  # suites have no page
_POLICY = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .4rem .6rem; text-align: left; vertical-align: top; }
.badge { border: 1px solid #8886; border-radius: 4px; padding: 0 .3em; }
nav { height: auto !important; } ol { list-style: none; padding: 0; }
.navbar-brand, .ge-breadcrumbs .active, .sticky, .popover, button, a[data-toggle] { display: none; }
.fa-check-circle::before { content: "passed"; } .fa-times::before { content: "failed"; color: #c2410c; }
.fa-exclamation-triangle::before { content: "errored"; color: #c2410c; }
"""


def _offline(page: str, name: str) -> str:
    """The page without what it would fetch from eight public hosts, one of which sees every opening of it.

    Scripts go too (they only fold sections and filter): the tables themselves stand in the page.
    """
    heading = html.escape(name)
    local = _SUITE_LINK.sub(lambda _: heading, _RANDOM.sub("", _REMOTE.sub("", page)))
    # First in the head: what stands before the policy is not under it.
    return visible(
        re.sub(r"<head\b[^>]*>", lambda found: f"{found.group()}{_POLICY}", local, count=1).replace(
            "</head>", f"<style>{_STYLE}</style></head>", 1
        ),
        keep=PAGE,
    )


def _index(title: str, entries: Sequence[tuple[str, Mapping[str, Any]]], links: Mapping[str, str]) -> str:
    rows = []
    for name, summary in entries:
        label = html.escape(name)
        link = f'<a href="{html.escape(links[name])}">{label}</a>' if name in links else label
        counts = "".join(f"<td>{summary[key]:,}</td>" for key in ("rows", "planned", "evaluated", "failed", "errored"))
        rows.append(f"<tr><td>{link}</td><td>{summary['outcome'].replace('_', ' ')}</td>{counts}</tr>")
    head = "".join(
        f"<th>{each}</th>" for each in ("What", "Outcome", "Rows", "Planned", "Evaluated", "Failed", "Errored")
    )
    unpaged = len(entries) - len(links)
    note = f"<p>{unpaged:,} of {len(entries):,} have no page of their own.</p>" if unpaged else ""
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_POLICY}<title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>Data Docs: {html.escape(title)}</h1>{note}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></body></html>\n"
    )
    return visible(page, keep=PAGE)
