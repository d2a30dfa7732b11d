"""HTML pages that need no script and no other file: their pictures are inside them.

The content security policy of `page.html` forbids scripts and requests even if a viewer would allow
them, and templates escape every value.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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


def captioned(pictures: Mapping[str, bytes], captions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the caption and the address of each PNG; both mappings are by the picture's name."""
    return [(captions[name], picture_address(picture)) for name, picture in pictures.items()]


@dataclass(frozen=True)
class PageTemplate:
    """A Jinja template, which may extend `page.html` and import `macros.html` of this folder.

    It is read and compiled when a page is first rendered.

    Attributes:
        file: The template's file.
        filters: In addition to `count` (1,200), `compact` and `readable`.
    """

    file: Path
    filters: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def render(self, **values: Any) -> str:
        """Return the page of some values; raises `UndefinedError` if the template lacks one."""
        return self._template.render(values)

    @cached_property
    def _template(self) -> "Template":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader([self.file.parent, Path(__file__).parent]),
            autoescape=True,
            finalize=_finalize,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(self.filters)
        environment.filters.update(compact=compact, count="{:,}".format, readable=readable)
        return environment.get_template(self.file.name)


def _finalize(value: Any) -> Any:
    """Return a value as the template prints it: readable, and never longer than a paragraph."""
    from markupsafe import Markup

    # Markup comes from the templates' macros only: values are escaped after this.
    is_trusted = isinstance(value, Markup | _PictureAddress)
    return value if is_trusted else readable(value, _LONGEST_VALUE)
