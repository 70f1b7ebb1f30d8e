"""The store, and what stands in it: artifacts, attempts, the log, the bank, erasures, the Delta table."""
