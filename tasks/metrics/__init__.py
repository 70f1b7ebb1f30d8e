"""Metrics. METRICS are those a gate can judge by: (right, predicted, actual) counts per class to one number."""

from augmill.tasks.metrics.classification import Array, Metric, accuracy, counts, f1, macro_f1, recall

__all__ = ["METRICS", "Array", "counts", "f1", "recall"]


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
