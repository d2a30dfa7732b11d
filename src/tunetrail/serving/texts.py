"""Requests for vectors: OpenAI's `/v1/embeddings`, and MLflow's `/invocations`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunetrail.serving.fields import Text
from tunetrail.serving.refusals import RefusedError

_FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")


class EmbeddingRequest(BaseModel):
    """The body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Text | list[Text]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    prompt_name: str | None = None
    # OpenAI's clients may send it; it is of no use here.
    user: str | None = None


class SplitFrame(BaseModel):
    """A table of one column, as pandas writes it with `orient="split"`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: list[list[Text]]
    columns: list[Any] | None = None
    index: list[Any] | None = None


class EncodingParams(BaseModel):
    """MLflow's `params`, which go to `encode`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt_name: str | None = None


class Invocation(BaseModel):
    """The body of `/invocations`: exactly one of MLflow's four forms of input."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Text | list[Text] | None = None
    instances: Text | list[Text] | None = None
    dataframe_split: SplitFrame | None = None
    dataframe_records: list[dict[str, Text]] | None = None
    params: EncodingParams = Field(default_factory=EncodingParams)

    def texts(self) -> list[str]:
        """Return the texts; raises `RefusedError` unless there is one text in each row."""
        present = [name for name in _FORMATS if getattr(self, name) is not None]
        if len(present) != 1:
            raise RefusedError(
                400,
                f"the body must have exactly one of {', '.join(_FORMATS)}, got "
                f"{' and '.join(present) or 'none'}.",
            )

        values = getattr(self, present[0])
        if present[0] == "dataframe_split":
            return _only_column("dataframe_split.data", values.data)
        if present[0] == "dataframe_records":
            rows = [list(record.values()) for record in values]
            return _only_column("dataframe_records", rows)
        return as_list(values)


def as_list(texts: str | Sequence[str]) -> list[str]:
    """Return the texts of a request, which may be a single one."""
    return [texts] if isinstance(texts, str) else list(texts)


def check_texts(texts: Sequence[str], most: int) -> None:
    """Raise `RefusedError` unless there is a text, and no more than are accepted."""
    if not 1 <= len(texts) <= most:
        raise RefusedError(
            400, f"a request must have 1 to {most} texts, got {len(texts)}. Send several requests."
        )


def check_prompt(name: str | None, prompts: Mapping[str, str]) -> None:
    """Raise `RefusedError` unless the model has a prompt of this name, or none is asked for."""
    if name is not None and name not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise RefusedError(400, f"prompt_name must be one of the model's prompts: {known}.")


def _only_column(name: str, rows: Sequence[Sequence[str]]) -> list[str]:
    if any(len(row) != 1 for row in rows):
        raise RefusedError(400, f"{name} must have one column, the text.")
    return [row[0] for row in rows]
