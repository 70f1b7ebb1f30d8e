"""Tables: numbers, categories and timestamps as one kind, and their rows as numbers for what learns from them."""

from augmill.tasks.rows.kinds.table.kind import Table

__all__ = ["Table"]
