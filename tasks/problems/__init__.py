"""What is learnt from rows, and the classifiers that checks and generators share."""

from augmill.tasks.problems.classifier import VOCABULARY, WEIGHTS, Classifier
from augmill.tasks.problems.semi_supervised import FILE, MEMBERS, Learner, Teacher, Teaching, teach

__all__ = ["FILE", "MEMBERS", "VOCABULARY", "WEIGHTS", "Classifier", "Learner", "Teacher", "Teaching", "teach"]
