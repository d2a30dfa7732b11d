"""`tunetrail config`: each value of the configuration, where it comes from, and what it means."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.conf_groups import groups
from tunetrail.cli.output import add_output_options, show
from tunetrail.config import MODEL_SECTIONS
from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.config.keys import all_settings, typed
from tunetrail.errors import UserError

if TYPE_CHECKING:
    from tunetrail.cli.origins import ResolvedSetting

_DESCRIPTION = """\
Print the configuration that overrides make: each value with where it comes from (the schema's
default, an option of a group, an experiment, an override) and what it means. It is checked as a
training's is; a value `auto` is chosen by the run.

KEY is a key or a section, such as embedding.training: only what is in it is printed."""

_EPILOG = """\
exit code: 0; 2 for a key or a value that isn't allowed

examples:
  tunetrail config --diff embedding=e5-small optimizer=sgd +experiments=quick
  tunetrail config embedding.training embedding.training.learning_rate=3e-5
  tunetrail config --json model_type=llm
  tunetrail config --schema > schema.json   # for editors, see docs/configuration.md"""

# Characters to which the column of origins is moved at most.
_WIDEST = 60


def config(arguments: list[str]) -> int:
    """Run `tunetrail config`."""
    options = _parse(arguments)
    keys = [word for word in options.words if _is_key(word)]
    overrides = [word for word in options.words if not _is_key(word)]
    if options.schema:
        from tunetrail.cli.conf_schema import conf_schema

        if overrides:
            raise UserError(f"--schema takes sections only, got {overrides[0]}. Leave it out.")
        schema = conf_schema(keys)
        show(lambda: schema, lambda: print(json.dumps(schema, indent=2, ensure_ascii=False)))
        return 0

    _check_keys(keys)
    # Imported only after parsing: --help doesn't wait for Hydra.
    from tunetrail.cli.origins import resolved_settings
    from tunetrail.cli.unused_settings import unused_overrides

    request, resolved = resolved_settings(overrides)
    warnings = [
        f"{override} has no effect with model_type={request.model_type}"
        for override in unused_overrides(request, overrides)
    ]
    for name in MODEL_SECTIONS:
        if request.model_type in (name, "all"):
            doubts = getattr(request, name).training.doubtful()
            warnings += [f"{name}.{doubt}" for doubt in doubts]

    shown = [setting for setting in resolved if _is_shown(setting, keys, options.diff)]
    show(
        lambda: _as_json(shown, warnings),
        lambda: _print_settings(shown, with_meanings=not options.short),
    )
    if not options.json:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail config",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    words_help = "KEY, or overrides as of `tunetrail train`; session_id may be missing"
    parser.add_argument("words", nargs="*", metavar="KEY|OVERRIDE", help=words_help)
    diff_help = "only what differs from the schema's defaults"
    parser.add_argument("--diff", action="store_true", help=diff_help)
    parser.add_argument("--short", action="store_true", help="without what the keys mean")
    add_output_options(parser)
    schema_help = "print the JSON Schema of conf/ and experiments, or of one group's files"
    parser.add_argument("--schema", action="store_true", help=schema_help)

    options, unknown = parser.parse_known_intermixed_args(arguments)
    # An override such as ~trainer.callbacks.x begins with no dash, so that these are options.
    if unknown:
        known = "--diff, --short, --json, --quiet, --schema"
        raise UserError(f"config has the options {known}, got {unknown[0]}. Leave it out.")
    return options


def _is_key(word: str) -> bool:
    """Tell whether a word names a key: an override has a value, or deletes one."""
    return "=" not in word and not word.startswith("~")


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        if key not in all_settings():
            raise UserError(f"there is no key {key}.{did_you_mean_key(key, tuple(groups()))}")


def _is_shown(resolved: "ResolvedSetting", keys: Sequence[str], only_differences: bool) -> bool:
    if only_differences and not resolved.differs:
        return False
    key = resolved.setting.key
    return not keys or any(key == known or key.startswith(f"{known}.") for known in keys)


def _as_json(shown: Sequence["ResolvedSetting"], warnings: Sequence[str]) -> dict[str, Any]:
    settings = {
        resolved.setting.key: {
            "value": resolved.value,
            "default": resolved.setting.default,
            "origin": resolved.origin.kind,
            "source": resolved.origin.source,
            "automatic": resolved.is_automatic,
            "meaning": resolved.setting.meaning,
        }
        for resolved in shown
    }
    return {"settings": settings, "warnings": list(warnings)}


def _print_settings(shown: Sequence["ResolvedSetting"], *, with_meanings: bool) -> None:
    """Print `key = value` and the origin of each setting, and what it means below it."""
    from tunetrail.cli.key_help import wrapped
    from tunetrail.cli.terminal import plain_text

    if not shown:
        print("nothing differs from the schema's defaults", file=sys.stderr)
        return
    assignments = [
        f"{resolved.setting.key} = {plain_text(typed(resolved.value))}" for resolved in shown
    ]
    width = min(max(map(len, assignments)), _WIDEST)

    for assignment, resolved in zip(assignments, shown, strict=True):
        automatic = ", chosen by the run" if resolved.is_automatic else ""
        print(f"{assignment:{width}}  # {plain_text(resolved.origin.source)}{automatic}")
        if with_meanings:
            print("\n".join(wrapped(resolved.setting.meaning, "    ", "    ")))
