"""Keep values of text keys as they were typed, where Hydra and YAML would read a number.

Hydra's grammar and YAML read `2026_11_24` as the number 20261124, and a text key would get that
number's digits. The schema knows which keys hold text, so their values are quoted before Hydra
reads them. Lists, sweeps, quotes and `${...}` keep the meaning that Hydra gives them.
"""

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, ValueType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from tunetrail.errors import ConfigError

TextKeys = dict[str, bool]
"""Every key that holds a text or a list of texts, and whether it may be null."""

# A value that stands alone, between commas or within brackets; quoted or not.
_SCALAR = re.compile(
    r"""(?P<quote>['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)|(?:\\.|[^,()\[\]'"\\])+"""
)
_PARSER = OverridesParser.create()


def text_keys(schema: Any, prefix: str = "") -> TextKeys:
    """Return the text keys of a dataclass and of the dataclasses within it."""
    keys: TextKeys = {}

    for field in fields(schema):
        key = f"{prefix}{field.name}"
        if is_dataclass(field.type):
            keys |= text_keys(field.type, f"{key}.")
            continue
        # `int | str` is no text key: a batch size is a number or `auto`.
        if field.metadata.get("text"):
            keys[key] = False
            continue
        is_union = isinstance(field.type, UnionType)
        alternatives = set(get_args(field.type)) if is_union else {field.type}
        if alternatives <= {str, list[str], NoneType}:
            keys[key] = NoneType in alternatives

    return keys


def keep_text(override: str, keys: TextKeys) -> str:
    """Return an override of which Hydra reads the value as text if its key is a text key."""
    key, _, value = override.partition("=")
    name = key.lstrip("+")
    if name not in keys:
        return override

    try:
        parsed = _PARSER.parse_override(override)
    except HydraException:
        # JSON has quoted keys, which Hydra's own mappings don't know: a text such as a JSON schema.
        if _is_json(value):
            return f"{key}={_quoted(value)}"
        # Hydra can't read, for example, ";", "=" or Chinese. A bracket or a quote that was never
        # closed stays the error that Hydra reports.
        if value.lstrip().startswith(("[", "{", "'", '"')):
            return override
        return f"{key}={','.join(map(_quoted, value.split(',')))}"

    if type(parsed._value) is str and value != value.strip():
        # Hydra strips blanks, but prompts such as "query: " end in one.
        return f"{key}={_quoted(value.replace(value.strip(), parsed._value.strip()))}"
    # range(...) and interval(...) are syntax of Hydra and not text.
    if parsed.value_type in (ValueType.RANGE_SWEEP, ValueType.INTERVAL_SWEEP):
        return override

    def quote_number(scalar: re.Match[str]) -> str:
        typed = scalar[0].strip()
        if scalar["quote"] or not typed or not _is_read_as_other_type(typed, keys[name]):
            return scalar[0]
        return scalar[0].replace(typed, _quoted(typed))

    return f"{key}={_SCALAR.sub(quote_number, value)}"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _is_read_as_other_type(scalar: str, may_be_null: bool) -> bool:
    """Tell whether Hydra reads a number, a boolean or a null that the key can't hold."""
    try:
        value = _PARSER.parse_rule(scalar, "primitive")
    except HydraException:
        return False
    return not isinstance(value, str | QuotedString) and not (value is None and may_be_null)


def without_quotes(override: str) -> str:
    """Return an override as people read it: without the quotes of `keep_text` or of the user."""
    value = _PARSER.parse_override(override)._value
    if not isinstance(value, QuotedString):
        return override
    return f"{override.partition('=')[0]}={value.text}"


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


class TypedFileSource(FileConfigSource):
    """YAML files of a folder, with the values of text keys as they were typed."""

    keys: ClassVar[TextKeys] = {}

    @staticmethod
    def scheme() -> str:
        """Return the scheme of such folders in hydra.searchpath."""
        return "typed"

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file, and put text values that YAML read as numbers back as they were typed."""
        result = super().load_config(config_path)
        _check_hydra_part(config_path, result)

        # Without a package header, a file's keys go below its group.
        group = Path(config_path).parent.as_posix().replace("/", ".")
        package = (result.header["package"] or "_group_").replace("_group_", group)
        prefix = "" if package == "_global_" else f"{package.removeprefix('_global_.')}."

        content = Path(self.path, self._normalize_file_name(config_path)).read_text("utf-8")
        # The nodes hold each scalar as it was typed, before YAML turns it into a number.
        document = yaml.compose(content, Loader=yaml.SafeLoader)
        self._restore_texts(result.config, document, "", prefix)
        return result

    def _restore_texts(self, config: Any, node: Any, key: str, prefix: str) -> None:
        """Put the values of text settings back as they were typed in the file, at any depth."""
        children: list[tuple[Any, Any, str]] = []
        if isinstance(node, yaml.MappingNode):
            for name, child in node.value:
                children.append((name.value, child, f"{key}.{name.value}".lstrip(".")))
        elif isinstance(node, yaml.SequenceNode):
            children = [(index, child, key) for index, child in enumerate(node.value)]

        for position, child, child_key in children:
            if not isinstance(child, yaml.ScalarNode):
                if isinstance(position, int) or position in config:
                    self._restore_texts(config[position], child, child_key, prefix)
                continue
            is_null = child.tag == "tag:yaml.org,2002:null"
            # The defaults list names groups and their options: texts as well.
            is_text = f"{prefix}{child_key}" in self.keys or child_key.startswith("defaults")
            if is_text and not is_null:
                config[position] = child.value
            # A sweep's values in a file are overrides, and are read like the terminal's.
            elif key == "hydra.sweeper.params":
                swept = keep_text(f"{position}={child.value}", self.keys)
                config[position] = swept.partition("=")[2]


# The parts of Hydra's own configuration that an experiment may set.
_OF_HYDRA = ("sweeper", "launcher")


def _check_hydra_part(file: str, result: ConfigResult) -> None:
    """Raise `ConfigError` if an experiment sets more of Hydra than its sweep.

    The rest says which files are written where and which classes log, which is for whoever calls
    the command, and not for a file that came with a folder.
    """
    config: Any = OmegaConf.to_container(result.config)
    content = config if isinstance(config, dict) else {}
    package = str(result.header["package"] or "").removeprefix("_global_.")
    targets = [f"{package}.{key}" for key in content] if package else []
    for key in content.get("hydra") or {}:
        targets.append(f"hydra.{key}")

    # An entry of the defaults list may put another file there: `/other@hydra.job_logging: x`.
    for entry in content.get("defaults") or []:
        words = str(next(iter(entry)) if isinstance(entry, dict) else entry).split()
        name, _, place = words[-1].partition("@")
        group = name.removeprefix("/").replace("/", ".") if name.startswith("/") else ""
        targets.append(place.removeprefix("_global_.") or group)

    for target in targets:
        parts = target.split(".")
        if parts[0] == "hydra" and (len(parts) < 2 or parts[1] not in _OF_HYDRA):
            raise ConfigError(
                f"{file} must set nothing of Hydra except hydra.sweeper and hydra.launcher, got "
                f"{target}. Give it on the command line."
            )
