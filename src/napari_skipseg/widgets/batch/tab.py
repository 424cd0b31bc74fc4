"""The Batch tab: a folder of images is segmented in the engine; a table shows each image and opens its results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QPushButton

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchOpened, BatchRow, FileChanged, Retry
from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import RunBatch
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.batch.form import (
    LINK_COLOR,
    BatchForm,
    InputsLine,
    describe_object_options,
    describe_request,
    recall_choices,
    remember_choices,
)
from napari_skipseg.widgets.batch.table import BatchTable, count_states, describe_end, mark_stopped
from napari_skipseg.widgets.forms.fields import (
    FAULT_COLOR,
    WARNING_COLOR,
    MessageLine,
    PrimaryButton,
    RichLabel,
    color_of,
    make_row,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab, pop_up, pop_up_fault
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, WorkOutcome, start_work
from napari_skipseg.widgets.layers.files import LOOKS, LayerData, add_layers, opened_from, read_layers, result_kind
from napari_skipseg.widgets.layers.placement import frame
from napari_skipseg.widgets.segment.checks import SegmentFormValues
from napari_skipseg.wording import about_left

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


OpenedResults = list[tuple[str, list[LayerData]]]
"""Files, and the layers in each, from the bottom up."""


def iter_read_results(row: BatchRow, with_image: bool = True) -> Generator[Progress, None, OpenedResults]:
    """Yield file by file; return the layers of a row's results, and of its image unless that is open already.

    Raises:
        FileError: a file cannot be read.
        InputError: a file contains no image.
    """
    kinds = {file: result_kind(file) for file in row.outputs}
    shown = sorted((file for file in row.outputs if kinds[file]), key=lambda file: list(LOOKS).index(kinds[file]))
    read: OpenedResults = []
    for number, file in enumerate([row.file, *shown] if with_image else shown):
        yield Progress(number, len(shown) + 1, f"reading {Path(file).name}")
        layers: list[LayerData] = []
        for data, arguments, kind in read_layers(file):
            # maps are shown on demand, and objects show what the binary layer shows
            hidden = {"attention", "uncertainty", *(["binary"] if "objects" in kinds.values() else [])}
            is_hidden = file != row.file and kinds[file] in hidden
            layers.append((data, {**arguments, "visible": False} if is_hidden else arguments, kind))
        read.append((file, layers))
    return read


class OpenedRows:
    """The rows that are in the viewer. Layers of other rows are hidden, not removed: they may hold new strokes."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, tuple[BatchRow, dict[Layer, bool]]] = {}

    def show_again(self, row: BatchRow) -> bool:
        """Show a row that was opened before; return False if its results changed or a layer was removed."""
        known, layers = self._shown.get(row.relative, (None, {}))
        if known is None or known.outputs != row.outputs or not all(layer in self._viewer.layers for layer in layers):
            return False
        self._put_in_front(layers)
        return True

    def images(self, row: BatchRow) -> list[Layer]:
        """Return the layers that show a row's image already, no matter how they were opened."""
        opened = [(layer, opened_from(layer)) for layer in self._viewer.layers]
        return [layer for layer, file in opened if file and Path(file) == Path(row.file)]

    def show(self, row: BatchRow, read: OpenedResults) -> None:
        """Add the layers of a row, above its image if that is open already."""
        for layer in self._shown.pop(row.relative, (row, {}))[1]:
            layer.visible = False
        layers = dict.fromkeys(self.images(row), True)
        for file, found in read:
            layers |= {layer: bool(layer.visible) for layer in add_layers(self._viewer, found, file)}
        self._shown[row.relative] = (row, layers)
        self._put_in_front(layers)

    def _put_in_front(self, layers: dict[Layer, bool]) -> None:
        """Show these layers as they were when they were added, fit the view to them, and hide all others."""
        for layer in self._viewer.layers:
            layer.visible = layers.get(layer, False)
        stack = self._viewer.layers
        for layer in layers:
            stack.move(stack.index(layer), len(stack))
        first = next(iter(layers))
        self._viewer.layers.selection.active = first
        frame(self._viewer, first)


def _classes(segment: SegmentFormValues) -> Sequence[str]:
    return () if segment.model is None else segment.model.class_names


START_HINT = "Segment every image. Files that are done with the same recipe are skipped; one that was stopped continues"
STOP_HINT = "Stop within a tile. What is done stays, and Start continues from there"
RETRY_HINT = "Process the failed files again, with the model and options of this batch"
TABLE_HINT = "Double-click a row to open the image with its results"


class BatchTab(JobTab):
    """Form, the images that it names, Start and Stop, progress, the table, Retry failed, and links to the report.

    read_segment: gives the choices of the Segment tab, whose model and options are used. read_objects: gives those of
    the Objects tab for the classes of a model.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        engine: EngineLike,
        queue: EngineQueue,
        read_segment: Callable[[], SegmentFormValues],
        read_objects: Callable[[Sequence[str]], ObjectOptions],
    ) -> None:
        super().__init__(queue)
        self._engine, self._read_segment, self._read_objects = engine, read_segment, read_objects
        self._opened = OpenedRows(viewer)
        self._opening: Any = None
        self._settings: BatchSettings | None = None
        self._seconds_left: float | None = None
        self.form, self.inputs, self.table, self.row_line = BatchForm(), InputsLine(), BatchTable(), MessageLine()
        self.table.setToolTip(TABLE_HINT)
        self.table.hide()
        self.start_button, self.retry_button = PrimaryButton("Start"), QPushButton("Retry failed")
        self.start_button.setToolTip(START_HINT)
        self.retry_button.setToolTip(RETRY_HINT)
        self.cancel_button.setText("Stop")
        self.cancel_button.setToolTip(STOP_HINT)
        self.links = RichLabel()
        self.links.setOpenExternalLinks(True)
        self.links.hide()
        self._lay_out()
        self.form.show_choices(recall_choices())
        self.form.changed.connect(self.forget_and_check)
        self.start_button.clicked.connect(self.run)
        self.retry_button.clicked.connect(self.retry)
        self.table.opened.connect(self.open_row)
        self.table.chosen.connect(self._update_row_line)
        self.inputs.changed.connect(self.check)

    def _lay_out(self) -> None:
        buttons = make_row(self.start_button, self.cancel_button, stretches=(2, 1))
        below = make_row(self.retry_button, self.links, stretches=(0, 0))
        below.addStretch(1)
        lines = self.progress, self.progress_text, self.message
        self.add_column(self.form, self.inputs, buttons, *lines, self.table, self.row_line, below, stretched=self.table)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Look for images."""
        super().showEvent(event)
        self.inputs.looks += 1
        self.check()

    def check_if_shown(self, *_: object) -> None:
        """Check the choices of this tab and of the Segment tab, if this tab is on screen."""
        if self.isVisible():
            self.check()

    def run(self) -> None:
        """Start the batch of the form, or continue where it was stopped."""
        if self.is_running:
            return
        was_shown = self._shows_this_batch()
        try:
            self._settings = self._read()
        except SkipsegError as error:
            self.fail(str(error))
            return
        if not was_shown:
            self.table.rows.show_rows(())
        remember_choices(self.form.read())
        model = self._read_segment().model
        self.table.rows.class_names = () if model is None else model.class_names
        self._begin(self._settings)

    def retry(self) -> None:
        """Process the failed files again: at once, or after the other files while the batch runs."""
        if self.is_running:
            self.send(Retry())
        elif self._settings is not None:
            self._begin(self._settings, retry=True)

    def _begin(self, settings: BatchSettings, retry: bool = False) -> None:
        self.links.setText("")
        self.links.hide()
        work, name = partial(self._engine.run, RunBatch(settings, retry)), f"Batch of {Path(settings.inputs).name}"
        self.start(work, name, self._finish, on_stop=self._stop, waiting_text="waits for the batch")
        self.inputs.stop()

    def _read(self) -> BatchSettings:
        """Return the settings of the form.

        Raises:
            SkipsegError: they are not possible.
        """
        segment = self._read_segment()
        return self.form.read().settings(segment, self._objects(segment))

    def _objects(self, segment: SegmentFormValues) -> ObjectOptions:
        return self._read_objects(_classes(segment))

    def show_progress(self, news: list[Progress]) -> None:
        """Show the progress of the batch and the changes in its rows."""
        opened = [place for place, progress in enumerate(news) if isinstance(progress, BatchOpened)]
        if opened:
            self._open_table(news[opened[-1]].rows)  # type: ignore[attr-defined]
        later = news[opened[-1] :] if opened else news
        self.table.rows.change([progress.row for progress in later if isinstance(progress, FileChanged)])
        super().show_progress(news)
        self._show_table()
        self._update_row_line()

    def describe_progress(self, progress: Progress) -> str:
        """Return how many files are done, and the time that the rest takes."""
        is_of_rows = isinstance(progress, BatchOpened | FileChanged)
        if is_of_rows:
            self._seconds_left = progress.seconds_left if isinstance(progress, FileChanged) else None
        if is_of_rows or progress.total > 1:
            return f"{progress.message}{about_left(self._seconds_left)}"
        return super().describe_progress(progress)

    def _open_table(self, rows: tuple[BatchRow, ...]) -> None:
        self.table.rows.show_rows(rows)
        self.table.show()
        self._update_row_line()

    def _update_row_line(self, fault: str = "") -> None:
        """Show below the table why the selected row could not be opened, or else the rest of what is known of it."""
        row = self.table.selected()
        text = fault or ("" if row is None else describe_end(row))
        self.row_line.say(text, FAULT_COLOR if fault or (row is not None and row.reason) else "transparent")

    def _shows_this_batch(self) -> bool:
        """Return whether the table shows the images of the form, and not an earlier batch of different ones."""
        chosen, shown = self.form.read(), self._settings
        return shown is None or (shown.inputs, shown.recursive, shown.as_stack) == (
            chosen.inputs,
            chosen.recursive,
            chosen.as_stack,
        )

    def _show_table(self) -> None:
        """Show table, links and Retry failed, unless they are of an earlier batch of different images."""
        failed, is_this = self.table.rows.count("failed"), self.is_running or self._shows_this_batch()
        self.table.setVisible(is_this and bool(self.table.rows.rows))
        self.links.setVisible(is_this and not self.is_running and bool(self.links.text()))
        if not is_this:
            self.row_line.say("")
        self.retry_button.setVisible(is_this and failed > 0)
        self.retry_button.setText(f"Retry failed ({failed})")

    def _finish(self, result: BatchResult) -> None:
        self.paced_progress.flush()
        self._open_table(result.rows)
        links = (("Report", result.report), ("Folder", result.folder))
        addresses = (bytes(QUrl.fromLocalFile(str(file)).toEncoded()).decode() for _, file in links)
        self.links.setText(
            " · ".join(
                f"<a href='{escape(address, quote=True)}' style='color: {LINK_COLOR}'>{text}</a>"
                for (text, _), address in zip(links, addresses, strict=True)
            )
        )
        self.links.show()
        self.show_message(result.describe(), WARNING_COLOR if result.count("failed") else "transparent")
        pop_up(result.describe(), f"Batch: {count_states(result.rows)}")

    def _stop(self) -> str:
        """Return the state of a batch that was stopped or failed."""
        self.paced_progress.flush()
        rows = self.table.rows
        rows.change([mark_stopped(row) for row in rows.rows if row.state == "running"])
        return f"{count_states(rows.rows)}; Start continues from there." if rows.rows else ""

    def open_row(self, row: BatchRow) -> None:
        """Show the image of a row, and its results."""
        if self._opening is not None:
            return
        self._update_row_line()
        if self._opened.show_again(row):
            return
        is_open = bool(self._opened.images(row))

        def on_outcome(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self._update_row_line(outcome.fault)
                pop_up_fault(outcome.fault)
            else:
                self._opened.show(row, outcome.value)

        def on_end() -> None:
            self._opening = None

        read, name = partial(iter_read_results, row, not is_open), f"Opening {Path(row.file).name}"
        self._opening = start_work(self, read, name, on_outcome=on_outcome, on_end=on_end)

    def check(self) -> None:
        """Enable Start if all is right and nothing runs; otherwise the line below says why."""
        super().check()
        choices, segment, running = self.form.read(), self._read_segment(), self.is_running
        fault, settings = choices.fault(segment), None
        way = describe_object_options(self._objects(segment), _classes(segment))
        self.form.show_request(describe_request(segment), way)
        if not (fault or running) and self.isVisible():
            try:
                settings = self._read()
            except SkipsegError as error:
                fault = str(error)
        self.inputs.blockSignals(True)
        if settings is not None:
            self.inputs.look(settings)
        elif not running:
            self.inputs.clear()
        self.inputs.blockSignals(False)
        fault = fault or self.inputs.fault
        self.form.setEnabled(not running)
        self.start_button.setVisible(not running)
        self.start_button.setEnabled(self.inputs.is_right)
        set_hint(self.start_button, fault or START_HINT)
        self._show_table()
        keeps_message = running or not fault or (self._last_message[0] and not self.inputs.fault)
        self.message.say(*(self._last_message if keeps_message else (fault, color_of(fault))))
