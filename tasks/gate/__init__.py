"""The gate: three arms, gains with intervals, a verdict in numbers and words."""
