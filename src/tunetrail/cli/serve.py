"""`tunetrail serve`: root over HTTP, loaded again when it moves."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tunetrail.cli.addresses import check_address, server_address
from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_version_stores
from tunetrail.cli.terminal import say_loading
from tunetrail.errors import UserError

_DESCRIPTION = """\
Serve root of a family over HTTP. When root moves, the new version is loaded while the old one goes
on answering.

embedding: POST /v1/embeddings (OpenAI's form), POST /invocations (MLflow's form)
llm:       POST /v1/chat/completions (OpenAI's form, also streamed), POST /invocations (MLflow's)
both:      GET /health, GET /version, GET /v1/models, GET /openapi.json

FAMILY is the name of a registered model: embedding, llm, or with tracking.prefix=shop-
shop-embedding. The files of a version are compared with the digests that it was registered with
before they are loaded. No text of a request is logged."""

_EPILOG = """\
exit code: 2 if there is no root, or the address can't be used; 1 if root can't be loaded

examples:
  tunetrail serve embedding
  tunetrail serve llm --port 5002 --max-new-tokens 2048
  tunetrail serve embedding --model-dir models    # the exported folder, without any store

  curl http://127.0.0.1:5001/v1/embeddings -H 'Content-Type: application/json' \\
    -d '{"input": ["Where is my invoice?"]}'
"""


def serve(arguments: Sequence[str]) -> int:
    """Run `tunetrail serve`."""
    options = _parse(arguments)
    check_address(options.host, options.port)
    say_loading("serve")
    # Imported only after parsing: --help doesn't wait for torch.
    from tunetrail.learning.training.console import silence_lightning
    from tunetrail.pipeline.root_sources import ExportedRoot, RegisteredRoot, family_of
    from tunetrail.serving.app import check_family
    from tunetrail.serving.limits import Limits
    from tunetrail.serving.live_root import LiveRoot
    from tunetrail.serving.server import is_loopback, run_server

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tunetrail.serving").setLevel(logging.INFO)
    silence_lightning()
    check_family(family_of(options.family))
    source: ExportedRoot | RegisteredRoot
    if options.model_dir is not None:
        source = ExportedRoot(options.family, Path(options.model_dir))
    else:
        source = RegisteredRoot(options.family, options.uri, options.database)
    live_root = LiveRoot(source, options.poll_seconds)

    limits = Limits(texts=options.max_texts, new_tokens=options.max_new_tokens)
    address = server_address(options.host, options.port)
    if not is_loopback(options.host):
        print(
            f"warning: everybody who reaches {options.host} may use the model, as there is no "
            "password. Put a proxy with one before it.",
            file=sys.stderr,
        )

    def say_started() -> None:
        version = str(live_root.current)
        line = f"{version} answers on {address} (Ctrl-C ends it)"
        show(lambda: {"version": version, "address": address}, lambda: print(line, flush=True))

    run_server(live_root, limits, options.host, options.port, say_started)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail serve",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    family_help = "name of a registered model, such as embedding"
    parser.add_argument("family", metavar="FAMILY", help=family_help)
    # This machine only, unless asked for more: the server asks for no password.
    host_help = "address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=host_help)
    parser.add_argument("--port", default=5001, type=int, help="port (default: %(default)s)")

    add_output_options(parser)
    add_version_stores(parser)
    folder_help = "serve the model that was exported to this folder, without any store"
    parser.add_argument("--model-dir", metavar="FOLDER", help=folder_help)

    poll_help = "how often root is looked up (default: %(default)s)"
    parser.add_argument(
        "--poll-seconds", default=2.0, type=float, metavar="SECONDS", help=poll_help
    )
    texts_help = "most texts of a request for vectors (default: %(default)s)"
    parser.add_argument("--max-texts", default=256, type=int, metavar="COUNT", help=texts_help)
    tokens_help = "most tokens of an answer (default: %(default)s)"
    parser.add_argument(
        "--max-new-tokens", default=1024, type=int, metavar="COUNT", help=tokens_help
    )
    options = parser.parse_args(arguments)
    for name in ("poll_seconds", "max_texts", "max_new_tokens"):
        value = getattr(options, name)
        # Written so that NaN fails too.
        if not value > 0:
            option = name.replace("_", "-")
            raise UserError(f"--{option} must be above 0, got {value}. Leave it out.")
    return options
