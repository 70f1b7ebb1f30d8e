"""What lies between Augmill and the world: hosts, their answers, waiting, foreign Parquet, secrets, processes."""
