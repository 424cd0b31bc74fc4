"""What a training run needs to know: one frozen value, from which command line and JSON derive. Loads without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.models.description import Card, ClassLabel, can_name, output_channels
from napari_skipseg.networks.specs import NetworkSpec, UNetSpec, first_fault

ProtocolName = Literal["modern", "adadelta-glorot", "rmsprop-he"]
OptimizerName = Literal["adamw", "adadelta", "rmsprop"]
InitialiserName = Literal["own", "glorot-uniform", "he-normal"]
ScheduleName = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Protocol:
    """One way of training: optimiser, rate, decay, first weights.

    decay: share of past squares in the optimiser's running means (ρ of Adadelta and RMSprop; AdamW has its own two).
    epsilon: what keeps the optimiser's division finite. weight_decay: on convolution kernels only, as torch counts it.
    initialiser: of all convolutions, biases 0; "own" leaves each network's. schedule: "cosine" falls to 0 after the
    rise, "constant" stays. warm_up: share of the steps over which the rate rises from 0.
    """

    name: ProtocolName
    title: str
    source: str
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    decay: float
    epsilon: float
    initialiser: InitialiserName
    schedule: ScheduleName
    warm_up: float


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "modern",
            "AdamW, rising then falling as half a cosine",
            "this package, chosen by measurement",
            "adamw",
            learning_rate=1.5e-3,
            weight_decay=1e-4,
            decay=0.999,
            epsilon=1e-8,
            initialiser="own",
            schedule="cosine",
            warm_up=0.05,
        ),
        Protocol(
            "adadelta-glorot",
            "Adadelta at a constant rate from Glorot's uniform weights",
            "Asgari Taghanaki et al. 2019, section 2, Training and implementation details",
            "adadelta",
            learning_rate=1.0,
            weight_decay=0.0,
            decay=0.95,
            epsilon=1e-8,
            initialiser="glorot-uniform",
            schedule="constant",
            warm_up=0.0,
        ),
        Protocol(
            "rmsprop-he",
            "RMSprop at a constant rate from He's normal weights, with weight decay",
            "Drozdzal et al. 2016, section 2, with rho and epsilon of the authors' code; Keras adds the paper's decay "
            "to the loss as 0.001 Σw², which is torch's weight_decay of 0.002",
            "rmsprop",
            learning_rate=1e-3,
            weight_decay=2e-3,
            decay=0.9,
            epsilon=1e-8,
            initialiser="he-normal",
            schedule="constant",
            warm_up=0.0,
        ),
    )
}


@dataclass(frozen=True)
class Augmentation:
    """How a sample is varied: geometry for image and labels together, then grey values, then faults of sections.

    rotation: degrees to either side, in the Y-X plane. scale: factor to either side of 1. shear: radians, likewise.
    warp_sigma: voxels, of the displacements of a cubic B-spline of `warp_grid` spans per axis, its outermost control
    points fixed.
    gain, offset, noise: in standard deviations of the stack. blur: largest Gaussian sigma in pixels.
    swap_axes: exchange the axes of space (cubic voxels only).
    missing, shifted, low_contrast: the probability of that fault for each section of a sample; a 2D sample is one
    section, which only low_contrast changes. shift: voxels in Y and in X by which a shifted section lies off at most.
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
"""Augmentations by name: ours, nothing at all, and that of Drozdzal et al. 2016 (what the authors' code does to EM)."""


_STRICT = ConfigDict(extra="forbid")
LossName = Literal["bce", "dice", "bce+dice", "focal", "focal+dice", "balanced", "balanced+dice"]
Precision = Literal["auto", "bf16", "f32"]


@dataclass(frozen=True)
class TrainSettings:
    """A whole training run.

    images, labels: files, one label file per image. classes: names, and the label values that stand for them; other
    values are background. ignore: a label value whose pixels do not count. widen: voxels by which every class grows
    over the background, for truths drawn as thin lines. validate: slices held out, as "20-24", numbered along Z over
    all images in order. voxel_size: (z, y, x) in `unit`, where the files do not say. patch: (z, y, x) or (y, x) of a
    sample, in voxels. start_from: a model whose weights are the first ones. class_weight: how much more a pixel of a
    class counts in the cross-entropy than one of the background: above 1, gaps in membranes close.
    protocol: optimiser, rates and first weights by name; a learning_rate, weight_decay or warm_up given here goes in
    place of the protocol's. accumulate: parts that a step takes its batch in, one after the other, for batches that do
    not fit into memory. precision: bf16, f32, or auto: what the device computes fastest in (`devices.best_precision`);
    a training that is resumed keeps its own. patience: validations without a lower held-out loss after which training
    stops; 0 = never. padding: "auto" learns nothing from black frames, empty slices and other constant areas without
    tissue, "none" takes them for tissue; the model is then used in the same way. epoch: steps over which the
    weight-update map takes one column; 0 = no map.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[ClassLabel, ...]
    ignore: int | None = None
    widen: int = 0
    validate: str = ""
    spec: Annotated[NetworkSpec, Field(discriminator="network")] = field(default_factory=UNetSpec)
    start_from: str | None = None
    patch: tuple[int, ...] = (256, 256)
    batch: int = 4
    steps: int = 3000
    protocol: ProtocolName = "modern"
    learning_rate: float | None = None
    weight_decay: float | None = None
    warm_up: float | None = None
    accumulate: int = 1
    precision: Precision = "auto"
    loss: LossName = "bce+dice"
    class_weight: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    validate_every: int = 250
    patience: int = 0
    epoch: int = 0
    seed: int = 0
    padding: PaddingRule = "auto"
    voxel_size: tuple[float, float, float] | None = None
    unit: str | None = None
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        if not can_name(self.name):
            raise SpecError(f"'{self.name}' cannot name a model: give a plain name such as my-membranes.")
        if not self.images or len(self.images) != len(self.labels):
            raise SpecError(
                f"{len(self.images)} images and {len(self.labels)} label files were given; training needs one label "
                "file for each image, and at least one."
            )
        names = [label.name for label in self.classes]
        values = [label.label for label in self.classes]
        if not names or len(set(names)) != len(names) or len(set(values)) != len(values):
            raise SpecError("Name at least one class, each with a name and a label value of its own (NAME=VALUE).")
        if self.ignore is not None and self.ignore in values:
            raise SpecError(f"Label value {self.ignore} is both a class and the value to ignore.")
        if len(self.patch) != self.spec.dimensions or min(self.patch) < 8:
            given = ", ".join(map(str, self.patch))
            dimensions = self.spec.dimensions
            raise SpecError(f"A {dimensions}D network needs a patch of {dimensions} lengths >= 8, not {given}.")
        if not 0 < self.class_weight < math.inf:
            raise SpecError(f"class_weight must be positive, not {self.class_weight}: 1 weighs all pixels the same.")
        if self.widen < 0:
            raise SpecError("widen may not be negative: it is the number of voxels by which classes grow.")
        self._check_protocol()
        self._check_network()
        if not held_out(self.validate) and self.patience:
            raise SpecError("Patience needs slices held out to watch: name some with validate, such as 20-24.")

    @property
    def training_protocol(self) -> Protocol:
        """The protocol, with what these settings give in place of its own."""
        named = PROTOCOLS[self.protocol]
        given = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "warm_up")}
        return replace(named, **{name: value for name, value in given.items() if value is not None})

    def _check_protocol(self) -> None:
        _check_name("protocol", self.protocol, tuple(PROTOCOLS))
        _check_name("loss", self.loss, get_args(LossName))
        _check_name("precision", self.precision, get_args(Precision))
        _check_name("rule for padding", self.padding, get_args(PaddingRule))
        protocol = self.training_protocol
        if min(self.batch, self.steps, self.validate_every) < 1 or not 0 < protocol.learning_rate < math.inf:
            raise SpecError("Batch, steps, validate_every and learning_rate must be positive.")
        if not 0 <= protocol.weight_decay < math.inf or not 0 <= protocol.warm_up <= 1:
            raise SpecError("weight_decay may not be negative, and warm_up is a share from 0 to 1.")
        if min(self.patience, self.epoch) < 0:
            raise SpecError("Neither patience nor epoch may be negative: 0 switches them off.")
        if self.epoch > self.steps:
            raise SpecError(f"An epoch of {self.epoch} steps never ends in {self.steps}: shorten it, or train more.")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise SpecError(
                f"A batch of {self.batch} cannot be taken in {self.accumulate} equal parts: choose an accumulate that "
                "divides the batch."
            )

    def _check_network(self) -> None:
        """Refuse a network of other classes, and patches that leave its deepest level one pixel: no spread to norm."""
        channels = output_channels(len(self.classes))
        if self.spec.out_channels != channels:
            raise SpecError(
                f"{len(self.classes)} classes need a network of {channels} output channels: set out_channels to that."
            )
        stride = self.spec.stride
        if min(self.patch) < stride:
            raise SpecError(f"This network halves down to 1/{stride}: every length of the patch must be >= {stride}.")
        if self.batch // self.accumulate * math.prod(-(-length // stride) for length in self.patch) < 2:
            raise SpecError("One pixel is left of a batch at the network's deepest level: enlarge the patch or batch.")


def _check_name(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise SpecError(f"There is no {what} '{name}': choose one of {', '.join(names)}.")


_ADAPTER: TypeAdapter[TrainSettings] = TypeAdapter(TrainSettings)


def settings_from_json(text: str | bytes) -> TrainSettings:
    """Return the settings in `text`.

    Raises:
        SpecError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise SpecError(f"The training settings are not valid: {first_fault(error)}.") from error


def settings_to_dict(settings: TrainSettings) -> dict[str, Any]:
    """Return `settings` as values that JSON can hold."""
    values: dict[str, Any] = _ADAPTER.dump_python(settings, mode="json")
    return values


def held_out(text: str) -> frozenset[int]:
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
"""Steps by reach, where the settings name none."""
RATES: dict[str, float] = {"quick": 6e-3, "normal": 6e-4, "full": 6e-4}
"""Highest learning rates by reach, where the settings name none."""
AUTO = "auto"


@dataclass(frozen=True)
class FinetuneSettings:
    """A whole fine-tuning.

    model: the one to start from, by name or folder. name: of the new one. images, labels: what it learns from, for the
    record and for the command line: files, one label file per image, 0 = not looked at, 1 = background, 2… = classes.
    classes: names, and the values that stand for them; empty: the model's own, from 2 on. A class that the model does
    not know gets a new output. A class of the model that is not named here is not judged by these labels: where they
    say background, it may be there. reach: how far the network may move: "quick" its last decoder level, "normal" its
    decoder, "full" all of it. remember: keep what the model knew: its own classes, by its own sample and by its own
    answers on the new images. validate: what is held out: "auto" a fifth of the places with labels, or slices as
    "5-9", numbered along Z over all images in order. steps, learning_rate: 0 and None for those of the reach. minutes:
    after which training stops and keeps the best; 0 = never. batch_norm: whether its statistics stay. padding: "auto"
    learns nothing from black frames, empty slices and other constant areas without tissue, unless a class was painted
    on them; "none" takes them for tissue.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[ClassLabel, ...] = ()
    reach: Reach = "normal"
    remember: bool = True
    validate: str = AUTO
    steps: int = 0
    minutes: float = 0.0
    learning_rate: float | None = None
    patch: tuple[int, ...] = ()
    batch: int = 0
    loss: LossName = "bce+dice"
    class_weight: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_norm: BatchNorm = "frozen"
    precision: Precision = "auto"
    seed: int = 0
    padding: PaddingRule = "auto"

    def __post_init__(self) -> None:
        if not can_name(self.name):
            raise SpecError(f"'{self.name}' cannot name a model: give a plain name such as my-membranes.")
        if not self.images or len(self.images) != len(self.labels):
            raise SpecError(
                f"{len(self.images)} images and {len(self.labels)} label files were given; fine-tuning needs one label "
                "file for each image, and at least one."
            )
        names = [label.name for label in self.classes]
        values = [label.label for label in self.classes]
        if len(set(names)) != len(names) or len(set(values)) != len(values):
            raise SpecError("Each class needs a name and a label value of its own (NAME=VALUE).")
        if any(value < 2 for value in values):
            raise SpecError("Classes have values from 2 on: 0 means not looked at, 1 background (NAME=VALUE).")
        named = (("reach", Reach), ("loss", LossName), ("batch_norm", BatchNorm), ("precision", Precision))
        for option, known in named:
            if getattr(self, option) not in get_args(known):
                chosen = getattr(self, option)
                raise SpecError(f"There is no {option} '{chosen}': choose one of {', '.join(get_args(known))}.")
        if self.validate != AUTO and not held_out(self.validate):
            raise SpecError("Nothing is held out: name slices such as 5-9, or auto for a fifth of the places.")
        if self.padding not in get_args(PaddingRule):
            raise SpecError(f"There is no rule for padding '{self.padding}': choose one of auto, none.")
        if min(self.steps, self.batch) < 0 or not 0 <= self.minutes < math.inf:
            raise SpecError("Neither steps, batch nor minutes may be negative: 0 leaves the choice to the reach.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise SpecError("The learning rate must be positive.")
        if not 0 < self.class_weight < math.inf:
            raise SpecError(f"class_weight must be positive, not {self.class_weight}: 1 weighs all pixels the same.")


_FINETUNE_ADAPTER: TypeAdapter[FinetuneSettings] = TypeAdapter(FinetuneSettings)


def finetune_from_json(text: str | bytes) -> FinetuneSettings:
    """Return the settings in `text`.

    Raises:
        SpecError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        return _FINETUNE_ADAPTER.validate_json(text)
    except ValidationError as error:
        raise SpecError(f"The fine-tuning settings are not valid: {first_fault(error)}.") from error


def finetune_to_dict(settings: FinetuneSettings) -> dict[str, Any]:
    """Return `settings` as values that JSON can hold."""
    values: dict[str, Any] = _FINETUNE_ADAPTER.dump_python(settings, mode="json")
    return values
