"""`tunetrail export`: a registered version in the form of another program."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_version_stores
from tunetrail.cli.terminal import say, say_loading
from tunetrail.errors import UserError
from tunetrail.learning.exporting.packages import check_packages

_KINDS = ("onnx", "openvino", "gguf", "merged", "adapter")
_DESCRIPTION = """\
Write root, or another registered version, in the form of another program. Its outputs on a few
texts are compared with the original's before the folder appears.

embedding:
  onnx       onnx/model.onnx, from token ids to vectors, for onnxruntime
  openvino   openvino/openvino_model.xml and .bin, the same for OpenVINO
  merged     the registered files as one plain folder, for sentence-transformers
llm:
  gguf       one file with tokenizer and chat template, for llama.cpp (Llama, Mistral, Qwen2)
  merged     the registered files as one plain folder, adapters merged, for transformers
  adapter    what was learnt since the base model as a LoRA adapter, for PEFT

FAMILY is the name of a registered model: embedding, llm, or with tracking.prefix=shop-
shop-embedding. onnx, openvino and gguf need `pip install 'tunetrail[export]'`."""

_EPILOG = """\
exit code: 2 for a version, form or folder that can't be used; 1 if the files of the version aren't
those that were registered, or the export differs from them

examples:
  tunetrail export embedding --to onnx --output exported/embedding-onnx
  tunetrail export llm --version 3 --to gguf --precision f16 --output exported/llm-gguf
"""


def export(arguments: Sequence[str]) -> int:
    """Run `tunetrail export`."""
    options = _parse(arguments)
    check_packages(options.to)
    say_loading("export")
    # Imported only after parsing: --help doesn't wait for torch.
    from tunetrail.learning.training.console import silence_lightning
    from tunetrail.pipeline.exporting import export_version

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    silence_lightning()
    exported = export_version(
        options.family,
        options.to,
        Path(options.output),
        version=options.version,
        precision=options.precision,
        overwrite=options.force,
        tracking_uri=options.uri,
        database_url=options.database,
    )
    line = f"{exported.version} as {exported.kind} in {exported.folder} ({exported.agreement})"
    show(exported.to_dict, lambda: say(line))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    family_help = "name of a registered model, such as embedding"
    parser.add_argument("family", metavar="FAMILY", help=family_help)
    parser.add_argument("--to", required=True, choices=_KINDS, help="form, see above")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
    version_help = "number of a version, such as 3 or embedding/3 (default: root)"
    parser.add_argument("--version", metavar="VERSION", help=version_help)
    precision_help = "how a GGUF file stores weights (default: %(default)s)"
    parser.add_argument("--precision", choices=("f32", "f16"), default="f32", help=precision_help)
    force_help = "replace an earlier export in the folder"
    parser.add_argument("--force", action="store_true", help=force_help)
    add_output_options(parser)

    add_version_stores(parser)
    options = parser.parse_args(arguments)

    if options.precision != "f32" and options.to != "gguf":
        raise UserError(
            f"--precision must be f32 with --to {options.to}, got {options.precision!r}. "
            "Leave it out, or export --to gguf."
        )
    if options.version is not None:
        options.version = options.version.removeprefix(f"{options.family}/")
    return options
