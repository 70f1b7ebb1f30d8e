"""What is learnt from rows, a file each; labels; the classifiers that checks and generators share."""

from collections.abc import Iterable

from augmill.tasks.contracts import ANY, Problem
from augmill.tasks.errors import UserError
from augmill.tasks.problems.classification import Classification
from augmill.tasks.problems.classifier import VOCABULARY, WEIGHTS, Classifier, RowClassifier
from augmill.tasks.problems.detection import Detection
from augmill.tasks.problems.ranking import ItemRanking
from augmill.tasks.problems.regression import Regression
from augmill.tasks.problems.semi_supervised import FILE, MEMBERS, Learner, Teacher, Teaching, teach
from augmill.tasks.problems.text_to_text import TextToText
from augmill.tasks.problems.transcription import Transcription
from augmill.tasks.registry import Registry
from augmill.tasks.rows.kinds import KINDS

__all__ = [
    "FILE",
    "MEMBERS",
    "PROBLEMS",
    "VOCABULARY",
    "WEIGHTS",
    "Classifier",
    "Learner",
    "RowClassifier",
    "Teacher",
    "Teaching",
    "problem_learning",
    "teach",
]

_classification = Classification()
# By what a recipe's ``task`` calls them. Extend with one file and one line here, or from outside.
_SHIPPED: dict[str, Problem] = {
    "classification": _classification,
    "pair_classification": _classification,
    "regression": Regression(),
    "text_to_text": TextToText(),
    "transcription": Transcription(),
    "ranking": ItemRanking(),
    "detection": Detection(),
}
PROBLEMS = Registry("problem", Problem, _SHIPPED, made=True)


def problem_learning(type: str, inputs: Iterable[str] = ()) -> str | None:
    """The name of the first problem that learns a target of the type from inputs of these types, as a recipe has them; those

    of other packages are looked at last.
    """
    for name in PROBLEMS.names():
        try:
            kinds = PROBLEMS[name].kinds
            if type in PROBLEMS[name].types and (ANY in kinds or all(KINDS[each].name in kinds for each in inputs)):
                return name
        except UserError:  # one that cannot be loaded breaks the recipes that name it, and no others
            continue
    return None
