"""Attention maps of several models on one image, side by side (SAT, section 3, figures 6 and 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.devices import versions
from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import AttentionMap, Prediction
from napari_skipseg.inference.saving import save_prediction, scratch_folder
from napari_skipseg.models.model import Model
from napari_skipseg.networks.specs import ATTENDING
from napari_skipseg.progress import Progress
from napari_skipseg.studies.gates import run_with_gates
from napari_skipseg.studies.pictures import AttentionRow, draw_attention, enlarge, write_figure
from napari_skipseg.studies.results import StudyResult, StudyRow, move_into
from napari_skipseg.studies.views import StudyView, read_truth, read_view


def predict_view(view: StudyView, model: Model) -> Prediction:
    """Return the probability of the view, with the attention maps of all gates.

    The maps of the long skips come first, the finest one first, numbered as in a segmentation; those of gates inside
    dense blocks follow. The network runs in float32, on the CPU and in one piece.
    """
    output, gates = run_with_gates(model, view.pixels)
    names = model.description.class_names
    several = len(names) > 1
    maps = [(gate.stride, attention) for gate in gates for attention in gate.attentions]
    seen = view.part.space.spatial_axes
    recipe = {
        "operation": "study attention",
        "input": {"name": view.part.name, "shape": view.part.shape, "axes": view.part.space.axes, "slice": view.number},
        "model": model.description.name,
        "classes": model.description.class_names,
        "model_sha256": model.description.weights_sha256,
        "gates": [gate.place for gate in gates for _ in gate.attentions],
        "normalization": asdict(view.normalization),
        "backend": "torch",
        "precision": "f32",
        "device": "cpu",
        "versions": versions(),
    }
    return Prediction(
        output.probability if several else output.probability[0],
        view.part.space.with_axes(("C" if several else "") + seen),
        names,
        tuple(AttentionMap(level, (s,) * len(seen), data) for level, (s, data) in enumerate(maps, start=1)),
        recipe,
        thresholds=tuple(model.description.class_thresholds.values()),
    )


def iter_attention(
    stack: Stack,
    models: Sequence[Model],
    folder: Path,
    number: int | None = None,
    truth: Stack | None = None,
    threshold: float | None = None,
    channel: int | None = None,
) -> Generator[Progress, None, StudyResult]:
    """Run all models, yield the progress, and return a row per map and the files in `folder`.

    attention.png has one row per model: the image, the map of each gate, the prediction and the truth. Probability,
    binary image and maps of each model are OME-TIFF files with their position, so that they open over the image. A 2D
    model takes slice `number` (by default the middle one), a 3D model the volume around it; the picture shows the
    slice.

    Raises:
        SkipsegError: a model has no attention maps or is named twice, the image does not fit one, there is no such
            slice, the truth does not fit, or the folder cannot be written.
    """
    check_attend(models)
    lines: list[AttentionRow] = []
    rows: list[StudyRow] = []
    with scratch_folder(folder) as scratch:
        drafts: list[Path] = []
        for done, model in enumerate(models):
            name = model.description.name
            yield Progress(done, len(models) + 1, f"running {name}")
            view = read_view(stack, model, number, channel)
            classes = None if truth is None else read_truth(truth, view, model.description)
            prediction = predict_view(view, model)
            drafts += save_prediction(prediction, scratch, f"{stack.name}_{name}", threshold)
            lines.append(_line(view, prediction, threshold, classes))
            rows += attention_rows(prediction)
        yield Progress(len(models), len(models) + 1, "drawing")
        drafts.insert(0, write_figure(draw_attention(lines), scratch / "attention.png"))
        return StudyResult(rows, move_into(drafts, folder))


def check_attend(models: Sequence[Model]) -> None:
    """Raise if there is no model, a model is named twice, or a model has no attention maps."""
    if not models:
        raise InputError("There is no model: name one with --model, or several to compare them.")
    for name, times in Counter(model.description.name for model in models).items():
        if times > 1:
            raise InputError(f"Model '{name}' is named {times} times: name each once.")
    for model in models:
        if not any(skip in ATTENDING for skip in model.description.spec.skips):
            raise ModelError(
                f"Model '{model.description.name}' has no attention maps (its skip is {model.description.spec.skip}): "
                f"choose one whose skip is {', '.join(ATTENDING[:-1])} or {ATTENDING[-1]}."
            )


def attention_rows(prediction: Prediction) -> list[StudyRow]:
    """Return one row per attention map: its gate, its stride, and its mean, lowest and highest value."""
    return [
        {
            "model": prediction.recipe["model"],
            "map": attention.level,
            "gate": place,
            "stride": attention.stride[-1],
            "mean": round(float(attention.data.mean()), 4),
            "min": round(float(attention.data.min()), 4),
            "max": round(float(attention.data.max()), 4),
        }
        for attention, place in zip(prediction.attentions, prediction.recipe["gates"], strict=True)
    ]


def _line(view: StudyView, prediction: Prediction, threshold: float | None, truth: Any) -> AttentionRow:
    size = view.part.shape[-2:]
    maps = []
    for attention, place in zip(prediction.attentions, prediction.recipe["gates"], strict=True):
        stride = attention.stride[-1]
        data = attention.data
        plane = data if data.ndim == 2 else data[min(view.shown // stride, len(data) - 1)]
        maps.append((f"{place} (1/{stride})", enlarge(plane, stride, size)))
    labels = view.plane(np.asarray(prediction.binary(threshold)))
    return AttentionRow(prediction.recipe["model"], view.picture, tuple(maps), labels, truth)
