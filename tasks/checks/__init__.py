"""The checks, in the order in which they own a refused row: the first that refuses it. Those from outside come last."""

from augmill.tasks.checks.answers import Answers
from augmill.tasks.checks.catalogue import Catalogue
from augmill.tasks.checks.constraints import Constraints
from augmill.tasks.checks.garbage import Garbage
from augmill.tasks.checks.label_consistency import LabelConsistency
from augmill.tasks.checks.label_set import LabelSet
from augmill.tasks.checks.length import Length
from augmill.tasks.checks.ranges import Ranges
from augmill.tasks.checks.relations import Relations, RelationsOptions
from augmill.tasks.checks.teacher import TeacherCheck
from augmill.tasks.contracts import Check
from augmill.tasks.registry import Registry

__all__ = ["CHECKS", "RelationsOptions"]


_SHIPPED: dict[str, type[Check]] = {
    "teacher": TeacherCheck,  # of generators with `label_by` alone; those after it see the class that it gave
    "length": Length,
    "ranges": Ranges,
    "constraints": Constraints,  # of recipes that give it rules alone
    "answers": Answers,
    "catalogue": Catalogue,
    "label_set": LabelSet,
    "relations": Relations,
    "garbage": Garbage,
    "label_consistency": LabelConsistency,
}

CHECKS = Registry("check", Check, _SHIPPED)
