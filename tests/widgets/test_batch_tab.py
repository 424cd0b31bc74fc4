"""The Batch tab in a real window: what it asks of the engine, what its table shows, and the way to the results."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtWidgets import QApplication, QLabel

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.table import BatchOpened, BatchRow, BatchWaits, FileChanged, Retry
from napari_skipseg.errors import EngineError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import RunBatch
from napari_skipseg.widgets.batch.table import (
    FILE,
    PICTURE,
    STATE,
    TIME,
    BatchRows,
    BatchTable,
    count_states,
    cut_into_lines,
    describe_row,
    has_bar,
    mark_stopped,
)
from napari_skipseg.widgets.forms.fields import FAULT_COLOR
from napari_skipseg.widgets.layers.placement import view_of, visible_box
from napari_skipseg.widgets.panel import wait_for
from napari_skipseg.widgets.settings import open_settings

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton
REASON = "is cut short or lacks planes: copy it again."


class Batching:
    """What the fake engine does with a folder: each .tif is done in ten tiles, and what is called broken fails."""

    def __init__(self) -> None:
        self.asked, self.sent, self.pause, self.fault, self.closed = [], [], 0.0, None, False

    def batch(self, settings, retry=False):
        self.asked.append((settings, retry))
        files = sorted(Path(settings.inputs).glob("*.tif"))
        rows = {file.name: BatchRow(file.name, str(file)) for file in files}
        yield BatchOpened(0, len(rows), "0 images", tuple(rows.values()), settings.output)
        try:
            for number, row in enumerate(list(rows.values())):
                for tile in range(1, 11):
                    time.sleep(self.pause)
                    now = replace(row, state="running", done=tile, total=10, message=f"tile {tile}", seconds_left=75.0)
                    command = yield FileChanged(number, len(rows), f"{number} of {len(rows)} images", now, 3600.0)
                    self.sent += [command] if command is not None else []
                    if self.fault is not None and tile == 5:
                        raise self.fault
                rows[row.relative] = self._ended(row, Path(settings.output))
                yield FileChanged(number + 1, len(rows), "", rows[row.relative], None)
        except GeneratorExit:
            self.closed = True
            raise
        report = Path(settings.output) / "a & b" / "report.html"
        return BatchResult(report.parent, report, report, tuple(rows.values()), 1, 0, 2.0)

    def _ended(self, row: BatchRow, output: Path) -> BatchRow:
        if row.relative.startswith("broken"):
            return replace(row, state="failed", reason=f"'{row.file}' {REASON}")
        files = tuple(str(output / row.relative.replace(".tif", f"_{kind}.tif")) for kind in ("probability", "binary"))
        size = {"size": "2 × 30 × 40", "bytes": 2400 * len(row.relative), "seconds": float(len(row.relative))}
        return replace(row, state="done", outputs=files, scores={"dice": 0.5 + len(row.relative) / 100}, **size)


@pytest.fixture
def batching(engine) -> Batching:
    found = Batching()
    engine.answers[RunBatch] = lambda request: found.batch(request.settings, request.retry)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one that is broken, and a text; beside it results of the images."""
    for name, seed in (("long_name", 1), ("one", 2)):
        values = np.random.default_rng(seed).integers(0, 256, (2, 30, 40)).astype(np.uint8)
        for file in (f"in/{name}.tif", f"out/{name}_probability.tif", f"out/{name}_binary.tif"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            recipe = {"operation": "segment", "classes": ["membrane"]} if file.startswith("out/") else None
            if file.endswith("_binary.tif"):
                recipe = {"operation": "segment", "classes": ["membrane"], "layer": "labels"}
            size, unit = (1.0, 1.0, 1.0), "pixel"
            write_ome_tiff(tmp_path / file, values, Space("ZYX", size, unit), description=recipe)
    (tmp_path / "in" / "broken.tif").write_bytes(b"II*\0")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def open_tab(open_panel, batching, folder, monkeypatch):
    """Open the panel with the Batch tab in front, and the folders chosen where requested; give viewer and panel."""

    def open_it(with_engine=None, chosen=True):
        viewer, panel = open_panel(with_engine)
        panel.show_tab("Batch")
        panel.batch_tab.paced_progress.pause = 0.02
        wait_for(lambda: False, 0.3)
        if chosen:
            panel.batch_tab.form.inputs.text.setText(str(folder / "in"))
            panel.batch_tab.form.output.text.setText(str(folder / "out"))
        return viewer, panel

    return open_it


def press(qtbot, button) -> None:
    qtbot.waitUntil(button.isEnabled, timeout=10_000)
    assert button.isVisible()
    qtbot.mouseClick(button, LEFT)


def run(qtbot, tab) -> None:
    press(qtbot, tab.start_button)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)


def choose(combo, value: object) -> None:
    combo.setCurrentIndex(combo.findData(value))
    combo.activated.emit(combo.currentIndex())


def states(tab) -> dict[str, str]:
    return {row.relative: row.state for row in tab.table.rows.rows}


def double_click(qtbot, tab, name: str) -> None:
    place = tab.table.visualRect(tab.table.place_of(name)).center()
    qtbot.mouseClick(tab.table.viewport(), LEFT, pos=QPoint(place))
    qtbot.mouseDClick(tab.table.viewport(), LEFT, pos=QPoint(place))
    wait_for(lambda: tab._opening is None, 10)
    wait_for(lambda: False, 0.3)


def test_start_waits_for_folders_and_says_what_they_hold(open_tab, qtbot, folder, batching):
    _, panel = open_tab(chosen=False)
    tab = panel.batch_tab
    assert not tab.start_button.isEnabled()
    assert "a folder of images" in tab.message.text()
    assert FAULT_COLOR not in tab.message.styleSheet()
    tab.form.inputs.text.setText(str(folder / "in"))
    assert "for the results" in tab.message.text()
    tab.form.output.text.setText(str(folder / "out"))
    qtbot.waitUntil(lambda: tab.inputs.summary.text().startswith("3 images; left out: 1 "), timeout=10_000)
    assert tab.start_button.isEnabled()
    assert tab.width() <= tab.parent().width()


def test_start_waits_until_all_is_right_and_what_is_wrong_is_said_once(open_tab, qtbot, folder):
    _, panel = open_tab()
    tab = panel.batch_tab
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    for field, named, said in (
        ("output", "in/out", "Details › Allow results in the image folder"),
        ("output", "in/notes.txt", "in/notes.txt' is not a folder"),
        ("output", "/proc/foo", "'/proc/foo' cannot be created there"),
        ("truth", "no truth", "no truth' does not exist"),
        ("inputs", "gone", "gone' does not exist"),
        ("inputs", "empty", "empty' contains no image"),
    ):
        text = getattr(tab.form, field).text
        right = text.text()
        text.setText(str(folder / named))
        assert not tab.start_button.isEnabled()
        qtbot.waitUntil(lambda said=said: said in tab.message.text(), timeout=10_000)
        assert not tab.start_button.isEnabled()
        assert said in tab.start_button.toolTip()
        assert FAULT_COLOR in tab.message.styleSheet()
        assert not tab.inputs.warning.isVisible()
        assert sorted(folder.rglob("*")) == before
        text.setText(right)
        qtbot.waitUntil(tab.start_button.isEnabled, timeout=10_000)


def test_what_was_mended_elsewhere_lets_start_go(open_tab, qtbot, folder):
    _, panel = open_tab()
    tab = panel.batch_tab
    tab.form.truth.text.setText(str(folder / "truth"))
    qtbot.waitUntil(lambda: "truth' does not exist" in tab.message.text(), timeout=10_000)
    (folder / "truth").mkdir()
    QApplication.sendEvent(tab.inputs, QEvent(QEvent.Type.WindowActivate))
    qtbot.waitUntil(tab.start_button.isEnabled, timeout=10_000)
    assert not tab.message.text()
    tab.form.output.text.setText(str(folder / "in" / "out"))
    qtbot.waitUntil(lambda: "Allow results in the image folder" in tab.message.text(), timeout=10_000)
    tab.form.details.field("inside").click()
    qtbot.waitUntil(tab.start_button.isEnabled, timeout=10_000)


def test_what_is_asked_is_what_segment_and_objects_tab_say(open_tab, qtbot, batching, folder):
    viewer, panel = open_tab()
    tab, form = panel.batch_tab, panel.segment_tab.form
    viewer.add_image(np.zeros((3, 64, 80), np.uint8), name="em", scale=(50, 4, 4), units="nm")
    form.threshold.setValue(0.6)
    form.options.tile.setValue(64)
    panel.objects_tab.form.threshold.setValue(0.7)
    tab.check()
    assert tab.form.model.text().startswith("tiny-2d, above 0.60, tiles of 64, <a href='Segment'")
    tab.form.field("objects").click()
    tab.form.field("recursive").click()
    tab.form.truth.text.setText(str(folder / "in"))
    tab.form.details.field("calibrated").click()
    choose(tab.form.field("form"), "ome-zarr")
    assert tab.form.way.isVisible()
    assert tab.form.way.text().startswith(
        "cells between membranes through the volume, above 0.70, merged below 0.50, <a href='Objects'"
    )
    choose(panel.objects_tab.form.method, "components")
    tab.check()
    assert tab.form.way.text().startswith("connected components through the volume, above 0.70, <a href='Objects'")
    run(qtbot, tab)
    ((settings, retry),) = batching.asked
    request = settings.request
    assert (request.model, request.form, request.depth, retry) == ("tiny-2d", "ome-zarr", "uint8", False)
    assert (request.options.threshold, request.options.tile, request.options.attention) == (0.6, 64, False)
    assert request.objects is not None
    assert (request.objects.method, request.objects.threshold) == ("components", 0.7)
    assert (settings.inputs, settings.recursive, settings.truth) == (str(folder / "in"), True, str(folder / "in"))
    assert (settings.axes, settings.voxel_size, settings.unit) == ("ZYX", (50.0, 4.0, 4.0), "nm")
    choose(panel.objects_tab.form.planes, "slices")
    tab.check()
    assert tab.form.way.text().startswith("connected components in each slice, above 0.70, <a href='Objects'")
    tab.form.wanted.emit("Segment")
    assert panel.segment_tab.isVisible()


def test_the_table_follows_is_sorted_and_failed_files_are_done_again(open_tab, qtbot, batching, monkeypatch):
    popped = []
    monkeypatch.setattr("napari_skipseg.widgets.batch.tab.pop_up", lambda *told: popped.append(told))
    _, panel = open_tab()
    tab, rows = panel.batch_tab, panel.batch_tab.table.rows
    batching.pause = 0.05
    press(qtbot, tab.start_button)
    qtbot.waitUntil(lambda: "running" in states(tab).values(), timeout=10_000)
    number = next(number for number, row in enumerate(rows.rows) if row.state == "running")
    assert rows.index(number, STATE).data().endswith("of 10")
    assert rows.index(number, TIME).data() == "1 min left"
    assert tab.progress_text.text().endswith("of 3 images, about 1 h 0 min left")
    assert not tab.form.isEnabled()
    qtbot.waitUntil(lambda: rows.count("failed") == 1, timeout=10_000)
    press(qtbot, tab.retry_button)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=10_000)
    assert batching.sent == [Retry()]
    assert states(tab) == {"broken.tif": "failed", "long_name.tif": "done", "one.tif": "done"}
    assert tab.message.text().startswith("3 images: 2 done, 1 failed.")
    assert [head for _, head in popped] == ["Batch: 2 done, 1 failed"]
    assert "a%20&amp;%20b/report.html'" in tab.links.text()
    assert REASON in rows.index(0, STATE).data(Qt.ItemDataRole.ToolTipRole)
    assert tab.table.shown_names() == ["broken.tif", "long_name.tif", "one.tif"]
    header = tab.table.horizontalHeader()
    dice = header.count() - 1
    assert rows.headerData(dice, Qt.Orientation.Horizontal, Qt.ItemDataRole.DisplayRole) == "membrane\ndice"
    assert [header.visualIndex(column) for column in (PICTURE, FILE, STATE, dice)] == [0, 1, 2, 3]
    right = header.sectionViewportPosition(dice) + header.sectionSize(dice)
    assert right <= tab.table.viewport().width() <= tab.width()
    tab.table.sortByColumn(dice, Qt.SortOrder.AscendingOrder)
    assert tab.table.shown_names() == ["broken.tif", "one.tif", "long_name.tif"]
    tab.table.selectRow(0)
    assert tab.row_line.text().endswith(f"broken.tif' {REASON}")
    tab.table.selectRow(1)
    assert tab.row_line.text() == "one.tif: dice 0.570"
    qtbot.mouseClick(header.viewport(), LEFT, pos=QPoint(header.sectionViewportPosition(FILE) + 20, 8))
    assert tab.table.shown_names() == ["broken.tif", "long_name.tif", "one.tif"]
    press(qtbot, tab.retry_button)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=10_000)
    assert [retry for _, retry in batching.asked] == [False, True]


def is_as_high_as_its_text(line) -> bool:
    """Return whether a line takes the height that its text has in its width, neither cut nor with a gap."""
    plain = QLabel(line.text(), line.parent())
    plain.setWordWrap(True)
    plain.setStyleSheet(line.styleSheet())
    plain.ensurePolished()
    return line.isVisible() and line.height() == plain.heightForWidth(line.width())


def test_lines_are_as_high_as_their_text_whatever_width_the_dock_had(open_tab, qtbot):
    _, panel = open_tab()
    tab, dock = panel.batch_tab, panel.parent()
    tab.form.field("objects").setChecked(True)
    panel.segment_tab.form.options.tile.setValue(256)
    choose(panel.segment_tab.form.options.average, 4)
    heights = []
    for width in (700, 300, 700, 300):
        dock.parent().resizeDocks([dock], [width], Qt.Orientation.Horizontal)
        wait_for(lambda: False, 0.3)
        assert is_as_high_as_its_text(tab.form.model)
        assert is_as_high_as_its_text(tab.form.way)
        qtbot.waitUntil(lambda: tab.form.height() == tab.form.sizeHint().height(), timeout=10_000)
        heights.append((tab.form.model.height(), tab.form.way.height()))
    assert heights[:2] == heights[2:]
    assert heights[0] < heights[1]


def test_what_the_batch_waits_for_is_one_line_in_full_until_a_file_moves(open_tab, qtbot, batching, folder):
    _, panel = open_tab()
    tab, said = (
        panel.batch_tab,
        "0 of 1 image: starting the workers, of which none has the network of this batch so far",
    )
    row, go_on = BatchRow("one.tif", str(folder / "in" / "one.tif")), []

    def wait():
        yield BatchOpened(0, 1, "0 of 1 image", (row,), str(folder / "out"))
        while not go_on:
            yield BatchWaits(0, 1, said)
            time.sleep(0.02)
        while len(go_on) < 2:
            yield FileChanged(0, 1, "0 of 1 image", replace(row, state="running", done=1, total=2), 60.0)
            time.sleep(0.02)

    tab.start(wait, "Batch", lambda _: None)
    qtbot.waitUntil(lambda: tab.progress_text.text() == said, timeout=5_000)
    wait_for(lambda: False, 0.2)
    line = tab.progress_text
    qtbot.waitUntil(lambda: line.height() == line.heightForWidth(line.width()), timeout=5_000)
    assert (states(tab), tab.progress.is_counting) == ({"one.tif": "waiting"}, False)
    go_on.append(1)
    qtbot.waitUntil(lambda: tab.progress_text.text() == "0 of 1 image, about 1 min left", timeout=5_000)
    go_on.append(1)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)


def test_stopped_or_failed_it_says_that_start_goes_on(open_tab, qtbot, batching):
    _, panel = open_tab()
    tab = panel.batch_tab
    batching.pause = 0.05
    press(qtbot, tab.start_button)
    qtbot.waitUntil(lambda: states(tab).get("long_name.tif") == "running", timeout=10_000)
    press(qtbot, tab.cancel_button)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=10_000)
    assert batching.closed
    assert states(tab) == {"broken.tif": "failed", "long_name.tif": "waiting", "one.tif": "waiting"}
    assert "0 done, 1 failed, 2 to go; Start continues" in tab.message.text()
    (row,) = (row for row in tab.table.rows.rows if row.relative == "long_name.tif")
    assert row.note == f"stopped at {row.done} of 10"
    assert has_bar(row)
    batching.pause, batching.fault = 0.0, EngineError("The engine process was killed: try again.")
    run(qtbot, tab)
    assert tab.message.text().startswith("The engine process was killed: try again. 0 done, 3 to go;")
    assert tab.start_button.isEnabled()


def test_a_double_click_opens_image_and_results_and_hides_those_of_the_last(open_tab, qtbot, batching):
    viewer, panel = open_tab()
    tab = panel.batch_tab
    run(qtbot, tab)
    double_click(qtbot, tab, "one.tif")
    assert [layer.name for layer in viewer.layers] == ["one", "one_probability", "one_binary"]
    probability = viewer.layers["one_probability"]
    assert (probability.contrast_limits, probability.blending) == ([0, 255], "additive")
    double_click(qtbot, tab, "long_name.tif")
    assert len(viewer.layers) == 6
    seen = [layer.name for layer in viewer.layers if layer.visible]
    assert seen == ["long_name", "long_name_probability", "long_name_binary"]
    double_click(qtbot, tab, "one.tif")
    assert len(viewer.layers) == 6
    assert [layer.name for layer in viewer.layers if layer.visible] == ["one", "one_probability", "one_binary"]
    double_click(qtbot, tab, "broken.tif")
    assert "broken.tif' is damaged and cannot be read" in tab.row_line.text()
    assert tab.message.text().startswith("3 images: 2 done, 1 failed.")
    assert len(viewer.layers) == 6
    double_click(qtbot, tab, "one.tif")
    assert tab.row_line.text() == "one.tif: dice 0.570"


def test_an_image_that_is_open_already_is_shown_and_not_opened_once_more(open_tab, qtbot, folder):
    viewer, panel = open_tab()
    viewer.open(str(folder / "in" / "one.tif"), plugin="napari-skipseg")
    viewer.add_image(np.zeros((2, 30, 40)), name="over it")
    tab = panel.batch_tab
    run(qtbot, tab)
    viewer.layers["one"].visible = False
    double_click(qtbot, tab, "one.tif")
    assert [layer.name for layer in viewer.layers] == ["over it", "one", "one_probability", "one_binary"]
    assert viewer.layers["one"].visible
    run(qtbot, tab)
    double_click(qtbot, tab, "one.tif")
    assert len(viewer.layers) == 4


def test_a_double_click_opens_one_image_of_a_file_with_its_results(open_tab, qtbot, folder):
    viewer, panel = open_tab()
    tab, file = panel.batch_tab, folder / "positions.ome.tif"
    with tifffile.TiffWriter(file, ome=True) as writer:
        for number in range(2):
            values = np.full((2, 30, 40), 50 + number, np.uint8)
            writer.write(values, photometric="minisblack", metadata={"axes": "ZYX", "Name": f"Pos{number}"})
    outputs = tuple(str(folder / "out" / f"one_{kind}.tif") for kind in ("probability", "binary"))
    row = BatchRow("positions.ome.tif#1", f"{file}#1", "done", outputs=outputs, title="Pos1")
    tab._open_table((row,))
    assert tab.table.rows.index(0, FILE).data() == "positions.ome.tif#1 Pos1"
    double_click(qtbot, tab, "positions.ome.tif#1")
    image, *results = viewer.layers
    assert np.unique(image.data).tolist() == [51]
    assert [layer.name for layer in results] == ["one_probability", "one_binary"]
    assert all(layer.visible for layer in viewer.layers)
    image.visible = False
    double_click(qtbot, tab, "positions.ome.tif#1")
    assert len(viewer.layers) == 3
    assert image.visible


def test_the_table_of_other_images_is_hidden_and_unknown_voxel_sizes_are_said_before_the_start(open_tab, qtbot, folder):
    _, panel = open_tab()
    tab = panel.batch_tab
    qtbot.waitUntil(lambda: "not known of 2 of 3 images" in tab.inputs.warning.text(), timeout=10_000)
    run(qtbot, tab)
    assert tab.table.isVisible()
    assert tab.retry_button.isVisible()
    (folder / "other").mkdir()
    write_ome_tiff(folder / "other" / "a.tif", np.zeros((4, 4), np.uint8), Space("YX", (1.0, 4.0, 4.0), "nm"))
    tab.form.inputs.text.setText(str(folder / "other"))
    assert not any(each.isVisible() for each in (tab.table, tab.retry_button, tab.links))
    qtbot.waitUntil(lambda: tab.inputs.summary.text() == "1 image", timeout=10_000)
    assert tab.inputs.warning.text() == ""
    tab.form.inputs.text.setText(str(folder / "in"))
    assert tab.table.isVisible()
    tab.form.inputs.text.setText(str(folder / "other"))
    qtbot.waitUntil(tab.start_button.isEnabled, timeout=10_000)
    run(qtbot, tab)
    assert [row.relative for row in tab.table.rows.rows] == ["a.tif"]


def test_an_opened_row_is_framed_and_all_else_is_hidden(open_tab, qtbot, batching):
    viewer, panel = open_tab()
    viewer.add_image(np.zeros((4, 3000, 3000), np.uint8), name="mine", scale=(5, 5, 5), units="nm")
    run(qtbot, panel.batch_tab)
    double_click(qtbot, panel.batch_tab, "one.tif")
    assert {layer.name for layer in viewer.layers if layer.visible} == {"one", "one_probability", "one_binary"}
    box = visible_box(viewer, viewer.layers["one"])
    assert box[1:] == ((0, 29), (0, 39))
    view = view_of(viewer, viewer.layers["one"])
    np.testing.assert_allclose(view.middle[1:], (14.5, 19.5))
    size = viewer.window._qt_viewer.canvas.size
    assert 0.5 < 30 / view.pixel / size[0] < 1.0 or 0.5 < 40 / view.pixel / size[1] < 1.0


def test_the_most_telling_score_and_its_class_follow_the_state_and_a_wider_dock_shows_more(qtbot):
    table = BatchTable()
    qtbot.addWidget(table)
    header = table.horizontalHeader()
    table.rows.class_names = ("membrane", "vesicle")
    scores = {"membrane iou": 0.4, "membrane dice": 0.5, "vesicle dice": 0.6}
    long = "a_long_name_of_a_file_from_the_microscope_of_monday.tif"
    table.rows.show_rows([BatchRow(long, f"/in/{long}", "done", scores=scores)])
    seen = {}
    for width in (300, 500, 900):
        table.resize(width, 240)
        table.show()
        order = [header.logicalIndex(place) for place in range(header.count())]
        names = [table.rows.headerData(n, Qt.Orientation.Horizontal, Qt.ItemDataRole.DisplayRole) for n in order]
        ends = [header.sectionViewportPosition(n) + header.sectionSize(n) for n in order]
        seen[width] = [name for name, end in zip(names, ends, strict=True) if end <= table.viewport().width()]
    assert seen[300] == ["", "File", "State", "membrane\ndice"]
    assert seen[500] == [*seen[300], "Time"]
    assert len(seen[900]) == header.count()
    table.rows.change([BatchRow(long, f"/in/{long}", "done", scores={"average_precision": 0.7, **scores})])
    names = [header.logicalIndex(3), header.count() - 1]
    assert names[0] == names[1]


def test_no_column_is_cut_at_the_width_of_the_panel_and_a_reason_has_two_lines(qtbot):
    table = BatchTable()
    qtbot.addWidget(table)
    header = table.horizontalHeader()
    reason = "'/in/a.tif' is not a TIFF file: export the image again as TIFF, OME-Zarr or MRC."
    table.rows.show_rows([BatchRow("a.tif", "/in/a.tif", "failed", reason=reason), BatchRow("b.tif", "/in/b.tif")])
    for width in range(300, 601, 20):
        table.resize(width, 240)
        table.show()
        wide = table.viewport().width()
        cut = [n for n in range(header.count()) if 0 < wide - header.sectionViewportPosition(n) < header.sectionSize(n)]
        assert cut == []
    table.resize(346, 240)
    assert header.sectionViewportPosition(TIME) + header.sectionSize(TIME) <= table.viewport().width()
    lines = cut_into_lines("export the image again as TIFF, OME-Zarr or MRC.", table.font(), 150)
    assert lines[0].startswith("export the")
    assert (len(lines), " ".join(lines)) == (2, "export the image again as TIFF, OME-Zarr or MRC.")
    assert cut_into_lines("", table.font(), 150) == []


def test_what_became_of_all_files_is_told_apart():
    done = BatchRow("a.tif", "", "done")
    rows = [done, replace(done, state="failed"), replace(done, state="skipped"), replace(done, state="running")]
    assert count_states(rows) == "1 done, 1 failed, 1 done before, 1 to go"
    assert count_states([done, done]) == "2 done"
    at_work = BatchRow("a.tif", "", "running", 3, 12, "tile 3 of 12", 75.0)
    now = mark_stopped(at_work)
    assert (now.state, now.note, now.message, now.seconds_left) == ("waiting", "stopped at 3 of 12", "", None)
    assert has_bar(now)
    begun = mark_stopped(replace(at_work, done=0, total=1))
    assert (begun.note, has_bar(begun)) == ("", False)


def test_choices_are_remembered_and_what_is_damaged_is_not(open_tab, qtbot, folder):
    _, panel = open_tab()
    panel.batch_tab.form.field("recursive").click()
    panel.batch_tab.form.details.field("truth_label").setValue(255)
    chosen = panel.batch_tab.form.read()
    run(qtbot, panel.batch_tab)
    _, again = open_tab(chosen=False)
    assert again.batch_tab.form.read() == chosen
    assert chosen.truth_label == 255
    open_settings().put("batch/choices", {"unknown": 1})
    _, third = open_tab(chosen=False)
    assert third.batch_tab.form.read().inputs == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_real_engine_goes_on_after_stop_and_kill(open_tab, qtbot, folder):
    values = np.random.default_rng(5).integers(0, 256, (40, 64, 64)).astype(np.uint8)
    tifffile.imwrite(folder / "in" / "volume.tif", values, photometric="minisblack", metadata={"axes": "ZYX"})
    with Engine() as engine:
        _, panel = open_tab(engine)
        tab = panel.batch_tab
        panel.segment_tab.form.options.tile.setValue(48)

        def is_at_work() -> bool:
            return any(row.relative == "volume.tif" and row.done > 2 for row in tab.table.rows.rows)

        press(qtbot, tab.start_button)
        qtbot.waitUntil(is_at_work, timeout=60_000)
        press(qtbot, tab.cancel_button)
        qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
        assert states(tab)["volume.tif"] == "waiting"
        press(qtbot, tab.start_button)
        qtbot.waitUntil(is_at_work, timeout=60_000)
        os.kill(engine.pid, signal.SIGKILL)
        qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
        told = states(tab)
        assert told.pop("broken.tif") == "failed"
        assert set(told.values()) <= {"done", "skipped"}
        assert "report.html" in tab.links.text()
        row = next(row for row in tab.table.rows.rows if row.relative == "volume.tif")
        picture = tab.table.rows.index(tab.table.rows.rows.index(row), PICTURE).data(Qt.ItemDataRole.DecorationRole)
        assert (picture.width(), picture.height()) == (40, 40)
        (target,) = (place for place in (folder / "out").iterdir() if place.is_dir())
        assert (target / "volume_probability.tif").is_file()


def test_thousands_of_rows_change_quickly(qapp):
    model = BatchRows()
    rows = [BatchRow(f"{number}.tif", f"/in/{number}.tif") for number in range(5000)]
    start = time.process_time()
    model.show_rows(rows)
    model.change([replace(row, state="done", scores={"dice": 0.5}, seconds=2.0) for row in rows[:500]])
    assert time.process_time() - start < 0.5
    assert (model.rowCount(), model.columnCount(), model.count("done")) == (5000, 6, 500)
    odd = BatchRow(os.fsdecode(b"\xff.tif"), os.fsdecode(b"/in/\xff.tif"), "failed", reason="It failed.")
    model.show_rows([odd])
    assert model.index(0, FILE).data() == "\N{REPLACEMENT CHARACTER}.tif"
    assert describe_row(odd) == "/in/\N{REPLACEMENT CHARACTER}.tif\nIt failed."
