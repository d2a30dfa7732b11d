"""The kinds of models, and what a training may start from."""

from tunetrail.config.checks import check_choice, one_of

MODEL_TYPES = ("embedding", "llm")
ALL = "all"

START = one_of("root", "base")
"""The rule for `start_from`: a training starts from the root version or from the base model."""


def requested_model_types(model_type: str) -> tuple[str, ...]:
    """Return the model types that `embedding`, `llm` or `all` stands for.

    Raises:
        ConfigError: `model_type` is none of these.
    """
    check_choice("model_type", model_type, (*MODEL_TYPES, ALL))
    return MODEL_TYPES if model_type == ALL else (model_type,)
