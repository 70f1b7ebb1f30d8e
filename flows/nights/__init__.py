"""Night after night: backfills and the nightly run, what is due, and who is told."""
