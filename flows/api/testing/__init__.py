"""What Augmill expects of an extension, as laws that its own tests can run; needs no test runner.

A law is a function that raises AssertionError, with what was expected, where it is broken. With pytest::

    @pytest.fixture(scope="module")
    def bench(tmp_path_factory):
        return GeneratorBench(Shout(ShoutOptions()), tmp_path_factory.mktemp("shout"))

    @pytest.mark.parametrize("law", GENERATOR_LAWS)
    def test_it_keeps_the_law(law, bench):
        law(bench)
"""

from augmill.testing.checks import CHECK_LAWS, CheckBench
from augmill.testing.generators import GENERATOR_LAWS, GeneratorBench
from augmill.testing.kinds import KIND_LAWS, kind_laws
from augmill.testing.metrics import METRIC_LAWS, drawn_predictions
from augmill.testing.problems import PROBLEM_LAWS
from augmill.testing.sources import SOURCE_LAWS, SourceBench
from augmill.testing.trainers import TRAINER_LAWS, TrainerBench

__all__ = [
    "CHECK_LAWS",
    "GENERATOR_LAWS",
    "KIND_LAWS",
    "METRIC_LAWS",
    "PROBLEM_LAWS",
    "SOURCE_LAWS",
    "TRAINER_LAWS",
    "CheckBench",
    "GeneratorBench",
    "SourceBench",
    "TrainerBench",
    "drawn_predictions",
    "kind_laws",
]
