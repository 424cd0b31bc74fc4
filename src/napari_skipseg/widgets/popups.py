"""What pops up over the image: a first line that napari shows whole, and below it, once it is unfolded, the rest.

napari's popup has one width and shows one line. What it tells stands in the panel, too.
"""

from __future__ import annotations

import re

from napari.utils.notifications import show_error, show_info

from napari_skipseg.foreign_text import unmarked

FITS = 40
"""Letters of the line."""
LEAST = 12
"""Letters that say something by themselves."""
PAUSE = re.compile(r"[.:;,](?=\s|$)|\s\(")


def pop_up(text: str, head: str = "") -> None:
    """Show something to be known. head: its first line, which says what matters in few letters; "" = its beginning."""
    show_info(unmarked(f"{head if len(head) <= FITS else head_of(head)}\n{text}" if head else headed(text)))


def pop_up_fault(text: str) -> None:
    """Show what went wrong."""
    show_error(unmarked(headed(text)))


def headed(text: str) -> str:
    """Return a text as it is where it fits into the line, else below its beginning, which does."""
    return text if len(text) <= FITS else f"{head_of(text)}\n{text}"


def head_of(text: str) -> str:
    """Return the beginning of a text: up to the last pause that fits, never within brackets; else its first words."""
    for pause in reversed(list(PAUSE.finditer(text, 0, FITS + 2))):
        head = text[: pause.start()]
        if LEAST <= len(head) <= FITS and head.count("(") == head.count(")"):
            return head
    return text[: FITS - 1].rsplit(" ", 1)[0].rstrip(" .:;,(") + "…"
