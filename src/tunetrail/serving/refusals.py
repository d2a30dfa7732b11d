"""Refusals: one line for a request that can't be answered, in OpenAI's and in MLflow's form."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_CODES = {404: "RESOURCE_DOES_NOT_EXIST", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}

_SHOWN_FIELDS = 3


class RefusedError(Exception):
    """A request that isn't answered.

    Attributes:
        status: The HTTP status.
        text: Why, in one line.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def error_response(status: int, text: str) -> JSONResponse:
    """Return the answer for an error: `error.message` is OpenAI's, `message` is MLflow's."""
    line = " ".join(text.split())
    # The name of an unknown field may hold half of a character.
    line = line.encode(errors="replace").decode()
    kind = _TYPES.get(status, "invalid_request_error")
    content = {
        "error": {"message": line, "type": kind, "param": None, "code": None},
        "error_code": _CODES.get(status, "BAD_REQUEST"),
        "message": line,
    }
    return JSONResponse(content, status)


def invalid_fields(errors: Sequence[Any]) -> str:
    """Return what is wrong with the fields of a request, without the values that it has.

    Args:
        errors: The errors of pydantic.
    """
    reasons: dict[str, str] = {}
    for error in errors:
        # The first word is `body`.
        words = [str(word) for word in error["loc"][1:]]
        names = [word for word in words if not _is_alternative(word)]
        is_of_wrong_type = len(names) < len(words) and error["type"] != "value_error"
        reason = "must be a text or a list" if is_of_wrong_type else _reason(error)
        path = ".".join(names)
        if error["type"] == "json_invalid" or not names:
            path = "the body"
        reasons.setdefault(path, reason)

    shown = [f"{path} {reason}" for path, reason in list(reasons.items())[:_SHOWN_FIELDS]]
    further = len(reasons) - len(shown)
    return "; ".join([*shown, f"{further} more"] if further else shown) + "."


def _is_alternative(word: str) -> bool:
    """Tell whether pydantic names a type among several here, and no field."""
    return word == "str" or word.startswith(("list[", "function-after["))


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "isn't a field of this request"
    if error["type"] in ("json_invalid", "model_attributes_type"):
        return "must be a JSON object"
    if error["type"] == "missing":
        return "is missing"
    # "Input should be ...": the rule, without the value.
    message = str(error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "must be", 1)
