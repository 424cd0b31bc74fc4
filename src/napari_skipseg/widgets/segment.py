"""The Segment tab: reads the form, runs the engine beside the window, shows the result as layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QMessageBox, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.checks import Choices, find_faults, find_warning
from napari_skipseg.widgets.fields import FAULT_COLOR, WARNING_COLOR, Message
from napari_skipseg.widgets.form import SegmentForm
from napari_skipseg.widgets.layers import Shown, follow, set_threshold, show, stack_of
from napari_skipseg.widgets.placement import current_position
from napari_skipseg.widgets.work import Outcome, TimeLeft, start_work

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.jobs.protocol import DeviceReport

PRIMARY = """
QPushButton:enabled { background-color: #3f66c8; color: white; font-weight: 600; }
QPushButton:enabled:hover { background-color: #4f78dc; }
"""


class SegmentingEngine(Protocol):
    """What the tab asks of an engine; `jobs.client.Engine` is one."""

    def segment(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions, whole: Stack | None = None
    ) -> Generator[Progress, None, Prediction]:
        """Return the prediction."""
        ...

    def ask_devices(self) -> Generator[Progress, None, DeviceReport]:
        """Return what there is to compute on."""
        ...


class SegmentTab(QWidget):  # type: ignore[misc]
    """Form, Segment and Cancel, progress, one line of what is wrong or how it went, and Save results."""

    finished = Signal(bool)

    def __init__(self, viewer: ViewerModel, engine: SegmentingEngine) -> None:
        super().__init__()
        self._viewer, self._engine = viewer, engine
        self._worker: Any = None
        self._asking: Any = None
        self._told = ("", "")
        self._shown: dict[str, Shown] = {}
        self._make_widgets()
        self.form.changed.connect(self._forget_and_check)
        self.form.placed.connect(self._follow_image)
        self.form.threshold_moved.connect(self._move_threshold)
        self.segment_button.clicked.connect(self.segment)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self._ask_where_to_save)
        self._check()
        self._ask_devices()

    def _make_widgets(self) -> None:
        self.form = SegmentForm(self._viewer)
        self.segment_button, self.cancel_button = QPushButton("Segment"), QPushButton("Cancel")
        self.segment_button.setStyleSheet(PRIMARY)
        self.segment_button.setMinimumHeight(30)
        self.cancel_button.setMinimumHeight(30)
        self.save_button = QPushButton("Save results…")
        self.save_button.setToolTip("Write probability, binary and attention of this image as OME-TIFF into a folder")
        self.progress, self.progress_text, self.message = QProgressBar(), Message(), Message()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(8)
        self.progress.hide()
        self.cancel_button.hide()
        buttons = QHBoxLayout()
        buttons.addWidget(self.segment_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 10, 10, 10)
        column.setSpacing(8)
        column.addWidget(self.form)
        column.addLayout(buttons)
        for widget in (self.progress, self.progress_text, self.message, self.save_button):
            column.addWidget(widget)
        column.addStretch(1)

    @property
    def is_running(self) -> bool:
        """Whether a segmentation is under way."""
        return self._worker is not None

    def segment(self) -> None:
        """Segment what the form says; the layers appear when it is done."""
        choices = self.form.read()
        if self.is_running or find_faults(choices) or choices.layer is None or choices.model is None:
            return
        layer, axes = choices.layer, choices.axes
        positions: dict[int, int] = {}
        if not choices.whole:
            place = current_position(self._viewer, layer)
            positions = {axis: place[axis] for axis in choices.loops}
        try:
            stack = stack_of(layer, axes, positions)
            whole = stack_of(layer, axes) if positions else None
        except SkipsegError as error:
            self._fail(str(error))
            return
        work = partial(self._engine.segment, stack, self.form.model_folder(), choices.options(), whole)
        self._tell("")
        self._left = TimeLeft()
        self._start(work, f"Segmenting {layer.name}", partial(self._show, layer, axes, positions))

    def cancel(self) -> None:
        """Cancel what runs; nothing changes in the viewer."""
        if self._worker is not None:
            self._worker.quit()
            self.cancel_button.setEnabled(False)
            self.progress_text.say("cancelling…")
            self._tell("Cancelled. Nothing was changed.")

    def _start(self, work: Callable[[], Any], description: str, on_value: Callable[[Any], None]) -> None:
        self._succeeded = False
        self._worker = start_work(
            self,
            partial(self._after_asking, work),
            description,
            self._show_progress,
            partial(self._end, on_value),
            self._release,
        )
        self.progress.setRange(0, 0)
        self.progress_text.say("starting the engine")
        self._check()

    def _after_asking(self, work: Callable[[], Generator[Progress, None, Any]]) -> Generator[Progress, None, Any]:
        """Run `work` when the question about devices is answered: the engine takes one call at a time."""
        while self._asking is not None:
            time.sleep(0.05)
            yield Progress(0, 1, "starting the engine")
        return (yield from work())

    def _show_progress(self, progress: Progress) -> None:
        if self._worker is None or not self.cancel_button.isEnabled():
            return
        self.progress.setRange(0, progress.total if progress.done else 0)
        self.progress.setValue(progress.done)
        self.progress_text.say(self._left.describe(progress))

    def _end(self, on_value: Callable[[Any], None], outcome: Outcome) -> None:
        if outcome.fault:
            self._fail(outcome.fault)
        else:
            on_value(outcome.value)
            self._succeeded = True

    def _release(self) -> None:
        self._worker = None
        self.progress_text.say("")
        self._check()
        self.finished.emit(self._succeeded)

    def _show(self, layer: Image, axes: str, positions: dict[int, int], prediction: Prediction) -> None:
        source = str(layer.unique_id)
        self._shown[source] = Shown(prediction, axes, positions, source)
        if layer not in self._viewer.layers:
            self._tell(f"'{layer.name}' was removed meanwhile: its result is not shown.")
            return
        show(self._viewer, layer, self._shown[source], float(self.form.threshold.value()))
        self._tell("")

    def result(self) -> Shown | None:
        """Return the result of the image in the form, None where it was not segmented."""
        layer = self.form.read().layer
        return None if layer is None else self._shown.get(str(layer.unique_id))

    def _move_threshold(self, threshold: float) -> None:
        shown = self.result()
        if shown is not None:
            set_threshold(self._viewer, shown, threshold)

    def _follow_image(self) -> None:
        layer, shown = self.form.read().layer, self.result()
        if layer is not None and shown is not None:
            follow(self._viewer, layer, shown)

    def _fail(self, fault: str) -> None:
        self._tell(fault, FAULT_COLOR)
        show_error(fault)

    def _tell(self, text: str, color: str = "transparent") -> None:
        self._told = (text, color)
        self._say()

    def _forget_and_check(self) -> None:
        self._told = ("", "")
        self._check()

    def _check(self) -> None:
        """Segment is on when all is right and nothing runs; otherwise the line under the form says why."""
        faults = find_faults(self.form.read())
        running = self.is_running
        self.segment_button.setEnabled(not faults and not running)
        self.cancel_button.setVisible(running)
        self.cancel_button.setEnabled(running)
        self.progress.setVisible(running)
        self.save_button.setEnabled(self.result() is not None and not running)
        self._say()

    def _say(self) -> None:
        choices = self.form.read()
        faults, warning = list(find_faults(choices).values()), find_warning(choices)
        if self._told[0]:
            self.message.say(*self._told)
        elif faults:
            self.message.say(faults[0], FAULT_COLOR)
        else:
            self.message.say(warning, WARNING_COLOR)

    def _ask_devices(self) -> None:
        def answer(outcome: Outcome) -> None:
            if outcome.fault:
                self.form.device_note.setText(outcome.fault)
            else:
                self.form.show_devices(outcome.value)

        def end() -> None:
            self._asking = None

        self._asking = start_work(self, self._engine.ask_devices, "Looking for devices", lambda _: None, answer, end)

    def _ask_where_to_save(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the results")
        choices, shown = self.form.read(), self.result()
        if not folder or shown is None or choices.layer is None:
            return
        name = file_name(choices.layer.name)
        there = sorted(path.name for path in Path(folder).glob(f"{name}_*.tif"))
        question = f"{', '.join(there)} in this folder will be replaced. Go on?"
        if there and QMessageBox.question(self, "Replace results?", question) != QMessageBox.StandardButton.Yes:
            return
        self.save(Path(folder), name, choices, shown)

    def save(self, folder: Path, name: str, choices: Choices, shown: Shown) -> None:
        """Write the result of an image into `folder`, beside the window."""

        def write() -> Generator[Progress, None, list[Path]]:
            from napari_skipseg.inference.saving import save_prediction

            yield Progress(0, 1, "writing the results")
            return save_prediction(shown.prediction, folder, name, choices.threshold)

        def tell(files: list[Path]) -> None:
            self._tell(f"Saved {len(files)} files in {folder}.")
            show_info(f"SkipSeg saved {', '.join(file.name for file in files)} in {folder}.")

        self._left = TimeLeft()
        self._start(write, "Saving results", tell)


def file_name(name: str) -> str:
    """Return a layer's name without what a file name cannot hold."""
    kept = "".join("_" if letter in '<>:"/\\|?*' or ord(letter) < 32 else letter for letter in name)
    return kept.strip(" .") or "image"
