"""The window of the model library: what it lists and does, and that the boxes of all tabs follow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends.warm import WarmModels
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.jobs.messages import CopyModel
from napari_skipseg.jobs.operations import iter_perform
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.model_library import LibraryModel
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples, sample_to_bytes
from napari_skipseg.widgets.forms.models import sample_pictures
from napari_skipseg.widgets.model_library.compare import (
    CLASSES,
    FIRST,
    SECOND,
    compare_predictions,
    describe_comparison,
    differing,
)
from napari_skipseg.widgets.model_library.window import COLUMNS, details_html
from napari_skipseg.widgets.segment.part import PreviewView


@pytest.fixture
def models(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny models, and one whose weights are damaged."""
    folder = tmp_path / "models"
    shutil.copytree(model_folder, folder)
    shutil.copytree(folder / "tiny-2d", folder / "bad")
    (folder / "bad" / "weights.safetensors").write_bytes(b"cut")
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    return folder


@pytest.mark.gui
def test_a_model_is_renamed_copied_shared_compared_and_deleted(
    models: Path, open_panel, engine, qtbot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine.answers[CopyModel] = lambda request: iter_perform(request, Path(), WarmModels())
    viewer, panel = open_panel()
    viewer.add_image(np.full((3, 64, 64), 200, np.uint8), name="em", scale=(50, 4, 4), units=("nm", "nm", "nm"))
    window, form = panel.model_library, panel.segment_tab.form

    def rows() -> dict[str, str]:
        return {item.text(0): item.text(2) for item in window.items() if not item.isHidden()}

    def click(name: str, *chosen: str) -> None:
        if chosen:
            window.choose(*chosen)
        qtbot.mouseClick(window.buttons[name], Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not window.is_running)

    qtbot.mouseClick(form.library_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: set(rows()) == {"bad", "tiny-2d", "tiny-3d"})
    assert rows() == {"bad": "damaged", "tiny-2d": "MIT", "tiny-3d": "MIT"}
    assert all(
        window.tree.columnWidth(column) >= window.tree.sizeHintForColumn(column) for column in range(len(COLUMNS))
    )
    assert window.tree.viewport().width() >= window.tree.header().length()
    window.choose("bad")
    assert "SHA-256 differs" in window.card.text()
    assert {name for name, button in window.buttons.items() if button.isEnabled()} == {
        "import", "rename", "delete", "folder",
    }  # fmt: skip
    qtbot.keyClicks(window.search, "3D")
    assert set(rows()) == {"tiny-3d"}
    window.search.clear()

    form.choose_model("tiny-2d")
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("mine", True))
    click("rename", "tiny-2d")
    qtbot.waitUntil(lambda: set(rows()) == {"bad", "mine", "tiny-3d"})
    assert form.model.currentData() == "mine"
    assert form.read().model == read_description(models / "mine")
    assert panel.finetune_tab.form.model.findData("mine") >= 0
    assert panel.finetune_tab.form.model.findData("tiny-2d") < 0
    assert [model.name for model in window.chosen()] == ["mine"]

    shared = tmp_path / "mine.skipseg.zip"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(tmp_path / "mine"), ""))
    click("export")
    assert window.message.text() == f"Exported to {shared}."
    asked = []

    def question(*texts: object) -> QMessageBox.StandardButton:
        asked.append(texts[-1])
        return QMessageBox.StandardButton.No

    monkeypatch.setattr(QMessageBox, "question", question)
    click("export")
    assert asked == [f"'{shared}' is there already. Replace it?"]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (str(shared), ""))
    click("import")
    assert "such as mine-2" in window.message.text()  # the name is taken
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("copy", True))
    click("duplicate", "mine")
    qtbot.waitUntil(lambda: "copy" in rows())
    assert window.message.text() == "Copied to copy."
    window.choose("mine")
    assert "Same weights</b> copy<" in window.card.text()

    click("compare", "mine", "tiny-3d")
    assert window.message.text().startswith("100 % of what is on screen is the same in mine and tiny-3d")
    layers = {layer.name: layer for layer in viewer.layers}
    assert list(layers) == ["em", "compare: mine", "compare: tiny-3d", "compare: differs"]
    assert np.asarray(layers["compare: mine"].data).min() == 1  # 200 of 255 is above the threshold
    assert np.asarray(layers["compare: differs"].data).max() == 0
    click("use", "tiny-3d")
    assert form.model.currentData() == "tiny-3d"

    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    monkeypatch.setattr("send2trash.send2trash", lambda path: Path(path).rename(tmp_path / "bin"))
    click("delete", "copy")
    qtbot.waitUntil(lambda: "copy" not in rows())
    assert (tmp_path / "bin" / "model.json").is_file()

    def no_bin(path: str) -> None:
        raise PermissionError(13, "no bin")

    monkeypatch.setattr("send2trash.send2trash", no_bin)
    click("delete", "mine")
    qtbot.waitUntil(lambda: "mine" not in rows())
    assert (models / "deleted" / "mine" / "model.json").is_file()

    qtbot.keyClicks(window.search, "3D")
    click("import")
    qtbot.waitUntil(lambda: "mine" in rows())
    assert [model.name for model in window.chosen()] == ["mine"]
    assert window.message.text() == "Imported mine."
    window.close()


def test_a_difference_counts_classes_by_their_names() -> None:
    one = np.array([0, 1, 0, 1, 1, 2], np.uint8)
    other = np.array([0, 0, 1, 2, 1, 1], np.uint8)
    difference, by_class = differing(one, other, ("membrane", "vesicle"), ("Vesicle", "membrane"))
    assert by_class
    assert difference.tolist() == [0, FIRST, SECOND, 0, CLASSES, 0]
    difference, by_class = differing(one, other, ("membrane", "vesicle"), ("boundary", "cell"))
    assert not by_class
    assert difference.tolist() == [0, FIRST, SECOND, 0, 0, 0]
    difference, _ = differing(one, other, ("membrane", "vesicle"), ("membrane", "cell"))
    assert difference.tolist() == [0, FIRST, SECOND, CLASSES, 0, CLASSES]


def test_only_what_both_models_saw_is_compared() -> None:
    """A 2D model saw slice 1 from row 0 on, a 3D model slices 0 to 2 from row 2 on."""
    flat, deep = np.zeros((1, 6, 8), np.float32), np.zeros((3, 6, 8), np.float32)
    flat[0, 2:4] = 1
    deep[1, 0:1] = 1

    def view(array: np.ndarray, start: dict[int, int]) -> PreviewView:
        stack = Stack(array, Space("ZYX"))
        return PreviewView(stack, start, stack, SegmentOptions())

    found = tuple(Prediction(array, Space("ZYX"), ("membrane",)) for array in (flat, deep))
    views = view(flat, {0: 1, 1: 0, 2: 0}), view(deep, {0: 0, 1: 2, 2: 0})
    compared = compare_predictions(("a", "b"), (found[0], found[1]), views, "ZYX")
    assert compared.positions == {0: 1, 1: 2, 2: 0}
    assert compared.difference.shape == (1, 4, 8)
    assert compared.difference[0, :, 0].tolist() == [0, FIRST, 0, 0]
    assert describe_comparison(compared) == (
        "75 % of what is on screen is the same in a and b; 25 % only a finds (orange)."
    )


def test_pictures_of_patches_show_their_labels_in_blue(tmp_path: Path) -> None:
    from tiny_models import write_tiny

    from napari_skipseg.models.model import read_model, write_model

    images = np.zeros((5, 1, 256, 256), np.float16)
    images[:, :, ::2] = 1
    targets = np.zeros((5, 256, 256), np.int8)
    targets[3, :128] = 1
    marks = np.zeros(5, bool)
    samples = RehearsalSamples(images, targets, np.ones((5, 1), bool), marks, marks.copy())
    model = read_model(write_tiny(tmp_path / "plain"))
    assert sample_pictures(tmp_path / "plain", model.description) == []
    described = write_model(tmp_path / "m", model.description, model.network, sample_to_bytes(samples)).description
    first, *others = sample_pictures(tmp_path / "m", described)
    assert (first.shape, len(others)) == ((128, 128, 3), 2)
    assert (first[10, 10, 2] > first[10, 10, 0], first[100, 10, 2] == first[100, 10, 0]) == (True, True)
    assert all((other[..., 0] == other[..., 2]).all() for other in others)


def test_text_of_a_stranger_is_no_html(tmp_path: Path) -> None:
    model = LibraryModel("<b>x</b>", tmp_path, None, "<img src='http://x'>", 0, 0.0)
    assert "<img" not in details_html(model, [model])
    assert "<b>x" not in details_html(model, [model])
