"""Says in one line of ours what Hydra and OmegaConf raise, with the way out."""

import contextlib
import re
from collections.abc import Iterator

from tunetrail.cli.conf_groups import groups
from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.config.synonyms import words_of
from tunetrail.errors import ConfigError, did_you_mean, one_line

NO_SESSION = "session_id must be given, as in session_id=ID. `tunetrail sessions` lists them."
# The environment variables that conf/ reads: the group, the key that it sets, and an example.
_VARIABLES = {
    "MLFLOW_TRACKING_URI": ("tracking=server", "tracking.uri", "http://HOST:5000"),
    "TUNETRAIL_DATABASE_URL": (
        "database=postgres",
        "database.url",
        "postgresql+psycopg://USER:PASSWORD@HOST/NAME",
    ),
}


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Raise `ConfigError`, in one line, for what Hydra and OmegaConf raise."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error)) from error
    except ValueError as error:
        # Hydra raises these as plain ValueErrors; any other one is a bug and stays as it is.
        if "Config group override must be" in str(error):
            advice = "a config group takes the name of one of its options, as in embedding=minilm."
            raise ConfigError(advice) from error
        if "--multirun" in str(error):
            raise ConfigError(str(error)) from error
        # What Python's logging says of a level or a handler that there isn't.
        if str(error).startswith("Unable to configure"):
            raise ConfigError(
                "hydra.job_logging and hydra.hydra_logging must be what Python's logging takes, "
                f"got {one_line(error.__cause__ or error).rstrip('.')}. Correct or drop the "
                "override."
            ) from error
        raise


def _explained(error: Exception) -> str:
    """Return Hydra's or OmegaConf's message in one line, with the nearest known key or option."""
    messages = [str(error), str(error.__cause__ or "")]
    text = " ".join(" ".join(messages).split())
    whole_key = re.search(r"full_key: ([^\s\[]+)", text)
    # Hydra's internals say nothing to a user, and its advice to add the key with + is wrong:
    # `checked_request` refuses unknown keys.
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\S*", "", text)
    text = re.sub(r" To append to your config use \+\S+", "", text)
    text = re.sub(r" Config search path:.*", "", text)

    # Hydra has resolved a folder that is called after the session.
    if "Missing mandatory value: session_id" in text:
        return NO_SESSION

    variable = re.search(r"Environment variable '([^']+)' not found", text)
    if variable:
        return _absent_variable(variable[1])

    # Without a package header, the keys of a file go below the group that it was chosen from.
    experiment = re.search(r"In '(experiments/[^']+)': .*Key 'experiments' not in", text)
    if experiment:
        return (
            f"{experiment[1]}.yaml must say that its keys belong to the whole configuration: "
            f"add `# @package _global_` as the first line of {experiment[1]}.yaml."
        )

    option = re.search(
        r"Could not find '([^'/]+)/([^']+)' Available options in '[^']+': (.+)", text
    )
    if option:
        words = words_of(option[1])
        return f"{text}.{did_you_mean(option[2], option[3].split(), words)}"

    assigned = re.search(r"override \+*(trainer\.(?:callbacks|logger))\S*=.*Cannot assign", text)
    if assigned:
        key_of_class = f"+{assigned[1]}.NAME._target_=CLASS"
        return f"{assigned[1]} must be a mapping of names to classes. Write {key_of_class}."

    wrong_name = re.search(r"Key '([^']+)' (?:is )?not in", text)
    key = re.search(r"Could not override '([^']+)'", text) or wrong_name
    if key and wrong_name:
        unknown_key = whole_key[1] if whole_key else key[1]
        if unknown_key.startswith("hydra."):
            return f"there is no key {unknown_key} of Hydra. A plus adds one: +{unknown_key}=VALUE."
        return f"there is no key {unknown_key}.{did_you_mean_key(unknown_key, tuple(groups()))}"
    return f"{text}{did_you_mean_key(key[1], tuple(groups()))}" if key else text


def _absent_variable(name: str) -> str:
    """Return the message for an environment variable that the configuration lacks."""
    group, key, example = _VARIABLES.get(name, ("the configuration", "its key", "VALUE"))
    return (
        f"{name} must be set in the environment for {group}, got none. "
        f"Write export {name}={example}, or set {key} instead."
    )
