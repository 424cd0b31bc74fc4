"""The pages of the documentation that explain the tabs of the panel."""

from __future__ import annotations

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices

SITE = "https://napari-skipseg.github.io/napari-skipseg/"
PAGES = {
    "Segment": "how-to/segment",
    "Correct": "correct-and-fine-tune",
    "Fine-tune": "correct-and-fine-tune",
    "Objects": "how-to/objects",
    "Proofread": "proofread",
    "Batch": "how-to/batch",
    "Inspect": "how-to/look-into-a-model",
}
"""The page for each tab, by the tab's name."""


def page_of(tab: str) -> str:
    """Return the address of the page that explains a tab; of a tab without a page, the first page."""
    return f"{SITE}{PAGES[tab]}/" if tab in PAGES else SITE


def open_page(tab: str) -> None:
    """Open the page that explains a tab in the browser."""
    QDesktopServices.openUrl(QUrl(page_of(tab)))
