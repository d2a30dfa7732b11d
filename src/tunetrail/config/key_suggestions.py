"""Lead an unknown key to the keys that were meant: by a typing error, a synonym, or its section."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from tunetrail.config.keys import all_settings
from tunetrail.config.settings import MODEL_SECTIONS
from tunetrail.config.synonyms import KEYS
from tunetrail.nearest_words import is_single_typo, nearest_words

_MOST_SHOWN = 3
# Letters from which a synonym with a typing error isn't some other word.
_LONG = 5


def is_known_key(key: str, groups: Collection[str] = ()) -> bool:
    """Tell whether a key exists, is a group, or stands below a mapping of the user's own names."""
    settings = all_settings()
    if key in settings or key in groups:
        return True
    names = key.split(".")
    if not all(names):
        return False
    above = (".".join(names[:end]) for end in range(1, len(names)))
    return any(section in settings and settings[section].is_mapping for section in above)


def did_you_mean_key(unknown_key: str, groups: Collection[str] = (), model_type: str = "") -> str:
    """Return ` Did you mean 'a.b' or 'c.b'?` for what an unknown key was meant to be.

    Args:
        unknown_key: The key.
        groups: The config groups.
        model_type: The model type that is trained, whose section comes first.
    """
    suggestions = suggest_keys(unknown_key, groups, model_type)[:_MOST_SHOWN]
    return f" Did you mean {' or '.join(map(repr, suggestions))}?" if suggestions else ""


def suggest_keys(unknown_key: str, groups: Collection[str] = (), model_type: str = "") -> list[str]:
    """Return the keys, groups or overrides that an unknown key was meant to be, likeliest first."""
    key = unknown_key.strip().replace("-", "_").casefold()
    known_keys = [*all_settings(), *groups]

    # A key with a single wrong letter, or in another case, is meant before any other likeness.
    if key in known_keys:
        return [key]
    typos = nearest_words(
        key, (known for known in known_keys if is_single_typo(key, known)), most=9
    )
    return (
        typos
        or _by_section(key, groups, model_type)
        or _by_synonym(key, model_type)
        or _by_misspelt_synonym(key, model_type)
        or _by_name(key, model_type)
    )


def _by_synonym(key: str, model_type: str) -> list[str]:
    """Return what the key's longest ending that is a synonym stands for."""
    names = key.split(".")
    endings = (".".join(names[start:]) for start in range(len(names)))
    meaning = next((KEYS[ending] for ending in endings if ending in KEYS), "")
    return _keys_meant(meaning, [names[0], model_type])


def _by_misspelt_synonym(key: str, model_type: str) -> list[str]:
    """Return what a synonym stands for from which the key's last name is a typing error away."""
    names = key.split(".")
    last_names = {known_key.rpartition(".")[2] for known_key in all_settings()}
    if names[-1] in last_names or len(names[-1]) < _LONG:
        return []
    meanings = (KEYS[guess] for guess in KEYS if is_single_typo(names[-1], guess))
    return _keys_meant(next(meanings, ""), [names[0], model_type])


def _keys_meant(meaning: str, model_types: Sequence[str]) -> list[str]:
    """Return the keys that a synonym stands for, of the first model type that is one, or of all."""
    if not meaning.startswith("*."):
        return [meaning] if meaning else []
    chosen = [section for section in model_types if section in MODEL_SECTIONS]
    return [f"{section}{meaning[1:]}" for section in chosen[:1] or MODEL_SECTIONS]


def _by_section(key: str, groups: Collection[str], model_type: str) -> list[str]:
    """Return the key with its first unknown name corrected, if that has a single typing error."""
    settings = all_settings()
    names = key.split(".")
    known_names = 0
    while ".".join(names[: known_names + 1]) in settings:
        known_names += 1
    section = ".".join(names[:known_names])

    # A single value has no keys below it.
    if section and not settings[section].is_section:
        return [section]
    prefix = f"{section}." if section else ""
    children = [
        child.removeprefix(prefix)
        for child in settings
        if child.startswith(prefix) and "." not in child.removeprefix(prefix)
    ]
    wrong_name = names[known_names]
    similar_names = [child for child in children if is_single_typo(wrong_name, child)]
    if not similar_names:
        return []

    corrected = ".".join([f"{prefix}{similar_names[0]}", *names[known_names + 1 :]])
    if is_known_key(corrected):
        return [corrected]
    # The names below it may be wrong as well.
    return suggest_keys(corrected, groups, model_type) or [f"{prefix}{similar_names[0]}"]


def _by_name(key: str, model_type: str) -> list[str]:
    """Return the keys whose last names are nearest, those in the same section first."""
    section, _, name = key.rpartition(".")
    keys_by_name: dict[str, list[str]] = defaultdict(list)
    for known_key in all_settings():
        keys_by_name[known_key.rpartition(".")[2]].append(known_key)
    nearest_names = nearest_words(name, keys_by_name)
    if not nearest_names:
        return []

    candidates = keys_by_name[nearest_names[0]]
    chosen_type = section.partition(".")[0] or model_type
    return (
        [candidate for candidate in candidates if candidate.rpartition(".")[0] == section]
        or [candidate for candidate in candidates if candidate.partition(".")[0] == chosen_type]
        or candidates
    )
