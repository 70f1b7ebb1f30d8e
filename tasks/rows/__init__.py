"""What every module shares about rows: their tables, hashes, random numbers, and the calendar they are cut by."""
