"""Rows from an instruct model, in this process or behind an endpoint."""

from augmill.tasks.generators.chat.generator import Chat

__all__ = ["Chat"]
