"""The form for training from scratch: images with labels, network, classes and name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QPushButton

from napari_skipseg.errors import FileError, InputError, SpecError
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import describe_model
from napari_skipseg.networks.presets import PRESETS, find_preset
from napari_skipseg.option_fields import option_fields
from napari_skipseg.training.flags import settings_from_flags
from napari_skipseg.training.settings import TrainSettings
from napari_skipseg.widgets.finetune.form import why_not_named
from napari_skipseg.widgets.forms.fields import FolderField, FreshCombo
from napari_skipseg.widgets.forms.option_rows import OptionRows
from napari_skipseg.widgets.layers.axes import axes_of
from napari_skipseg.widgets.layers.results import KEY, is_result, stack_of_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel


_ENDINGS = (".tif", ".tiff", ".png", ".mrc", ".zarr", ".jpg", ".jpeg", ".bmp")
LAYERS, FOLDERS = "layers", "folders"


class TrainFormValues(NamedTuple):
    """Settings, and the stacks that are in no file, by their names in the settings."""

    settings: TrainSettings
    written: dict[str, Stack]


class TrainForm(OptionRows):
    """Images and labels, network, classes, name, and two options of the training. started: Train was pressed."""

    started = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        kind, image, labels = FreshCombo(), FreshCombo(), FreshCombo()
        image_folder, label_folder = FolderField("Images"), FolderField("Labels")
        network, skip, dimensions, classes, name = FreshCombo(), FreshCombo(), FreshCombo(), QLineEdit(), QLineEdit()
        rows: list[Any] = []
        for title, field, hint in (
            ("Learn from", kind, "Layers of this window, or files: those in two folders are matched by name"),
            ("Image", image, "The layer to learn from"),
            ("Labels", labels, "Its labels, every voxel of them: 0 = background, and a value for each class"),
            ("Images", image_folder, "An image, or a folder of them"),
            ("Labels", label_folder, "Its labels, or a folder with a file of the same name for each image"),
            ("Network", network, ""),
            ("Skip", skip, "What the skip connections do with the features"),
            ("Dimensions", dimensions, "Whether the network works on slices or on volumes"),
            ("Classes", classes, "NAME=VALUE for each class, separated by commas; other values are background"),
            ("Name", name, "The name of the model"),
        ):
            field.setToolTip(hint)
            rows.append((title, field))
        options = option_fields(TrainSettings)
        super().__init__([*rows, options["validate"], options["steps"]])
        self._viewer = viewer
        self.kind, self.image, self.labels = kind, image, labels
        self.image_folder, self.label_folder = image_folder, label_folder
        self.network, self.skip, self.dimensions, self.classes, self.name = network, skip, dimensions, classes, name
        self.train_button = QPushButton("Train from scratch")
        kind.offer([("layers", LAYERS), ("folders or files", FOLDERS)], LAYERS)
        network.offer([(preset.name, preset.name) for preset in PRESETS], "unet")
        dimensions.offer([("2D, slice by slice", 2), ("3D", 3)], 2)
        classes.setPlaceholderText("membrane=1, mitochondrion=2")
        name.setPlaceholderText("my-model")
        self.field("validate").setPlaceholderText("such as 20-24")
        self._layout.addRow(self.train_button)
        self.kind.activated.connect(self._show_kind)
        self.network.activated.connect(self._offer_skips)
        self.train_button.clicked.connect(self.started)
        for combo in (self.image, self.labels):
            combo.opening.connect(self.offer_layers)
        self._offer_skips()
        self._show_kind()

    def offer_layers(self, *_: object) -> None:
        """Offer the image layers and the labels layers."""
        from napari.layers import Image, Labels

        for combo, kind in ((self.image, Image), (self.labels, Labels)):
            layers = [layer for layer in self._viewer.layers if isinstance(layer, kind) and not is_result(layer)]
            # corrections do not label every voxel, as results do not
            layers = [layer for layer in layers if "corrections" not in layer.metadata.get(KEY, {})]
            combo.offer([(layer.name, layer) for layer in layers], combo.currentData())

    def _show_kind(self) -> None:
        """Show the rows of layers, or those of folders."""
        has_layers = self.kind.currentData() == LAYERS
        for field in (self.image, self.labels):
            self.show_row(field, has_layers)
        for field in (self.image_folder, self.label_folder):
            self.show_row(field, not has_layers)
        self.offer_layers()

    def _offer_skips(self) -> None:
        preset = find_preset(str(self.network.currentData()))
        skips = preset.skips or (preset.spec.skip,)
        self.skip.offer([(skip, skip) for skip in skips], self.skip.currentData() or preset.spec.skip)
        self.network.setToolTip(preset.title)

    def read(self) -> TrainFormValues:
        """Return the settings of the training.

        Raises:
            SkipsegError: something is missing or does not fit.
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
            **self.values(),
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
        image, truth = (stack_of_layer(each, axes_of(each)) for each in (layer, labels))
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
    """Return the name of a model with the scores of its training."""
    return "".join([name, *(f", {score} {value:.3f}" for score, value in describe_model(name).card.scores.items())])


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.name[0] != ".")
    return {path.name.split(".")[0]: path for path in files}
