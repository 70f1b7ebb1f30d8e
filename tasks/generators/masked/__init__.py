"""Rows whose words a masked language model replaced, told the label."""

from augmill.tasks.generators.masked.generator import MaskedLM

__all__ = ["MaskedLM"]
