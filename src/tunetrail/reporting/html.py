"""HTML pages that need no script and no other file: their pictures are inside them.

The content security policy of `page.html` forbids scripts and requests even if a viewer would allow
them, and templates escape every value.
"""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.reporting.readable import SHOWN_CHARACTERS, compact, readable

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST_VALUE = 2 * SHOWN_CHARACTERS


class _PictureAddress(str):
    """A picture's `data:` address: the only long value that isn't shortened."""


def picture_address(png: bytes) -> str:
    """Return the address of a picture that is part of the page itself."""
    return _PictureAddress(f"data:image/png;base64,{base64.b64encode(png).decode()}")


def load_template(path: Path, filters: Mapping[str, Callable[..., Any]]) -> "Template":
    """Return a Jinja template; it may extend `page.html` and import `macros.html` of this folder.

    Args:
        path: The template's file.
        filters: In addition to `count` (1,200), `compact` and `readable`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters, compact=compact, count="{:,}".format, readable=readable)
    return environment.get_template(path.name)


def _finalize(value: Any) -> Any:
    """Return a value as the template prints it: readable, and never longer than a paragraph."""
    from markupsafe import Markup

    # Markup comes from the templates' macros only: values are escaped after this.
    is_trusted = isinstance(value, Markup | _PictureAddress)
    return value if is_trusted else readable(value, _LONGEST_VALUE)
