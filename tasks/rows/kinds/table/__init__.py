"""Tables: numbers, categories and timestamps as one kind, and their rows as numbers for what learns from them."""

from augmill.tasks.rows.kinds.table.kind import Table
from augmill.tasks.rows.kinds.table.values import NUMBER, TIMESTAMP, is_moment, micros, read_column

__all__ = ["NUMBER", "TIMESTAMP", "Table", "is_moment", "micros", "read_column"]
