"""Make the guide's pictures from the package's own sample: `xvfb-run -a .venv/bin/python scripts/pictures.py`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import napari
import numpy as np
import torch
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QApplication, QFormLayout, QWidget

from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.catalog import BUILT_IN, MODELS_VARIABLE
from napari_skipseg.models.description import TrainingRecord
from napari_skipseg.models.model import read_model, write_model
from napari_skipseg.proofread.store import EDITS_VARIABLE
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples, sample_to_bytes
from napari_skipseg.widgets.panel import PATIENCE, SIZE, wait_for
from napari_skipseg.widgets.settings import SETTINGS_VARIABLE

LARGE = (1400, 900)
WIDE = 600
"""Width of the panel in pixels in which the table of a batch also shows a score."""
SMALL = 4
"""Stacks of the batch that are done when its picture is taken."""
SMALLEST = 300
"""Pixels of a cell in the picture of objects."""
PICTURES = Path(__file__).parents[1] / "docs" / "images"
TEXTS = PICTURES / "window.json"
"""What stood in the window when the pictures were made; tests/widgets/test_docs_pictures.py compares it with today."""


def wait(done: Callable[[], bool]) -> None:
    """Let the window live until `done`."""
    if not wait_for(done, PATIENCE):
        sys.exit("The pictures were not ready in time.")


def open_tab(panel: QWidget, name: str) -> None:
    """Open one of the panel's tabs."""
    tabs = panel.tabs
    tabs.setCurrentIndex([tabs.tabText(number) for number in range(tabs.count())].index(name))


def window_texts(panel: QWidget) -> dict[str, list[str]]:
    """Return the labels of the fields and the texts of the buttons in each tab of a panel that was just opened."""
    texts = {}
    for number in range(panel.tabs.count()):
        tab = panel.tabs.widget(number).widget()
        found = {button.text().lstrip("▸▾ ") for button in tab.findChildren(QAbstractButton)}
        for form in tab.findChildren(QFormLayout):
            labels = [form.itemAt(row, QFormLayout.ItemRole.LabelRole) for row in range(form.rowCount())]
            found |= {label.widget().text() for label in labels if label is not None}
        texts[panel.tabs.tabText(number)] = sorted(found - {""})
    return texts


def find_objects(viewer: napari.Viewer, panel: QWidget) -> None:
    """Find the cells of each slice, and go to one of them."""
    tab = panel.objects_tab
    viewer.window.resize(*LARGE)
    open_tab(panel, "Objects")
    wait(tab.find_button.isEnabled)
    tab.form.planes.setCurrentIndex(tab.form.planes.findData("slices"))
    tab.form.planes.activated.emit(tab.form.planes.currentIndex())
    tab.form.threshold.setValue(0.4)
    tab.form.smallest.number.setValue(SMALLEST)
    tab.find_button.click()
    wait(lambda: not tab.is_running)
    if tab.result() is None:
        sys.exit(tab.message.text())
    areas = tab.result().table.column("area (nm²)")
    tab.table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    tab.table.chosen.emit(int(areas.argmax()))
    viewer.reset_view()
    viewer.status = "Ready"


def proofread(viewer: napari.Viewer, panel: QWidget) -> None:
    """Proofread the objects, and outline the split of a cell that may be two."""
    tab = panel.proofread_tab
    open_tab(panel, "Proofread")
    wait(tab.open_button.isEnabled)
    tab.open_button.click()
    wait(lambda: not tab.is_running)
    if tab.opened is None:
        sys.exit(tab.message.text())
    tab.next_doubt()
    while tab.doubt is not None and tab.doubt.kind != "split?":
        tab.next_doubt()
    viewer.status = "Ready"


def mesh(viewer: napari.Viewer, panel: QWidget) -> None:
    """Find the cells of the volume, and show the mesh of one that goes through all slices, over the first slice."""
    tab = panel.objects_tab
    open_tab(panel, "Objects")
    wait(tab.find_button.isEnabled)
    tab.form.planes.setCurrentIndex(tab.form.planes.findData("volume"))
    tab.form.planes.activated.emit(tab.form.planes.currentIndex())
    tab.form.smallest.number.setValue(0)
    tab.find_button.click()
    wait(lambda: not tab.is_running)
    if tab.result() is None:
        sys.exit(tab.message.text())
    table, lengths = tab.result().table, viewer.layers["EM sample (synthetic)"].data.shape
    is_chosen = np.ones(len(table), bool)
    for axis, length in zip("zyx", lengths, strict=True):
        low, high = (table.column(f"bounding box {axis} {end}") for end in ("start", "end"))
        # through all slices, and not cut off at the other sides
        is_chosen &= (high - low == length) if axis == "z" else (low > 0) & (high < length)
    tab.table.chosen.emit(int(np.where(is_chosen, table.column("voxels"), 0).argmax()))
    tab.show_shape_of_selected("mesh")
    wait(lambda: not tab.is_running)
    if viewer.dims.ndisplay != 3:
        sys.exit(tab.message.text())
    tab.unmark()
    image = viewer.layers["EM sample (synthetic)"]
    image.depiction = "plane"
    image.plane.position, image.plane.normal = (0, 0, 0), (1, 0, 0)
    viewer.camera.angles = (0, 35, 60)
    viewer.camera.zoom *= 0.8
    viewer.status = "Ready"


def library(panel: QWidget, folder: Path) -> QWidget:
    """Show all models, among them two that were trained from another one, and the patches of one of these."""
    start = read_model(BUILT_IN / "em-membrane")
    sample = make_sample((4, 256, 256))
    images = measure(sample.stack).apply(sample.stack.read((slice(None),) * 3)).astype(np.float16)[:, None]
    marks = np.zeros(len(images), bool)
    patches = RehearsalSamples(
        images, sample.membrane.astype(np.int8), np.ones((len(images), 1), bool), marks, marks.copy()
    )
    parent = start.description
    for name in ("cerebellum", "cerebellum-2"):
        record = TrainingRecord(parent=parent.name, parent_sha256=parent.weights_sha256)
        card = replace(parent.card, summary=f"{parent.name}, fine-tuned (normal) to membrane.")
        described = replace(parent, name=name, card=card, training=record)
        with torch.no_grad():
            for weights in start.network.parameters():
                weights.mul_(1.001)
        parent = write_model(folder / name, described, start.network, sample_to_bytes(patches)).description
    panel.show_library()
    wait(lambda: any(model.name == "cerebellum-2" for model in panel.model_library.models))
    panel.model_library.choose("cerebellum-2")
    wait(panel.model_library.pictures.isVisible)
    wait_for(lambda: False, 0.5)  # the patches take their place after the line above them
    return panel.model_library


def inspect(viewer: napari.Viewer, panel: QWidget) -> None:
    """Show what the first gate passes, of the image alone."""
    tab = panel.inspect_tab
    viewer.window.resize(*LARGE)
    while len(viewer.layers) > 1:  # the frame around an object goes with its layer
        viewer.layers.pop()
    wait_for(lambda: False, 0.3)  # software OpenGL does not survive layers that come at once
    open_tab(panel, "Inspect")
    wait(lambda: tab.plots is not None and tab.show_button.isEnabled())
    tab.show_button.click()
    wait(lambda: not tab.is_running)
    if "long skip 1 after" not in viewer.layers:
        sys.exit(tab.message.text())
    viewer.layers.selection.active = viewer.layers["long skip 1 after"]
    viewer.reset_view()
    viewer.status = "Ready"


def write_folder(folder: Path) -> None:
    """Write stacks cut from the sample, one of them cut short, and beside them their truth."""
    sample = make_sample()
    for place in ("images", "truth"):
        (folder / place).mkdir()
    calibration = (sample.stack.space.voxel_size, sample.stack.space.unit)
    for number, name in enumerate(("cerebellum_1", "cerebellum_2", "cortex_1", "cortex_2", "cortex_3", "retina_1")):
        depth, side = (4, 256) if number < SMALL else (14, 400)
        start = 40 * number % (512 - side)
        part = (slice(0, depth), slice(start, start + side), slice(start, start + side))
        cells = np.where(sample.membrane[part], 0, 255).astype(np.uint8)
        for place, values in (("images", np.asarray(sample.stack.data)[part]), ("truth", cells)):
            write_ome_tiff(folder / place / f"{name}.ome.tif", values, Space("ZYX", *calibration))
    broken = folder / "images" / "cerebellum_2.ome.tif"
    broken.write_bytes(broken.read_bytes()[:50_000])


def batch(viewer: napari.Viewer, panel: QWidget, folder: Path) -> None:
    """Show a batch at work on stacks in `folder`, and one of its results."""
    tab = panel.batch_tab
    viewer.window.resize(*LARGE)
    while viewer.layers:
        viewer.layers.pop()
        wait_for(lambda: False, 0.3)
    open_tab(panel, "Batch")
    wait_for(lambda: False, 0.5)
    dock = panel.parent()
    dock.parent().resizeDocks([dock], [WIDE], Qt.Orientation.Horizontal)
    for field, name in ((tab.form.inputs, "images"), (tab.form.output, "results"), (tab.form.truth, "truth")):
        field.text.setText(str(folder / name))
    wait(lambda: "6 images" in tab.inputs.summary.text())
    tab.start_button.click()
    wait(lambda: tab.table.rows.count("done") >= SMALL - 1)
    tab.open_row(next(row for row in tab.table.rows.rows if row.state == "done"))
    wait(lambda: len(viewer.layers) > 1 and any(row.done > 1 for row in tab.table.rows.rows))
    wait_for(lambda: False, 0.7)
    viewer.status = "Ready"


def main() -> None:
    """Segment the sample; show the panel, attention, the model's card, objects, a look inside, and a batch."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    os.environ[SETTINGS_VARIABLE] = ""  # the pictures are the same for everybody
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    TEXTS.write_text(json.dumps(window_texts(panel), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    viewer.open_sample("napari-skipseg", "em_stack")
    tab = panel.segment_tab
    application = QApplication.instance()
    wait(tab.segment_button.isEnabled)
    tab.segment_button.click()
    wait(lambda: tab.result() is not None and not tab.is_running)

    def shoot(name: str) -> None:
        for _ in range(20):
            application.processEvents()
        viewer.screenshot(str(PICTURES / name), canvas_only=False, flash=False)

    wait(lambda: tab.plan.summary.text().startswith("about"))
    viewer.status = "Ready"
    shoot("panel.png")
    for layer in viewer.layers:
        layer.visible = layer.name in ("EM sample (synthetic)", "attention 1")
    viewer.layers.selection.active = viewer.layers["attention 1"]
    shoot("attention.png")
    tab.form.card.click()
    for _ in range(20):
        application.processEvents()
    tab.form.card_dialog.grab().save(str(PICTURES / "card.png"))
    tab.form.card_dialog.close()
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        os.environ[MODELS_VARIABLE] = folder
        window = library(panel, Path(folder))
        window.grab().save(str(PICTURES / "library.png"))
        window.close()
        del os.environ[MODELS_VARIABLE]
    for layer in viewer.layers:
        layer.visible = layer.name == "EM sample (synthetic)"
    find_objects(viewer, panel)
    wait_for(lambda: False, 0.5)
    shoot("objects.png")
    with tempfile.TemporaryDirectory(prefix="edits-") as folder:
        os.environ[EDITS_VARIABLE] = folder
        proofread(viewer, panel)
        wait_for(lambda: False, 0.5)
        shoot("proofread.png")
        panel.proofread_tab.close_session()
    mesh(viewer, panel)
    wait_for(lambda: False, 0.5)
    shoot("mesh.png")
    viewer.layers.pop()
    viewer.dims.ndisplay = 2
    viewer.layers["EM sample (synthetic)"].depiction = "volume"
    inspect(viewer, panel)
    shoot("inspect.png")
    with tempfile.TemporaryDirectory(prefix="em-") as folder:
        write_folder(Path(folder))
        batch(viewer, panel, Path(folder))
        shoot("batch.png")
        wait(lambda: not panel.batch_tab.is_running)
    viewer.close()
    for picture in PICTURES.glob("*.png"):
        method = Image.Quantize.FASTOCTREE if picture.name == "inspect.png" else None  # it keeps small marks' colours
        Image.open(picture).convert("RGB").quantize(128, method).save(picture, optimize=True)


if __name__ == "__main__":
    main()
