"""Names by which requests ask for a model."""

from tunetrail.pipeline.root_sources import LoadedVersion
from tunetrail.serving.refusals import RefusedError

VERSION_HEADER = "x-tunetrail-version"
"""The header of an answer that names the version that gave it."""


def check_model(model: str | None, loaded: LoadedVersion) -> None:
    """Raise `RefusedError` unless a request asks for root, or for the version that root is."""
    known = (loaded.name, f"{loaded.name}@root", str(loaded))
    names = (*known, *(f"models:/{name}" for name in known[1:]))
    if model is not None and model not in names:
        raise RefusedError(404, f"model must be {', '.join(known)}, or be left out.")


def version_headers(loaded: LoadedVersion) -> dict[str, str]:
    """Return the headers that name the version that answered."""
    return {VERSION_HEADER: str(loaded)}
