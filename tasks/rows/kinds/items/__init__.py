"""Histories: lists of items in order, as recommenders read them."""

from augmill.tasks.rows.kinds.items.kind import ITEMS, Items

__all__ = ["ITEMS", "Items"]
