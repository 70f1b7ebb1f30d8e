"""Metrics: what a gate judges by. Extend with one file and one entry here, or from outside."""

from augmill.tasks.contracts import Metric
from augmill.tasks.metrics.classification import RIGHT, Accuracy, MacroF1
from augmill.tasks.metrics.detection import Map, Map50
from augmill.tasks.metrics.next_item import Ndcg, Recall
from augmill.tasks.metrics.ranking import Auc, AveragePrecision
from augmill.tasks.metrics.regression import R2, Mae, Rmse
from augmill.tasks.metrics.texts import ChrF, ExactMatch, RougeL
from augmill.tasks.metrics.transcription import CharacterErrors, WordErrors
from augmill.tasks.registry import Registry

__all__ = ["METRICS", "RIGHT"]

_SHIPPED = (
    *(Accuracy(), MacroF1(), Auc(), AveragePrecision(), Mae(), Rmse(), R2()),
    *(Map(), Map50(), RougeL(), ChrF(), ExactMatch(), Ndcg(), Recall()),
    *(WordErrors(), CharacterErrors()),
)
METRICS: Registry[Metric] = Registry("metric", Metric, {metric.name: metric for metric in _SHIPPED}, made=True)
