"""Write docs/configuration.md, the page that explains every setting and every group.

`make docs` runs it. A setting is explained by the docstring under it in src/tunetrail/config/, an
option of a group by the comment that opens its file in conf/.
"""

import ast
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from tunetrail.config import (
    MISSING,
    CheckConfig,
    EmbeddingConfig,
    SearchConfig,
    TrainRequest,
    ValidationConfig,
)
from tunetrail.config.losses import EMBEDDING_LOSSES, losses_of
from tunetrail.paths import conf_dir

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
<!-- `make docs` writes this page from the docstrings in src/tunetrail/config/ and from conf/. -->

# Configuration

Every key below can be set on the command line, in an experiment, and in Python:

```sh
tunetrail train session_id=s1 optimizer=sgd embedding.training.learning_rate=3e-5
tunetrail train session_id=s1 --cfg job   # prints the whole configuration and trains nothing
```

```python
from tunetrail.config import EmbeddingConfig, Settings, TrainingConfig

settings = Settings(embedding=EmbeddingConfig(training=TrainingConfig(learning_rate=3e-5)))
```

An unknown key, a value of the wrong type and a value out of range are errors that name the key.
`null` means that a setting isn't made.

## Groups

`GROUP=OPTION` sets several keys at once, and `KEY=VALUE` has the last word, wherever it stands. The
groups `optimizer`, `schedule`, `trainer` and `callbacks` set the same for `embedding.training` and
`llm.training`; options of `trainer` and of `callbacks` go together, as in
`'callbacks=[ema,frequent_checkpoints]'`, and so do options of `logger`.
"""

_MOST_CHOICES = 8
TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}


def reference() -> str:
    """Return the text of docs/configuration.md."""
    documented: dict[type, str] = {}
    lines = [INTRODUCTION, *group_lines(), *section_lines(TrainRequest(), "", documented)]
    lines += section_lines(SearchConfig(), "hydra.sweeper", documented)
    return "\n".join(lines).rstrip() + "\n"


def group_lines() -> Iterator[str]:
    """Yield a table of all options of all groups, the default of each group first."""
    defaults: dict[str, Any] = {}
    for choice in yaml.safe_load((conf_dir() / "train.yaml").read_text())["defaults"]:
        if isinstance(choice, dict):
            defaults.update(choice)

    yield "| option | what it stands for |"
    yield "|---|---|"
    for group, default in defaults.items():
        options = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        options.sort(key=lambda option: option != default)
        for option in options:
            note = " (default)" if option == default else ""
            comment = first_comment(conf_dir() / group / f"{option}.yaml")
            yield f"| `{group}={option}`{note} | {comment} |"
    yield ""


def first_comment(file: Path) -> str:
    """Return the comment that opens a YAML file, without Hydra's package line."""
    comments = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comments.append(line.removeprefix("#").strip())
    return " ".join(comments)


def section_lines(config: Any, section: str, documented: dict[type, str]) -> Iterator[str]:
    """Yield the keys of a section and of the sections within it.

    Args:
        config: The section with its defaults.
        section: Its dotted key, empty at the top.
        documented: Where each class of sections was documented before; added to.
    """
    yield heading(section)
    yield ""

    if type(config) in documented:
        yield from difference_lines(config, section, documented[type(config)])
        return

    documented[type(config)] = section
    yield first_paragraph(config) if section else "What applies to the run as a whole."
    yield ""

    meanings = docstrings(type(config))
    inner_sections = []
    for field in fields(config):
        value = getattr(config, field.name)
        key = f"{section}.{field.name}" if section else field.name
        if is_dataclass(value) and not isinstance(value, CheckConfig):
            inner_sections.append((value, key))
        else:
            yield f"- **`{key}`** ({allowed_values(type(config), field)}; {shown(value)})<br>"
            yield f"  {meanings[field.name]}"
    yield ""

    if isinstance(config, ValidationConfig):
        yield from section_lines(CheckConfig(), f"{section}.CHECK", documented)
    if isinstance(config, EmbeddingConfig):
        yield from loss_lines()
    for value, key in inner_sections:
        yield from section_lines(value, key, documented)


def loss_lines() -> Iterator[str]:
    """Yield a table of the losses of each shape."""
    yield "| shape | `auto` | with a teacher | other losses |"
    yield "|---|---|---|---|"
    for shape in EMBEDDING_LOSSES:
        first, *others = losses_of(shape, taught=False)
        taught = losses_of(shape, taught=True)
        yield f"| `{shape}` | `{first}` | {code_words(taught)} | {code_words(others)} |"
    yield ""


def code_words(words: Iterable[str]) -> str:
    """Return the words as code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def heading(section: str) -> str:
    """Return the heading of a section, one level deeper for each section around it."""
    level = "#" * min(section.count(".") + 2, 4)
    return f"{level} {section or 'The run'}"


def difference_lines(config: Any, section: str, first_section: str) -> Iterator[str]:
    """Yield a reference to the section with the same keys, and the defaults that differ."""
    anchor = first_section.replace(".", "")
    yield f"The keys of [`{first_section}`](#{anchor}), as in `{section}.{fields(config)[0].name}`."
    yield ""

    usual = type(config)()
    for field in fields(config):
        value = getattr(config, field.name)
        if value != getattr(usual, field.name):
            yield f"- **`{section}.{field.name}`** ({shown(value)})"
    yield ""


def first_paragraph(config: Any) -> str:
    """Return what the class says of the section."""
    return (inspect.getdoc(type(config)) or "").split("\n\n")[0].replace("\n", " ")


def docstrings(config_class: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass: the string literal under it."""
    meanings: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        if not is_dataclass(owner):
            continue
        (definition,) = ast.parse(inspect.getsource(owner)).body
        for field, docstring in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
                text = ast.literal_eval(docstring.value)
                meanings[ast.unparse(field.target)] = " ".join(text.split())
    return meanings


def allowed_values(config_class: type, field: "Field[Any]") -> str:
    """Return the type of a setting and the rule for its value, as in `integer, at least 1`."""
    hint = typing.get_type_hints(config_class)[field.name]
    if hint is CheckConfig:
        return "check"
    rule = field.metadata.get("rule")
    if hint is Any:
        return str(rule.text)

    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_optional = type(None) in alternatives
    concrete = [alternative for alternative in alternatives if alternative is not type(None)]

    # The rule of a text, or of a union such as `int | str`, says it all: "auto or at least 1".
    says_all = rule and (len(concrete) > 1 or concrete == [str])
    names = [] if says_all else [type_name(concrete[0])]
    if rule:
        is_long = len(rule.choices) > _MOST_CHOICES
        names.append("see the table" if is_long else rule.text.removeprefix("null or "))
    return ", ".join(names) + (", or null" if is_optional else "")


def type_name(hint: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(hint) is dict:
        return "mapping"
    if typing.get_origin(hint) is list:
        return f"list of {TYPE_NAMES[typing.get_args(hint)[0]]}s"
    return TYPE_NAMES[hint]


def shown(value: Any) -> str:
    """Return a default as it would be typed."""
    if value == MISSING:
        return "required"
    if isinstance(value, CheckConfig):
        aside = ", rows set aside" if value.set_aside else ""
        return f"default `{value.severity}` above {value.threshold:g}{aside}"
    if isinstance(value, float):
        return f"default `{re.sub('e-0', 'e-', repr(value))}`"

    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"default `{text}`"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
