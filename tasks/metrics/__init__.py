"""Metrics. METRICS are those a gate can judge by: (right, predicted, actual) counts per class to one number."""

from augmill.tasks.metrics.classification import Metric, accuracy, macro_f1

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
