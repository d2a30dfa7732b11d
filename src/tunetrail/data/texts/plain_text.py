"""Write plain text: breaks between blocks, dashes before items, code in Markdown, no entities."""

import html
import re
import unicodedata
from html.entities import html5

_CHARACTER = r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
_ENTITY = re.compile(_CHARACTER)
_ENTITY_OR_TAG = re.compile(
    r"(?P<tag>(?:(?<![\w:.])[\w:.]{1,60}+)?&lt;[/!]?[A-Za-z](?:(?!&[lg]t;)[^<>\n`])*+&gt;)"
    r"|(?P<sign>&lt;(?=[A-Za-z/!?%]))|" + _CHARACTER
)
# Control characters, and code points that are unassigned, private or surrogates: no text should
# hold them, so their entities stay.
_UNWANTED_CATEGORIES = ("Cc", "Cn", "Co", "Cs")
_TICKS = re.compile("`+")


class PlainText:
    """Collects the pieces of a text; white space next to a break goes, all other stays."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._breaks = 0
        self._item = False
        self._code: list[str] | None = None

    def write(self, text: str) -> None:
        """Add text with entities; a tag spelt with entities becomes a code span."""
        if self._code is not None:
            self._code.append(_ENTITY.sub(_character, text))
        else:
            self.write_unchanged(_ENTITY_OR_TAG.sub(_readable, text))

    def write_unchanged(self, text: str) -> None:
        """Add text as it is."""
        if self._code is not None:
            self._code.append(text)
            return
        if self._breaks or self._item:
            if not text.strip():
                return
            # Code that was set off keeps the indentation of its first line.
            text = self._take_separator() + (text if text.startswith("```") else text.lstrip())
        self._pieces.append(text)

    def break_line(self, lines: int = 1) -> None:
        """Let the next text begin on a new line, or after an empty line if `lines` is 2."""
        if self._code is None:
            self._breaks = max(self._breaks, lines)
        elif self._code and not self._code[-1].endswith("\n"):
            self._code.append("\n")

    def begin_item(self) -> None:
        """Let the next text be an item of a list."""
        self.break_line()
        self._item = self._code is None

    def begin_code(self) -> None:
        """Collect what follows as code."""
        if self._code is None:
            self._code = []

    def end_code(self, *, block: bool) -> None:
        """Write the collected code in Markdown: as a fenced block, or one line as a code span."""
        if self._code is None:
            return
        code, self._code = "".join(self._code), None

        # A fence must be longer than any row of ticks in the code.
        ticks = max(map(len, _TICKS.findall(code)), default=0)
        if not code.strip():
            self.write_unchanged(code)
        elif block or "\n" in code.strip() or ticks > 1:
            fence = "`" * max(3, ticks + 1)
            self.break_line(2)
            lines = code.rstrip().lstrip("\n")
            self.write_unchanged(f"{fence}\n{lines}\n{fence}")
            self.break_line(2)
        elif ticks:
            self.write_unchanged(f"`` {code.strip()} ``")
        else:
            self.write_unchanged(f"`{code.strip()}`")

    def finish(self) -> str:
        """Return the whole text."""
        self.end_code(block=True)
        return "".join(self._pieces).strip("\n").rstrip()

    def _take_separator(self) -> str:
        """Return and reset the breaks and the dash before the next text; trim the blanks before."""
        while self._pieces and not self._pieces[-1].strip():
            self._pieces.pop()
        separator = "- " if self._item else ""
        if self._pieces:
            self._pieces[-1] = self._pieces[-1].rstrip()
            separator = "\n" * self._breaks + separator

        self._breaks, self._item = 0, False
        return separator


def unescaped(text: str) -> str:
    """Return `text` with entities as characters, except characters that no text should hold."""
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    name = entity[0][1:]
    # Not html.unescape for names: it also reads `&notit;` as `&not` followed by `it;`.
    character = html.unescape(entity[0]) if name.startswith("#") else html5.get(name, entity[0])
    if character in ("\n", "\t"):
        return character
    if character.isspace():
        return " "

    categories = map(unicodedata.category, character)
    is_unwanted = character in ("", "\ufffd") or any(
        category in _UNWANTED_CATEGORIES for category in categories
    )
    return entity[0] if is_unwanted else character


def _readable(match: re.Match[str]) -> str:
    if match["tag"] is not None:
        return f"`{unescaped(match[0])}`"
    # As a character, the sign would open a tag that the text doesn't have.
    return match[0] if match["sign"] is not None else _character(match)
