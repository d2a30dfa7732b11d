"""Write docs/configuration.md, the page that explains every setting and every group.

`make docs` runs it. A setting is explained by the docstring under it in src/tunetrail/config/, an
option of a group by the comment that opens its file in conf/.
"""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunetrail.cli.conf_groups import default_options, option_comment, shipped_groups
from tunetrail.config import (
    CheckConfig,
    EmbeddingConfig,
    SearchConfig,
    TrainRequest,
    ValidationConfig,
)
from tunetrail.config.keys import SEARCH_SECTION, Setting, allowed_values, fields_of
from tunetrail.config.losses import EMBEDDING_LOSSES, losses_of

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

An unknown key, a value of the wrong type and a value out of range are errors that name the key,
and the one that was probably meant. `null` means that a setting isn't made.

## Find a setting, and see what is set

```shell
tunetrail train --help embedding                # the keys of a section
tunetrail train --help embedding.loss optimizer # a key, and the options of a group
tunetrail config embedding=e5-small             # every value, where it comes from, what it means
tunetrail config --diff embedding=e5-small      # only what differs from the defaults
tunetrail config --short embedding.training     # one section, without the explanations
tunetrail config --json model_type=llm | jq '.settings["llm.adapter.rank"]'
```

`tunetrail config` composes and checks as a training does, and needs no session. It prints `KEY =
VALUE # ORIGIN`: the schema's default, the option of a group (a file in `conf/`), an experiment,
or the override. `, chosen by the run` marks the values `auto`. Passwords in addresses are shown
as `***`. `--json` prints one object: `settings` holds `value`, `default`, `origin` (`default`,
`group`, `experiment` or `override`), `source`, `automatic` and `meaning` of each key, and
`warnings` a list of sentences. `--cfg job` makes the same checks before it prints.

What other libraries call a setting leads to the key: `lr`, `lora.r`, `fp16`, `max_epochs` or
`per_device_train_batch_size` is refused with the key that was meant. `--session ID` and
`session_id=ID` are the same in every command, and so are `--database` and `database.url`, `--uri`
and `tracking.uri`, `--model-dir` and `model_dir`, `--output-dir` and `output_dir`.

A warning, and no error, is given for a learning rate far above what the optimizer fine-tunes
with, and for overrides of a model that isn't trained, as in `model_type=embedding
llm.adapter.rank=4`.

## Complete in the shell

The Tab key completes commands, groups, keys, choices, options, and from the database (SQLite or
PostgreSQL) sessions, runs and versions:

```shell
eval "$(tunetrail completion bash)"    # in ~/.bashrc
eval "$(tunetrail completion zsh)"     # in ~/.zshrc, after: autoload -Uz compinit && compinit
tunetrail completion fish > ~/.config/fish/completions/tunetrail.fish
```

## Complete and check files in an editor

`tunetrail config --schema` prints a JSON Schema of experiments, with the meaning of each key, and
`tunetrail config --schema SECTION` that of the options of one group:

```shell
tunetrail config --schema > experiments/schema.json
```

Editors with the YAML language server (VS Code's YAML extension, Neovim, Helix) then complete and
check a file that names it:

```yaml
# yaml-language-server: $schema=schema.json
# @package _global_
embedding:
  training: {learning_rate: 3e-5}
```

## Groups

`GROUP=OPTION` sets several keys at once, and `KEY=VALUE` has the last word, wherever it stands. The
groups `optimizer`, `schedule`, `trainer` and `callbacks` set the same for `embedding.training` and
`llm.training`; options of `trainer` and of `callbacks` go together, as in
`'callbacks=[ema,frequent_checkpoints]'`, and so do options of `logger`.
"""


def reference() -> str:
    """Return the text of docs/configuration.md."""
    documented: dict[type, str] = {}
    lines = [INTRODUCTION, *group_lines(), *section_lines(TrainRequest(), "", documented)]
    lines += section_lines(SearchConfig(), SEARCH_SECTION, documented)
    return "\n".join(lines).rstrip() + "\n"


def group_lines() -> Iterator[str]:
    """Yield a table of all options of all groups, the default of each group first."""
    yield "| option | what it stands for |"
    yield "|---|---|"
    for group, default in default_options().items():
        for option in sorted(shipped_groups()[group], key=lambda option: option != default):
            note = " (default)" if option == default else ""
            yield f"| `{group}={option}`{note} | {option_comment(group, option)} |"
    yield ""


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

    inner_sections = []
    for setting in fields_of(config, section):
        if setting.is_section and setting.hint is not CheckConfig:
            inner_sections.append(setting)
        else:
            yield f"- **`{setting.key}`** ({allowed_values(setting)}; {shown(setting)})<br>"
            yield f"  {setting.meaning}"
    yield ""

    if isinstance(config, ValidationConfig):
        yield from section_lines(CheckConfig(), f"{section}.CHECK", documented)
    if isinstance(config, EmbeddingConfig):
        yield from loss_lines()
    for setting in inner_sections:
        yield from section_lines(setting.default, setting.key, documented)


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
    settings = list(fields_of(config, section))
    yield f"The keys of [`{first_section}`](#{anchor}), as in `{settings[0].key}`."
    yield ""

    for setting, usual in zip(settings, fields_of(type(config)(), section), strict=True):
        if setting.default != usual.default:
            yield f"- **`{setting.key}`** ({shown(setting)})"
    yield ""


def first_paragraph(config: Any) -> str:
    """Return what the class says of the section."""
    return (inspect.getdoc(type(config)) or "").split("\n\n")[0].replace("\n", " ")


def shown(setting: Setting) -> str:
    """Return the default of a setting as Markdown."""
    if isinstance(setting.default, CheckConfig):
        severity, _, threshold = setting.shown_default.partition(" ")
        return f"default `{severity}` {threshold}"
    return f"default `{setting.shown_default}`" if setting.shown_default else "required"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
