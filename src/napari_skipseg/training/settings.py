"""The settings of a training: one frozen value, from which command line and JSON derive. Loads without torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.models.description import Card, ClassLabel, can_name, output_channels
from napari_skipseg.networks.specs import TrainableSpec, UNetSpec, first_fault
from napari_skipseg.option_fields import Option, check_options
from napari_skipseg.training.protocols import PROTOCOLS, Protocol, ProtocolName


@dataclass(frozen=True)
class Augmentation:
    """How samples are augmented: geometry of image and labels together, then grey values, then faults of sections.

    rotation: degrees to either side, in the Y-X plane. scale: factor to either side of 1. shear: radians, likewise.
    warp_sigma: voxels, of the displacements of a cubic B-spline of `warp_grid` spans per axis, its outermost control
    points fixed.
    gain, offset, noise: in standard deviations of the stack. blur: largest Gaussian sigma in pixels.
    swap_axes: exchange the axes of space (cubic voxels only).
    missing, shifted, low_contrast: the probability of that fault for each section of a sample; a 2D sample is one
    section, which only low_contrast changes. shift: voxels in Y and X by which a section is shifted at most.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    flips: bool = True
    swap_axes: bool = False
    rotation: float = 180.0
    scale: float = 0.15
    shear: float = 0.1
    warp_grid: int = 3
    warp_sigma: float = 8.0
    gain: float = 0.25
    offset: float = 0.25
    noise: float = 0.2
    blur: float = 1.0
    missing: float = 0.0
    shifted: float = 0.0
    low_contrast: float = 0.0
    shift: float = 10.0

    def __post_init__(self) -> None:
        factors = (self.scale, self.warp_sigma, self.gain, self.offset, self.noise, self.blur, self.shift)
        if not all(0 <= factor < math.inf for factor in factors) or self.warp_grid < 1:
            raise SpecError(
                "Augmentation needs scale, warp_sigma, gain, offset, noise, blur and shift of 0 or more, and a "
                "warp_grid of at least 1."
            )
        if not (math.isfinite(self.rotation) and abs(self.shear) < 1.5):
            raise SpecError("Augmentation needs a rotation in degrees and a shear below 1.5 radians.")
        if not all(0 <= chance <= 1 for chance in (self.missing, self.shifted, self.low_contrast)):
            raise SpecError("Augmentation needs missing, shifted and low_contrast as probabilities from 0 to 1.")


AUGMENTATIONS: dict[str, Augmentation] = {
    "default": Augmentation(),
    "none": Augmentation(flips=False, rotation=0, scale=0, shear=0, warp_sigma=0, gain=0, offset=0, noise=0, blur=0),
    "drozdzal": Augmentation(
        rotation=25, scale=0, shear=0.41, warp_grid=3, warp_sigma=10, gain=0, offset=0, noise=0, blur=0
    ),
}
"""Augmentations by name: ours, none, and that of Drozdzal et al. 2016 (as in the authors' code for EM)."""


LossName = Literal["bce", "dice", "bce+dice", "focal", "focal+dice", "balanced", "balanced+dice"]
Precision = Literal["auto", "bf16", "f32"]


@dataclass(frozen=True)
class FitSettings:
    """The settings that training and fine-tuning share; an `Option` says of its field what it is.

    name: of the new model. images, labels: files, one label file per image. classes: names, and the label values that
    stand for them. class_weight: above 1, gaps in membranes close. precision: auto is what the device computes fastest
    in (`devices.best_precision`); a training that is resumed keeps its own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    purpose: ClassVar[str] = "training"

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[ClassLabel, ...] = ()
    axes: Annotated[
        str,
        Option(
            "Axes",
            "Names of the axes in the order of the files, such as ZYX or XYZ, in place of their own; labels have the "
            "same without C.",
        ),
    ] = ""
    validate: Annotated[
        str,
        Option("Held out", "Slices held out, such as 20-24, numbered along Z over all images in their order."),
    ] = ""
    patch: Annotated[tuple[int, ...], Option("Patch", "Size of a training patch in voxels, such as 256,256.")] = ()
    batch: Annotated[int, Option("Batch", "Patches per step.", least=0)] = 0
    steps: Annotated[int, Option("Steps", "Training steps.", least=0)] = 0
    learning_rate: Annotated[float | None, Option("Learning rate", "Highest learning rate.", above=0)] = None
    loss: Annotated[LossName, Option("Loss", "The error that the training makes smaller.")] = "bce+dice"
    class_weight: Annotated[
        float,
        Option(
            "Class weight",
            "How often a voxel of a class counts in the cross-entropy; one of the background counts once.",
            above=0,
        ),
    ] = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Annotated[
        Precision, Option("Precision", "What the training computes in; auto is what is fastest on the device.")
    ] = "auto"
    seed: Annotated[
        int,
        Option(
            "Seed",
            "Seed of first weights, patches and augmentation, and of the places that fine-tuning holds out.",
        ),
    ] = 0
    padding: Annotated[
        PaddingRule,
        Option(
            "Constant areas",
            "auto: learn nothing from black frames, empty slices and other constant areas without tissue. none: "
            "they are tissue; the model is then used in the same way.",
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        if not can_name(self.name):
            raise SpecError(f"'{self.name}' cannot name a model: give a plain name such as my-membranes.")
        if not self.images or len(self.images) != len(self.labels):
            raise SpecError(
                f"{len(self.images)} images and {len(self.labels)} label files were given: give one label file "
                "for each image, and at least one."
            )
        names = [label.name for label in self.classes]
        values = [label.label for label in self.classes]
        if len(set(names)) != len(names) or len(set(values)) != len(values):
            raise SpecError("Each class needs a name and a label value of its own (NAME=VALUE).")
        check_options(self, SpecError)

    @property
    def label_axes(self) -> str:
        """The names of the axes of the label files; "" if the files say them."""
        return self.axes.upper().replace("C", "")


@dataclass(frozen=True)
class TrainSettings(FitSettings):
    """A whole training run.

    classes: label values that stand for none of them are background. judged: for each image the names of the classes
    that its labels show; their background may hold the other classes. Empty if all labels show all classes. patch:
    (z, y, x) or (y, x) of a sample. protocol: optimiser, rates and first weights by name; a learning_rate, weight_decay
    or warm_up given here replaces the protocol's.
    """

    validate: Annotated[
        str,
        Option(
            "Held out",
            "Slices that score the model and do not train it, such as 20-24, numbered along Z over all images in their "
            "order.",
        ),
    ] = ""
    patch: Annotated[tuple[int, ...], Option("Patch", "Size of a training patch in voxels, such as 256,256.")] = (
        256,
        256,
    )
    batch: Annotated[int, Option("Batch", "Patches per step.", least=1)] = 4
    steps: Annotated[
        int,
        Option("Steps", "Training steps: 3000 take an hour or more without a GPU.", least=1, step=500),
    ] = 3000
    learning_rate: Annotated[
        float | None, Option("Learning rate", "Highest learning rate; by default that of the protocol.", above=0)
    ] = None
    judged: tuple[tuple[str, ...], ...] = ()
    ignore: Annotated[int | None, Option("Ignored value", "Label value of voxels that do not count.")] = None
    widen: Annotated[
        int,
        Option("Widening", "Voxels by which every class grows over the background, for truths of thin lines.", least=0),
    ] = 0
    spec: Annotated[TrainableSpec, Field(discriminator="network")] = field(default_factory=UNetSpec)
    start_from: Annotated[str | None, Option("Start from", "A model whose weights are the first ones.")] = None
    protocol: Annotated[
        ProtocolName, Option("Protocol", "Optimiser, rates and first weights.", choices=tuple(PROTOCOLS))
    ] = "modern"
    weight_decay: float | None = None
    warm_up: float | None = None
    accumulate: Annotated[
        int,
        Option(
            "Number of parts", "Parts in which a step takes its batch, one after the other, to save memory.", least=1
        ),
    ] = 1
    validate_every: int = 250
    patience: Annotated[
        int,
        Option("Patience", "Stop after so many validations without a lower held-out loss; 0 = never.", least=0),
    ] = 0
    epoch: Annotated[
        int, Option("Epoch length", "Steps over which the weight-update map takes one column; 0 = no map.", least=0)
    ] = 0
    voxel_size: tuple[float, float, float] | None = None
    unit: str | None = None
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        super().__post_init__()
        values = [label.label for label in self.classes]
        if not values:
            raise SpecError("Name at least one class, each with a name and a label value of its own (NAME=VALUE).")
        if self.judged:
            self._check_judged({label.name for label in self.classes})
        if self.ignore is not None and self.ignore in values:
            raise SpecError(f"Label value {self.ignore} is both a class and the value to ignore.")
        if len(self.patch) != self.spec.dimensions or min(self.patch) < 8:
            given = ", ".join(map(str, self.patch))
            dimensions = self.spec.dimensions
            raise SpecError(f"A {dimensions}D network needs a patch of {dimensions} lengths >= 8, not {given}.")
        protocol, parts = self.training_protocol, self.accumulate
        if self.validate_every < 1:
            raise SpecError("validate_every must be 1 or more.")
        if not 0 <= protocol.weight_decay < math.inf or not 0 <= protocol.warm_up <= 1:
            raise SpecError("weight_decay may not be negative, and warm_up is a share from 0 to 1.")
        if self.epoch > self.steps:
            raise SpecError(f"An epoch of {self.epoch} steps never ends in {self.steps}: shorten it, or train more.")
        if self.batch % parts:
            raise SpecError(
                f"A batch of {self.batch} cannot be taken in {parts} equal parts: choose an accumulate that divides "
                "the batch."
            )
        channels, stride = output_channels(len(values)), self.spec.stride
        if self.spec.out_channels != channels:
            raise SpecError(
                f"{len(values)} classes need a network of {channels} output channels: set out_channels to that."
            )
        if min(self.patch) < stride:
            raise SpecError(f"This network halves down to 1/{stride}: every length of the patch must be >= {stride}.")
        if self.batch // parts * math.prod(-(-length // stride) for length in self.patch) < 2:
            # Batch norm cannot measure the spread of a single pixel.
            raise SpecError("One pixel is left of a batch at the network's deepest level: enlarge the patch or batch.")
        if not slices_to_hold_out(self.validate) and self.patience:
            raise SpecError("Patience needs slices held out to watch: name some with validate, such as 20-24.")

    def _check_judged(self, names: set[str]) -> None:
        if len(names) < 2:
            raise SpecError("Only labels of several classes can show some of them: leave out 'judged'.")
        if len(self.judged) != len(self.images):
            raise SpecError(
                f"'judged' has {len(self.judged)} lists of classes for {len(self.images)} images: give one for each."
            )
        for image, shown in zip(self.images, self.judged, strict=True):
            if not shown or not set(shown) <= names:
                raise SpecError(
                    f"The labels of '{image}' are said to show {', '.join(shown) or 'no class'}: name at least one of "
                    f"{', '.join(sorted(names))}."
                )

    @property
    def training_protocol(self) -> Protocol:
        """The protocol, with the values that these settings replace."""
        named = PROTOCOLS[self.protocol]
        given = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "warm_up")}
        return replace(named, **{name: value for name, value in given.items() if value is not None})


def slices_to_hold_out(text: str) -> frozenset[int]:
    """Return the slice numbers in `text`, such as "20-24" or "0,5,10-12"; none for an empty text.

    Raises:
        SpecError: `text` is no such list.
    """
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise SpecError(f"'{text}' is no list of slices: write it like 20-24 or 0,5,10-12.")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


Reach = Literal["quick", "normal", "full"]
BatchNorm = Literal["frozen", "updated"]
STEPS: dict[str, int] = {"quick": 40, "normal": 300, "full": 600}
"""Steps by reach, if the settings name none."""
RATES: dict[str, float] = {"quick": 6e-3, "normal": 6e-4, "full": 6e-4}
"""Highest learning rates by reach, if the settings name none."""
MINUTES: dict[str, float] = {"quick": 0.0, "normal": 2.0, "full": 5.0}
"""Minutes of the fit by reach, if the settings name neither steps nor minutes; 0 = as long as its steps take."""
AUTO = "auto"


@dataclass(frozen=True)
class FinetuneSettings(FitSettings):
    """A whole fine-tuning.

    model: the one to start from, by name or folder. labels: 0 = not looked at, 1 = background, 2… = classes.
    classes: empty for the model's own, from 2 on. A class that the model does not know gets a new output. Of a class
    of the model that is not named here, the labels say nothing: their background may contain it. steps, batch, patch,
    learning_rate: 0, () and None for those of the reach.
    """

    purpose: ClassVar[str] = "fine-tuning"

    model: str = ""
    reach: Annotated[
        Reach,
        Option(
            "Reach",
            "What the training may change.",
            labels={
                "quick": "Quick: the last layers, or a new classifier",
                "normal": "Normal: the decoder learns",
                "full": "Full: all layers learn",
            },
            notes={
                "quick": "A new class gets a classifier of its own in seconds, and all else stays. Of known classes "
                "the last decoder level learns. For a few strokes.",
                "normal": "The decoder learns, which takes longer: for a new class, or corrections on several slices.",
                "full": "Every weight learns, which takes longest: for a new kind of image, with many corrections.",
            },
        ),
    ] = "normal"
    remember: Annotated[
        bool,
        Option(
            "Remember what the model knew",
            "Keep what the model knew: by its own sample and by its own answers on the new images.",
        ),
    ] = True
    validate: Annotated[
        str,
        Option(
            "Held out",
            "What is not learnt from but compares the old and the new model: auto = a fifth of the places with labels, "
            "or slices such as 5-9, numbered along Z over all images in their order.",
        ),
    ] = AUTO
    steps: Annotated[
        int,
        Option(
            "Steps",
            "Training steps; by default as many as fit into the minutes.",
            least=0,
            unset="auto",
            step=50,
        ),
    ] = 0
    minutes: Annotated[
        float,
        Option(
            "Minutes",
            "Stop after so many minutes and keep the best weights; by default 2 with normal and 5 with full, or no "
            "limit where steps are named.",
            least=0,
            unset="auto",
            step=0.5,
        ),
    ] = 0.0
    learning_rate: Annotated[
        float | None,
        Option(
            "Learning rate",
            "Highest learning rate; by default that of the reach.",
            above=0,
            unset="auto",
            step=5e-5,
        ),
    ] = None
    batch_norm: Annotated[
        BatchNorm,
        Option(
            "Batch norm",
            "Whether the running statistics of batch norm stay (frozen), which suits few corrections, or are updated.",
        ),
    ] = "frozen"
    padding: Annotated[
        PaddingRule,
        Option(
            "Constant areas",
            "auto: learn nothing from black frames, empty slices and other constant areas without tissue, unless a "
            "class is painted there. none: they are tissue.",
        ),
    ] = "auto"

    @property
    def time_limit(self) -> float:
        """Minutes after which the fit ends: those that are named, or that the reach has; 0 = none."""
        return self.minutes or (0.0 if self.steps else MINUTES[self.reach])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise SpecError("Fine-tuning starts from a model: name it, or give its folder.")
        if any(label.label < 2 for label in self.classes):
            raise SpecError("Classes have values from 2 on: 0 means not looked at, 1 background (NAME=VALUE).")
        if self.validate != AUTO and not slices_to_hold_out(self.validate):
            raise SpecError("Nothing is held out: name slices such as 5-9, or auto for a fifth of the places.")


Settings = TypeVar("Settings", bound=FitSettings)


_ADAPTERS: dict[type[FitSettings], TypeAdapter[Any]] = {}


def _adapter(kind: type[FitSettings]) -> TypeAdapter[Any]:
    """Return what reads and writes settings of a kind; it is built at the first use, as the window opens without."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def settings_from_json(kind: type[Settings], text: str | bytes) -> Settings:
    """Return the settings of that `kind` in `text`.

    Raises:
        SpecError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        settings: Settings = _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise SpecError(f"The {kind.purpose} settings are not valid: {first_fault(error)}.") from error
    return settings


def settings_to_dict(settings: FitSettings) -> dict[str, Any]:
    """Return `settings` as values that JSON can hold."""
    values: dict[str, Any] = _adapter(type(settings)).dump_python(settings, mode="json")
    return values


def equals_written(settings: FitSettings, written: dict[str, Any]) -> bool:
    """Return whether `settings` are those that were `written` as values of JSON."""
    try:
        return settings_from_json(type(settings), json.dumps(written)) == settings
    except SpecError:
        return False
