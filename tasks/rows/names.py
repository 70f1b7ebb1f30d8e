"""What may have been meant by a name that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

SHOWN = 32  # names in a message: all sections of a recipe (28), all options of chat (31)


def nearest(name: str, present: Sequence[str], otherwise: str = "") -> str:
    """``did you mean 'text'?``, whatever the case; where none is near ``otherwise``, or what there is."""
    folded = {other.casefold(): other for other in reversed(present)}
    key = name.casefold()
    holding = [other for other in folded if key in re.split(r"[\W_]+", other)]  # comment_text for text, not threat
    close = holding[-1:] if key not in folded and holding else difflib.get_close_matches(key, folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    rest = f" and {len(present) - SHOWN:,} more" if len(present) > SHOWN else ""
    return otherwise or f"there are: {', '.join(present[:SHOWN])}{rest}"
