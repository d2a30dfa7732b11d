"""Check the keys of overrides before Hydra composes: a mistake is named at once, in our words."""

import re
from collections.abc import Sequence

from tunetrail.cli.conf_groups import groups, is_open_key
from tunetrail.config.key_suggestions import did_you_mean_key, is_known_key
from tunetrail.errors import ConfigError

_OVERRIDE = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[^=]*)(?P<equals>=?)")
# Keys of Hydra itself, and groups with a package or below another group.
_NOT_OURS = re.compile(r"hydra([./]|$)|.*[@/]")
_LOGGING = re.compile(r"hydra\.(job|hydra)_logging\b")
# What lets Python's logging call a function or a class of any module.
_CODE = re.compile(r"\(\)|\bclass\b|_target_")
# A switch, a name, or a list of names: Hydra asserts that `hydra.verbose` is one of them.
_VERBOSE = re.compile(r"""(?!null$)(\[.*\]|["']?[A-Za-z_].*)""")


def check_keys(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for the first override whose key doesn't exist.

    What isn't an override is left to Hydra, and so are the keys of Hydra itself.
    """
    known_groups = tuple(groups())
    model_type = next((value for key, value in _pairs(overrides) if key == "model_type"), "")

    for key, value in _pairs(overrides):
        if _LOGGING.match(key) and _CODE.search(f"{key}={value}"):
            raise ConfigError(
                f"{key} must name no function and no class, got {value!r}. Set levels, formats and "
                "file names only."
            )
        if key == "hydra.verbose" and not _VERBOSE.fullmatch(value):
            raise ConfigError(
                f"hydra.verbose must be true, false, or names of loggers, got {value!r}. Write "
                "hydra.verbose=true for all that is logged."
            )
        if _NOT_OURS.match(key) or is_known_key(key, known_groups):
            continue
        raise ConfigError(
            f"there is no key {key}.{did_you_mean_key(key, known_groups, model_type)} "
            "`tunetrail train --help KEY` explains a key."
        )


def with_signs(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `++` before names that users make up, such as a callback's.

    Hydra wants a plus before a key that isn't there yet. Two of them also allow a key that an
    option of a group, such as `callbacks=ema`, has added already.
    """
    signed = []
    for override in overrides:
        match = _OVERRIDE.match(override)
        is_unsigned = match is not None and bool(match["equals"]) and not match["sign"]
        is_new = match is not None and is_unsigned and is_open_key(match["key"].strip())
        signed.append(f"++{override}" if is_new else override)
    return signed


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Return key and value of each argument that has the form of an override."""
    pairs = []
    for override in overrides:
        match = _OVERRIDE.match(override)
        if match and match["key"].strip() and (match["equals"] or match["sign"] == "~"):
            pairs.append((match["key"].strip(), override[match.end() :]))
    return pairs
