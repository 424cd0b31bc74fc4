"""What a model is trained from scratch on, and which network it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit, QPushButton, QSpinBox, QWidget

from napari_skipseg.errors import FileError, InputError, SpecError
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import describe_model
from napari_skipseg.networks.presets import PRESETS, find_preset
from napari_skipseg.training.flags import settings_from_flags
from napari_skipseg.training.settings import TrainSettings
from napari_skipseg.widgets.finetune.form import why_not_named
from napari_skipseg.widgets.forms.fields import FolderField, FreshCombo
from napari_skipseg.widgets.layers.axes import axes_of
from napari_skipseg.widgets.layers.results import KEY, is_result, stack_of_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


_STEPS = 3000
_ENDINGS = (".tif", ".tiff", ".png", ".mrc", ".zarr", ".jpg", ".jpeg", ".bmp")
LAYERS, FOLDERS = "layers", "folders"


class TrainFormValues(NamedTuple):
    """Settings, and the stacks that lie in no file by the names that the settings give them."""

    settings: TrainSettings
    written: dict[str, Stack]


class TrainForm(QWidget):  # type: ignore[misc]
    """Images and labels, network, classes, name. `started` says that Train was pressed."""

    started = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self.kind, self.image, self.labels = FreshCombo(), FreshCombo(), FreshCombo()
        self.image_folder, self.label_folder = FolderField("Images"), FolderField("Labels")
        self.network, self.skip, self.dimensions = FreshCombo(), FreshCombo(), FreshCombo()
        self.classes, self.name, self.validate, self.steps = QLineEdit(), QLineEdit(), QLineEdit(), QSpinBox()
        self.train_button = QPushButton("Train from scratch")
        self.kind.offer([("layers", LAYERS), ("folders or files", FOLDERS)], LAYERS)
        self.network.offer([(preset.name, preset.name) for preset in PRESETS], "unet")
        self.dimensions.offer([("2D, slice by slice", 2), ("3D", 3)], 2)
        self.classes.setPlaceholderText("membrane=1, mitochondrion=2")
        self.validate.setPlaceholderText("such as 20-24")
        self.name.setPlaceholderText("my-model")
        self.steps.setRange(1, 1_000_000)
        self.steps.setSingleStep(500)
        self.steps.setValue(_STEPS)
        self._lay_out()
        self._connect()
        self._offer_skips()
        self._follow_kind()

    def _lay_out(self) -> None:
        rows = self._rows = QFormLayout(self)
        rows.setContentsMargins(12, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for title, field, hint in (
            ("Learn from", self.kind, "Layers of this window, or files: those in two folders are matched by name"),
            ("Image", self.image, "The layer to learn from"),
            ("Labels", self.labels, "Its labels, every voxel of them: 0 = background, and a value for each class"),
            ("Images", self.image_folder, "An image, or a folder of them"),
            ("Labels", self.label_folder, "Its labels, or a folder with a file of the same name for each image"),
            ("Network", self.network, ""),
            ("Skip", self.skip, "What the skip connections do with the features"),
            ("Dimensions", self.dimensions, "Whether the network works on slices or on volumes"),
            ("Classes", self.classes, "NAME=VALUE for each class, separated by commas; other values are background"),
            ("Name", self.name, "What the model is called"),
            ("Held out", self.validate, "Slices that are used to score the model and not to train it, such as 20-24"),
            ("Steps", self.steps, "Training steps: 3000 take an hour or more without a GPU"),
        ):
            field.setToolTip(hint)
            rows.addRow(title, field)
        rows.addRow(self.train_button)

    def _connect(self) -> None:
        self.kind.activated.connect(self._follow_kind)
        self.network.activated.connect(self._offer_skips)
        self.train_button.clicked.connect(self.started)
        for combo in (self.image, self.labels):
            combo.opening.connect(self.offer_layers)

    def offer_layers(self, *_: object) -> None:
        """Offer the layers that there are."""
        from napari.layers import Image, Labels

        for combo, kind in ((self.image, Image), (self.labels, Labels)):
            layers = [layer for layer in self._viewer.layers if isinstance(layer, kind) and not _is_ours(layer)]
            combo.offer([(layer.name, layer) for layer in layers], combo.currentData())

    def _follow_kind(self) -> None:
        has_layers = self.kind.currentData() == LAYERS
        for field in (self.image, self.labels):
            self._rows.setRowVisible(field, has_layers)
        for field in (self.image_folder, self.label_folder):
            self._rows.setRowVisible(field, not has_layers)
        self.offer_layers()

    def _offer_skips(self) -> None:
        preset = find_preset(str(self.network.currentData()))
        skips = preset.skips or (preset.spec.skip,)
        self.skip.offer([(skip, skip) for skip in skips], self.skip.currentData() or preset.spec.skip)
        self.network.setToolTip(preset.title)

    def read(self) -> TrainFormValues:
        """Return what to train.

        Raises:
            SkipsegError: something is missing or does not fit, with the cure.
        """
        name = self.name.text().strip()
        if fault := why_not_named(name):
            raise SpecError(fault)
        classes = [each.strip() for each in self.classes.text().split(",") if each.strip()]
        if not classes:
            raise SpecError("Name at least one class, with its value in the labels: such as membrane=1.")
        flags: dict[str, Any] = {
            "name": name,
            "classes": classes,
            "preset": self.network.currentData(),
            "skip": self.skip.currentData(),
            "dimensions": self.dimensions.currentData(),
            "validate": self.validate.text().strip(),
            "steps": self.steps.value(),
        }
        if self.kind.currentData() == FOLDERS:
            pairs = pair_label_files(self.image_folder.path(), self.label_folder.path())
            flags["images"], flags["labels"] = zip(*pairs, strict=True)
            return TrainFormValues(settings_from_flags(None, flags), {})
        return self._read_layers(flags)

    def _read_layers(self, flags: dict[str, Any]) -> TrainFormValues:
        layer, labels = self.image.currentData(), self.labels.currentData()
        if layer is None or labels is None:
            raise InputError("Training needs an image layer and a labels layer: open both, or choose folders.")
        image, truth = _stack(layer), _stack(labels)
        if [image.length(axis) for axis in "TZYX"] != [truth.length(axis) for axis in "TZYX"]:
            raise InputError(
                f"The labels '{truth.name}' have shape {truth.shape} and '{image.name}' {image.shape}: choose the "
                "labels that were made for this image."
            )
        if image.length("C") > 1:
            flags["in_channels"] = image.length("C")
        flags["voxel_size"], flags["unit"] = list(image.space.voxel_size), image.space.unit
        written = {}
        for key, stack in (("images", image), ("labels", truth)):
            flags[key] = [stack.file or f"{key} {stack.name}"]
            if not stack.file:
                written[flags[key][0]] = stack
        return TrainFormValues(settings_from_flags(None, flags), written)


def pair_label_files(images: Path, labels: Path) -> list[tuple[str, str]]:
    """Return images and their labels: two files, or the files of two folders that have the same name before the dot.

    Raises:
        FileError: a folder holds no image, or no labels for one of its images.
    """
    if not _is_folder(images) and not _is_folder(labels):
        return [(str(images), str(labels))]
    if not (_is_folder(images) and _is_folder(labels)):
        raise FileError(f"'{images}' and '{labels}' are a file and a folder: give two files or two folders.")
    found, truths = _by_name(images), _by_name(labels)
    if not found:
        raise FileError(f"The folder '{images}' holds no image (TIFF, PNG, MRC, zarr): choose another one.")
    for name in found:
        if name not in truths:
            raise FileError(f"'{found[name]}' has no labels: put a file called {name}.tif into '{labels}'.")
    return [(str(file), str(truths[name])) for name, file in found.items()]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and path.suffix != ".zarr"


def describe_trained(name: str) -> str:
    """Return the name of a model with the scores that its training measured."""
    return "".join([name, *(f", {score} {value:.3f}" for score, value in describe_model(name).card.scores.items())])


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.name[0] != ".")
    return {path.name.split(".")[0]: path for path in files}


def _is_ours(layer: Layer) -> bool:
    """Return whether a layer shows a result, or corrections, which do not say of every voxel what it is."""
    return is_result(layer) or "corrections" in layer.metadata.get(KEY, {})


def _stack(layer: Layer) -> Stack:
    return stack_of_layer(layer, axes_of(layer))
