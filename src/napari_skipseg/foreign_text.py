"""Text from outside (names of files and classes, metadata), made safe for the place where it is shown.

A name may contain control characters, which a terminal obeys, and a spreadsheet reads a cell that begins with `=` as a
formula.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\udc80-\udc9f]"
)
"""C0 and C1 control characters (those of a file name that is no UTF-8 too), line separators, and marks that turn the
direction of what follows."""
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|-?(nan|inf)")
_FORMULA = re.compile(r"(^|[;\n])([ \u00a0]*)([=+\-@＝＋－＠])")
"""Where a formula could begin: a cell's start, and behind what other countries' spreadsheets separate cells by."""


def printable(text: str, keep: str = "") -> str:
    """Return `text` with control characters as escapes that can be read, such as `\\x1b`; those in `keep` stay."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def printable_json(text: str) -> str:
    """Return JSON with control characters as JSON writes them; line breaks between its values stay."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def without_bidi_marks(text: str) -> str:
    """Return `text` that Qt does not take for HTML where it guesses (tooltips, message boxes, napari's notifications).

    A space of no width stands behind each `<` and `&` that could begin a tag or a character of HTML.
    """
    return _MARKUP.sub("\\g<0>\u200b", text)


def cell_of(value: object) -> object:
    """Return the content of a CSV file's cell for `value`, which no spreadsheet reads as a formula.

    Text that could be one gets an apostrophe in front, as spreadsheets themselves mark text. Numbers stay as they are.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1\2'\3", printable(value, "\n"))


def _escaped(character: str) -> str:
    code = ord(character)
    code -= 0xDC00 if code >= 0xDC80 else 0
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
