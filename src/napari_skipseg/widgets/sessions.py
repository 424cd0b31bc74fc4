"""The corrections that are open in this window: one for each image content, closed when the window goes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.checks import Choices, find_faults
from napari_skipseg.widgets.correct_layers import CorrectionLayers
from napari_skipseg.widgets.work import Work

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


BETWEEN = (
    "The channels of '{}' lie between its other axes: open it with each channel as a layer (viewer.add_image with "
    "channel_axis={})."
)


@dataclass
class Session:
    """Corrections that are open, and their layers."""

    corrections: Corrections
    layers: CorrectionLayers

    @property
    def key(self) -> str:
        """What the image is."""
        return self.corrections.subject.key


class Sessions:
    """Those that are open, by what their image is."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def __iter__(self) -> Generator[Session, None, None]:
        yield from self._open.values()

    def keep(self, session: Session) -> None:
        """Keep one that was opened."""
        self._open[session.key] = session

    def find(self, key: str) -> Session | None:
        """Return the one of an image."""
        return self._open.get(key)

    def find_of(self, image: Image | None) -> Session | None:
        """Return the one whose layers lie over an image layer."""
        return next((session for session in self if session.layers.image is image), None)

    def take_out(self, session: Session) -> None:
        """Forget one that is being closed."""
        self._open.pop(session.key, None)

    def abandoned(self, viewer: ViewerModel) -> list[Session]:
        """Return those of which neither the image nor the strokes are in the viewer."""
        return [each for each in self if each.layers.image not in viewer.layers and not each.layers.is_shown]

    def close_all(self) -> None:
        """Bring all to the disk and close them."""
        for session in list(self):
            session.layers.cut()
            self.take_out(session)
            with contextlib.suppress(SkipsegError):  # what was painted is in the journal
                session.corrections.close()


def find_correcting_fault(choices: Choices) -> str:
    """Return why the image cannot be corrected, empty where it can."""
    faults = find_faults(choices)
    wrong = [faults[field] for field in ("image", "axes") if field in faults]
    if not wrong and choices.axes.find("C") > 0 and choices.layer is not None:
        wrong = [BETWEEN.format(choices.layer.name, choices.axes.index("C"))]
    return wrong[0] if wrong else ""


def iter_open(stack: Stack, key: str) -> Generator[Progress, None, Corrections]:
    """Return the corrections of an image, opened.

    Raises:
        SkipsegError: they are open in another window, or cannot be written.
    """
    yield Progress(0, 1, "opening the corrections")
    return open_corrections(stack, key)


def closing(session: Session) -> Work:
    """Return the work of closing one."""
    return partial(_iter_close, session)


def _iter_close(session: Session) -> Generator[Progress, None, None]:
    yield Progress(0, 1, "storing the corrections")
    session.corrections.close()
