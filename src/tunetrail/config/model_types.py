"""The kinds of models, and where a training may start from."""

from tunetrail.config.checks import check_choice

MODEL_TYPES = ("embedding", "llm")
ALL = "all"


def check_start(name: str, value: str) -> None:
    """Raise `ConfigError` unless `value` says where a training starts: root or the base model."""
    check_choice(f"{name}.start_from", value, ("root", "base"))


def requested_model_types(model_type: str) -> tuple[str, ...]:
    """Return the model types behind `embedding`, `llm` or `all`; raises `ConfigError` for anything else."""
    check_choice("model_type", model_type, (*MODEL_TYPES, ALL))
    return MODEL_TYPES if model_type == ALL else (model_type,)
