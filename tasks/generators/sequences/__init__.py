"""Histories cut, thinned, reordered, with items replaced by similar ones; and made anew from what follows what."""

from augmill.tasks.generators.sequences.generator import Sequences

__all__ = ["Sequences"]
