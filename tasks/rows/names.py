"""Names that are not there: which of those that are was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

NAMES = 20  # in a message


def nearest(name: str, present: Sequence[str]) -> str:
    """``did you mean 'text'?``, whatever the case; what there is, where none is near."""
    folded = {other.casefold(): other for other in reversed(present)}
    key = name.casefold()
    holding = [other for other in folded if key in re.split(r"[\W_]+", other)]  # comment_text for text, not threat
    close = holding[-1:] if key not in folded and holding else difflib.get_close_matches(key, folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    rest = f" and {len(present) - NAMES:,} more" if len(present) > NAMES else ""
    return f"there are: {', '.join(present[:NAMES])}{rest}"
