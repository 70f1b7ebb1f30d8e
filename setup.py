"""README.md as PyPI shows it. Everything else stands in pyproject.toml.

A relative link leads nowhere there: its words stay, and name the file as the source distribution has it. A picture goes.
"""

import re
from pathlib import Path

from setuptools import setup

_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)([^)#]*)[^)]*\)")


def without_relative_links(text: str) -> str:
    def words(found: re.Match[str]) -> str:
        said, file = found[1], found[2]
        return f"`{file}`" if said == file else f"{said} (`{file}`)" if file else said

    return _LINK.sub(words, _PICTURE.sub("", text))


setup(
    long_description=without_relative_links(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
