"""A metric of written answers: how much shorter or longer they are than the expected ones."""

from tunetrail.evaluation.metric import ExampleMetric


def length_likeness(answer: str, expected: str, options: None) -> float:
    """Return the shorter length over the longer one, from 0 to 1."""
    shorter, longer = sorted((len(answer), len(expected)))
    return shorter / longer if longer else 1.0


LENGTH_LIKENESS = ExampleMetric(
    name="length_likeness", label="length likeness", of_answer=length_likeness
)
