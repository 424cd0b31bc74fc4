"""The description of a model: everything in `model.json`. Loads without torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.file_names import FORBIDDEN, is_reserved
from napari_skipseg.foreign_text import printable
from napari_skipseg.images.intensity.grey_steps import GreyStep
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.images.intensity.signature import ImageSignature
from napari_skipseg.networks.specs import ImportedSpec, NetworkSpec, PixelHeadSpec, first_fault
from napari_skipseg.thresholds import DEFAULT_THRESHOLD

FREE = frozenset(
    (
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "HPND", "ISC", "MIT",
        "ODC-By-1.0", "PDDL-1.0", "Unlicense",
    )
)  # fmt: skip
"""Licences under which weights may be used for any purpose."""
NON_COMMERCIAL = frozenset(("LicenseRef-CDeep3M", "LicenseRef-ISBI-2012"))
"""Licences of our own models that allow no commercial use; those of Creative Commons have NC in their names."""


def license_mark(expression: str, terms: str = "") -> str:
    """Return how a model must be marked where it is chosen: "non-commercial", "terms unclear" or "" for free use.

    expression: an SPDX expression. terms: the terms in words; with terms but without an expression, nobody has checked
    what they allow. A model without both is the user's own.
    """
    names = [name for name in re.split(r"[()\s]+", expression) if name not in ("", "AND", "OR", "WITH")]
    if any(name in NON_COMMERCIAL or "-NC-" in name for name in names):
        return "non-commercial"
    return "" if (names and FREE.issuperset(names)) or not (names or terms) else "terms unclear"


_FORMAT_VERSION = 1

_STRICT = ConfigDict(extra="forbid")

_LONGEST_NAME = 200
"""Bytes of a model's name; a folder's name may have 255, and files beside it have longer ones."""


@dataclass(frozen=True)
class ClassLabel:
    """A class by name, and the value that stood for it in the training labels."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    label: int


@dataclass(frozen=True)
class Card:
    """What a user must know before trusting a model.

    terms: under which the weights may be used, in words. license: the same as an SPDX expression; "" if none is stated.
    pixel_sizes: the smallest and largest pixel, in the model's unit, of the images that its scores are from; images far
    from the model's own size were rescaled. not_tried_on: what nobody has looked at yet, in words.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    summary: str = ""
    data: str = ""
    terms: str = ""
    commands: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    scores_on: str = ""
    license: str = ""
    pixel_sizes: tuple[float, float] | None = None
    not_tried_on: str = ""


@dataclass(frozen=True)
class ModelScores:
    """How good a finished model is on what was held out; measured after the model is written, in a file of its own.

    scores, scores_on: as in `Card`. report: as in `TrainingRecord`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    scores: dict[str, float] = field(default_factory=dict)
    scores_on: str = ""
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRecord:
    """How a model came to be: settings as given, and its curves as (step, value) pairs.

    updates: mean |W_end - W_begin| of each convolution, one value per epoch, from the first layer to the last; empty
    if no epoch was named. select_start: the weights of each select step when training began, by its module's name.
    device, precision: what the training computed on ("cpu", "cuda", "mps") and in ("f32", "bf16"); "" in models that
    were trained before this was recorded. parent, parent_sha256: the model it started from, and the SHA-256 of its
    weights. report: the comparison with the parent (a `ComparisonReport`) of a fine-tuned model. learnt_from_sha256:
    of the corrections that it was fine-tuned on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    settings: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    updates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    select_start: dict[str, tuple[float, ...]] = field(default_factory=dict)
    parent_sha256: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    learnt_from_sha256: str | None = None


@dataclass(frozen=True)
class ModelDescription:
    """All of a model except its weights.

    margin: image pixels at a tile's border that the network's zero padding may have changed (read, then thrown away).
    voxel_size: (z, y, x) of the training data in `unit`; z means nothing to a 2D network.
    normalization: how grey values become network input; "stack" = zero mean, unit deviation over the stack; "steps" =
    the `grey_steps` of a model that somebody else made.
    padding: "auto" = black frames and other constant areas without tissue are left out, in the training and in use;
    "none" = they count as tissue.
    weights_sha256: of `weights.safetensors`. sample_sha256: of `sample.safetensors`, patches of what it was trained on;
    None if there is no such file. signatures: of the images that it and its parents were trained on. certainty: on
    them, the share of certain voxels among those that may be of a class (`inference.certainty`); None if not measured.
    pixel_head: of the classes that are found pixel by pixel (`networks.pixel_head`); None = all are the network's own.
    thresholds: of each class, the probability above which a voxel belongs to it; empty = 0.5 for all.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    spec: Annotated[NetworkSpec, Field(discriminator="network")]
    classes: tuple[ClassLabel, ...]
    margin: int
    weights_sha256: str
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    normalization: Literal["stack", "steps"] = "stack"
    padding: PaddingRule = "auto"
    card: Card = field(default_factory=Card)
    training: TrainingRecord = field(default_factory=TrainingRecord)
    sample_sha256: str | None = None
    signatures: tuple[ImageSignature, ...] = ()
    certainty: float | None = None
    pixel_head: PixelHeadSpec | None = None
    thresholds: tuple[float, ...] = ()
    grey_steps: tuple[GreyStep, ...] = ()
    format_version: Literal[1] = 1

    def __post_init__(self) -> None:
        own = max(1, self.spec.out_channels - 1)
        if self.pixel_head is not None:
            sources = self.pixel_head.sources
            if len(sources) != len(self.classes) or max(-1 if s is None else s for s in sources) >= own:
                raise ModelError(f"The pixel head of model '{self.name}' does not fit its classes or its network.")
        elif not self.classes or self.spec.out_channels != output_channels(len(self.classes)):
            raise ModelError(
                f"Model '{self.name}' names {len(self.classes)} classes but its network returns "
                f"{self.spec.out_channels} channels."
            )
        if not self.name or printable(self.name) != self.name or any(mark in self.name for mark in "/\\"):
            raise ModelError(f"'{printable(self.name)}' cannot name a model: give it a plain name, such as membranes.")
        if self.thresholds and len(self.thresholds) != len(self.classes):
            raise ModelError(f"Model '{self.name}' needs a threshold for each of its classes, or none.")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ModelError(f"Model '{self.name}' needs thresholds between 0 and 1.")
        if self.margin < 0 or not all(0 < size < math.inf for size in self.voxel_size):
            raise ModelError(f"Model '{self.name}' needs a margin of 0 or more and a voxel size of positive numbers.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the model's order: label 1, 2, … of its binary output."""
        return tuple(label.name for label in self.classes)

    @property
    def class_thresholds(self) -> dict[str, float]:
        """The threshold of each class by its name."""
        return dict(zip(self.class_names, self.thresholds or [DEFAULT_THRESHOLD] * len(self.classes), strict=True))

    @property
    def stride(self) -> int:
        """Image pixels on whose multiples tiles begin."""
        return self.spec.stride if self.pixel_head is None else self.pixel_head.stride_over(self.spec.stride)

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """Names of the classes with a pixel head, which quick fine-tuning taught."""
        sources = () if self.pixel_head is None else self.pixel_head.sources
        return tuple(name for name, source in zip(self.class_names, sources, strict=False) if source is None)


def can_name(name: str) -> bool:
    """Return whether `name` can be a model's: the name of a folder on every system, no path, and not hidden."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= _LONGEST_NAME or name.startswith((".", " ")) or name.endswith((".", " ")):
        return False
    return not is_reserved(name) and printable(name) == name and not any(mark in FORBIDDEN for mark in name)


def check_trainable(description: ModelDescription) -> None:
    """Refuse to train a network that was imported from somebody else's file.

    Raises:
        ModelError: it is one.
    """
    if isinstance(description.spec, ImportedSpec):
        raise ModelError(
            f"'{description.name}' was imported from somebody else's file: it can be used, but not fine-tuned. Start "
            "from a model that was trained here."
        )


def output_channels(classes: int) -> int:
    """Return the output channels of a network: one for one class, else one for each class and one for background."""
    return 1 if classes == 1 else classes + 1


_ADAPTER: TypeAdapter[ModelDescription] = TypeAdapter(ModelDescription)
_SCORES: TypeAdapter[ModelScores] = TypeAdapter(ModelScores)


def description_from_json(text: str | bytes, place: str) -> ModelDescription:
    """Return the description in `text`, the content of a `model.json` found at `place` (for messages).

    Raises:
        ModelError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ModelError(f"The model at {place} has an invalid model.json: {first_fault(error)}.") from error
    except SkipsegError as error:
        raise ModelError(f"The model at {place} has an invalid model.json: {error}") from error


def description_to_json(description: ModelDescription) -> str:
    """Return `description` as readable JSON; `description_from_json` gives the same value back."""
    return json.dumps(_ADAPTER.dump_python(description, mode="json"), indent=1, ensure_ascii=False) + "\n"


def scores_from_json(text: str | bytes, place: str) -> ModelScores:
    """Return the scores in `text`, the content of a file called `place` (for messages).

    Raises:
        ModelError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        return _SCORES.validate_json(text)
    except ValidationError as error:
        raise ModelError(
            f"The file {place} contains no valid scores ({first_fault(error)}): delete it, the model works without it."
        ) from error


def scores_to_json(scores: ModelScores) -> str:
    """Return `scores` as readable JSON; `scores_from_json` gives the same value back."""
    return json.dumps(_SCORES.dump_python(scores, mode="json"), indent=1, ensure_ascii=False) + "\n"


def with_scores(description: ModelDescription, found: ModelScores) -> ModelDescription:
    """Return `description` with the scores and the report that were measured later."""
    card = replace(description.card, scores=found.scores, scores_on=found.scores_on)
    return replace(description, card=card, training=replace(description.training, report=found.report))


def card_facts(description: ModelDescription) -> dict[str, str]:
    """Return what a user must know of a model besides name and summary, by heading; without what is not known."""
    spec, card, training = description.spec, description.card, description.training
    parent_weights = f" (SHA-256 {training.parent_sha256})" if training.parent_sha256 else ""
    sizes = " × ".join(f"{size:g}" for size in description.voxel_size[-spec.dimensions :])
    mark = license_mark(card.license, card.terms)
    channels = f"{spec.in_channels} channel{'s' * (spec.in_channels > 1)}"
    facts = {
        "Network": _network_title(spec),
        "Classes": ", ".join(f"{i} = {name}" for i, name in enumerate(description.class_names, start=1)),
        "Pixel head": ", ".join(description.pixel_classes),
        "Thresholds": ", ".join(f"{name} {value:.2f}" for name, value in description.class_thresholds.items()),
        "Input": f"{channels}; {_grey_values(description)}",
        "Voxel size": f"{sizes} {description.unit} ({', '.join('zyx'[-spec.dimensions :])})",
        "Tried at": _sizes_tried(card, description.unit),
        "Trained on": card.data,
        "Licence": f"{card.license or 'none stated'} ({mark})" if mark else card.license,
        "Terms": card.terms,
        "Scores": ", ".join(f"{name} {value:.4f}" for name, value in card.scores.items()),
        "Scores on": card.scores_on,
        "Not tried on": card.not_tried_on,
        "Commands": "\n".join(card.commands),
        "Started from": f"{training.parent or ''}{parent_weights}",
        "Margin": f"{description.margin} pixels",
        "SHA-256": description.weights_sha256,
    }
    return {heading: text for heading, text in facts.items() if text}


def _sizes_tried(card: Card, unit: str) -> str:
    if card.pixel_sizes is None:
        return ""
    return f"{' to '.join(f'{size:g}' for size in sorted(set(card.pixel_sizes)))} {unit}"


def _network_title(spec: NetworkSpec) -> str:
    if isinstance(spec, ImportedSpec):
        return f"{spec.dimensions}D imported, {spec.runtime}; it can be used, and not fine-tuned"
    return f"{spec.dimensions}D {spec.network}, skip {spec.skip}"


def _grey_values(description: ModelDescription) -> str:
    """Return in words how grey values become network input."""
    if description.normalization == "steps":
        return "grey values " + (", ".join(step.kind for step in description.grey_steps) or "as they are")
    areas = "constant areas left out" if description.padding == "auto" else "constant areas are tissue"
    return f"grey values to zero mean and unit deviation over the whole stack, {areas}"


def card_as_text(description: ModelDescription) -> str:
    """Return a model's card as lines of plain text."""
    curves = description.training.curves
    ends = (f"{name} {c[0][1]:.3f} → {c[-1][1]:.3f} (step {c[-1][0]})" for name, c in curves.items())
    facts = {"Model": description.name, "Summary": description.card.summary, **card_facts(description)}
    facts["Curves"] = "\n".join(ends)
    width = max(map(len, facts))
    return "\n".join(
        f"{heading:{width}}  " + text.replace("\n", "\n" + " " * (width + 2)) for heading, text in facts.items() if text
    )
