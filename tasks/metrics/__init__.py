"""Metrics: what a gate judges by. Extend with one file, and one entry here."""

from augmill.tasks.contracts import Metric
from augmill.tasks.metrics.classification import RIGHT, Accuracy, MacroF1
from augmill.tasks.metrics.ranking import Auc, AveragePrecision
from augmill.tasks.metrics.regression import R2, Mae, Rmse

__all__ = ["METRICS", "RIGHT"]

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Accuracy(), MacroF1(), Auc(), AveragePrecision(), Mae(), Rmse(), R2())
}
