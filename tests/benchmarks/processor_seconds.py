"""A pytest plugin: processor seconds of each test, by itself and by the processes it started, whatever else runs here.

    PYTHONPATH=tests/benchmarks python -m pytest -p processor_seconds --processor-seconds FILE [tests ...]
    python tests/benchmarks/processor_seconds.py FILE...    prints the table by directory of what was written

A line of FILE is the seconds, ``slow`` or nothing, the test's id. What a fixture of a module or session costs counts for its
first test; ``(collection)`` is importing, also of the test files.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

OWN = psutil.Process()


def processor_seconds() -> float:
    """Of this process, of its children that ended, and of those that live, with theirs."""
    total = 0.0
    for process in (OWN, *OWN.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:  # ended meanwhile: its parent has it by the next test
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processor-seconds", metavar="FILE", help="write each test's processor seconds there")


def pytest_collection_finish(session: pytest.Session) -> None:
    _note(session.config, processor_seconds(), "\t(collection)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = processor_seconds()
    try:
        return (yield)
    finally:
        tier = "slow" if item.get_closest_marker("slow") else ""
        _note(item.config, processor_seconds() - before, f"{tier}\t{item.nodeid}")


def _note(config: pytest.Config, seconds: float, name: str) -> None:
    if (file := config.getoption("--processor-seconds")) is not None:
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(f"{seconds:.2f}\t{name}\n")


def main(files: list[str]) -> None:
    """Prints tests and seconds by directory, the files directly under tests/ each for itself; the last columns are of
    what `make test` leaves out."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0, 0.0])
    for line in (line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()):
        spent, tier, name = line.split("\t", 2)
        for place in ("/".join(name.split("::")[0].split("/")[:2]), "all"):
            at = 2 if tier else 0
            found[place][at] += name != "(collection)"
            found[place][at + 1] += float(spent)
    print("| tests | quick | s | slow | s |\n|---|---:|---:|---:|---:|")
    for place in sorted(found, key=lambda place: (place == "all", -found[place][1] - found[place][3])):
        print(f"| {place} | {' | '.join(f'{number:,.0f}' for number in found[place])} |")


if __name__ == "__main__":
    main(sys.argv[1:])
