"""Rows from a language model that was told the class (Kumar 2020, LAMBADA)."""

from augmill.tasks.generators.causal.generator import CausalLM

__all__ = ["CausalLM"]
