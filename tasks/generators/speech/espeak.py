"""The system's espeak-ng: a process for each row, which gets the text on its standard input and no shell.

The same version says the same text in the same way, sample for sample, so that a row is a function of what was drawn.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

from augmill.tasks.errors import RefusedFile, UserError, WorldError
from augmill.tasks.generators.speech.options import SpeechOptions
from augmill.tasks.rows.kinds.audio import Samples, samples

PROGRAM = "espeak-ng"
VARIANTS = (*(f"m{at}" for at in range(1, 9)), *(f"f{at}" for at in range(1, 6)))  # that every installation has
SECONDS = 120.0  # until it counts as stuck
_INSTALL = "install espeak-ng (`apt install espeak-ng`, `brew install espeak-ng`), or use `engine: model`"


def version() -> str:
    """Such as ``1.51``. Raises UserError where it is not installed."""
    if shutil.which(PROGRAM) is None:
        raise UserError("espeak-ng, the program that speaks, is not installed", where="speech", fix=_INSTALL)
    said = _output(["--version"]).decode("utf-8", "replace")
    found = re.search(r"\d+(\.\d+)+\S*", said)
    if found is None:
        raise UserError(f"espeak-ng does not say its version: {said[:100]!r}", where="speech", fix=_INSTALL)
    return found[0]


def voices(options: SpeechOptions) -> list[str]:
    """Those that rows are spoken by, sorted. Raises UserError for a language or a voice that it does not have."""
    if not options.voices:
        own = _languages(options.language)
        if not own:
            known = ", ".join(_languages(""))
            problem = f"language: espeak-ng has no voice for {options.language!r}"
            raise UserError(problem, where="speech", fix=f"use one of {known}")
        return sorted(f"{name}+{variant}" for name in own for variant in VARIANTS)
    for voice in options.voices:
        if voice.startswith("-") or not speak("a", voice, 175, 50):
            problem = f"voices: espeak-ng has no voice {voice!r}"
            raise UserError(problem, where="speech", fix="`espeak-ng --voices` and `--voices=variant` list them")
    return sorted(set(options.voices))


def _languages(language: str) -> list[str]:
    """Codes of its voices, but for those that need the program mbrola."""
    lines = _output([f"--voices={language}"] if language else ["--voices"]).decode("utf-8", "replace").splitlines()
    parts = [line.split() for line in lines[1:]]
    return sorted({part[1] for part in parts if len(part) > 4 and not part[4].startswith("mb/")} - {"variant"})


@cache
def _known() -> list[str]:
    return [shutil.which(PROGRAM) or PROGRAM]


def speak(text: str, voice: str, rate: int, pitch: int) -> tuple[Samples, int] | None:
    """(one channel, Hz); None where nothing is heard. Raises as ``version``, and WorldError where it hangs."""
    said = text.replace("[[", "[ [")  # which it would take for phonemes
    data = _output(["--stdin", "--stdout", "-b", "1", "-v", voice, "-s", str(rate), "-p", str(pitch)], said)
    try:
        return samples(data) if data else None
    except RefusedFile:
        return None


def _output(arguments: list[str], text: str = "") -> bytes:
    try:
        done = subprocess.run(
            [*_known(), *arguments], input=text.encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError("espeak-ng, the program that speaks, is not installed", where="speech", fix=_INSTALL) from None
    except subprocess.TimeoutExpired:
        raise WorldError(f"espeak-ng has not answered for {SECONDS:g} s", where="speech") from None
    return done.stdout
