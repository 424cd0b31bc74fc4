"""Training measures grey values as segmentation does, and learns nothing from padding if no class is painted on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from made_images import tissue
from numpy.typing import NDArray

from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import ImageFindings, run_to_end
from napari_skipseg.training.finetune.blocks import iter_find_labelled_blocks
from napari_skipseg.training.finetune.crops import CorrectionCrops, iter_read_crops
from napari_skipseg.training.finetune.labels import Corrected, plan_classes
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

BORDER = 40
PARENT = ModelDescription("old", UNetSpec(widths=(4, 8)), (ClassLabel("membrane", 0),), 4, "")
SETTINGS = FinetuneSettings("new", ("a.tif",), ("b.tif",), (ClassLabel("lumen", 2),), model="old")


INNER = tissue(3, 128, 128)
FRAMED = np.pad(INNER, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
IN_FRAME = np.pad(np.zeros(INNER.shape, bool), ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), constant_values=True)


def settings_of(folder: Path, labels: NDArray[Any], **options: Any) -> TrainSettings:
    files = (str(folder / "image.tif"), str(folder / "labels.tif"))
    for file, values in zip(files, (FRAMED, labels), strict=True):
        tifffile.imwrite(file, values, metadata={"axes": "ZYX"}, ome=True)
    spec = UNetSpec(widths=(2, 4))
    return TrainSettings("t", files[:1], files[1:], (ClassLabel("membrane", 0),), spec=spec, patch=(16, 16), **options)


def test_a_frame_is_no_example_of_anything(tmp_path: Path) -> None:
    labels = np.where(IN_FRAME | (FRAMED < 100), 0, 255).astype(np.uint8)  # 0 is membrane, as around ISBI's labels
    data = read_data(settings_of(tmp_path, labels))
    (run,) = data.training
    assert (run.target[IN_FRAME] == IGNORED).all()
    assert (run.target[~IN_FRAME] == (FRAMED < 100)[~IN_FRAME]).all()
    inner = (0, slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    np.testing.assert_allclose(run.image[inner], measure(Stack(INNER, Space("ZYX"))).apply(INNER), atol=0.1)
    assert any("left out" in told for told in data.findings)


def test_a_training_can_keep_constant_areas(tmp_path: Path) -> None:
    labels = np.where(FRAMED < 100, 0, 255).astype(np.uint8)
    data = read_data(settings_of(tmp_path, labels, padding="none"))
    (run,) = data.training
    assert not (run.target == IGNORED).any()
    assert run.image.mean() == pytest.approx(0, abs=1e-4)
    assert data.findings == ()


def read_labelled(
    image: NDArray[Any], labels: NDArray[Any], parent: ModelDescription = PARENT
) -> tuple[CorrectionCrops, list[str]]:
    """What is learnt from an image with labels, and what was said of it."""
    corrected = (Corrected(Stack(image, Space("ZYX"), name="cells"), labels, "cells"),)
    plan = plan_classes(SETTINGS, parent)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, parent.spec.dimensions))
    told: list[str] = []
    patch = (16, 64, 64)[-parent.spec.dimensions :]
    work = iter_read_crops(corrected, table, plan, patch, 0)
    found = run_to_end(work, lambda each: told.extend(each.findings if isinstance(each, ImageFindings) else ()))
    return found, told


@pytest.mark.parametrize("dimensions", [2, 3])
def test_background_painted_on_padding_is_not_learnt(dimensions: int) -> None:
    labels = np.ones(FRAMED.shape, np.uint8)
    labels[:, 80:90, 50:150] = 2
    parent = replace(PARENT, spec=UNetSpec(dimensions=dimensions, widths=(4, 8)))
    found, told = read_labelled(FRAMED, labels, parent)
    assert found.padding == "auto"
    assert any("left out" in each for each in told)
    labelled = sum(int((np.maximum(each.target, each.held_out) >= 0).sum()) for each in found.crops)
    assert labelled == INNER.size
    deviation = np.concatenate([each.image[0][each.target >= 0].ravel() for each in found.crops]).astype(float)
    assert abs(deviation.std() - 1) < 0.1


def test_a_class_painted_on_constant_areas_makes_them_tissue() -> None:
    labels = np.zeros(FRAMED.shape, np.uint8)
    labels[:, 10:30, 20:180] = 2
    labels[:, 80:100, 60:140] = 1
    found, told = read_labelled(FRAMED, labels)
    assert found.padding == "none"
    assert any("painted" in each for each in told)
    both = sum(int((np.maximum(each.target, each.held_out) > 0).sum()) for each in found.crops)
    assert both == (labels == 2).sum()
    lumen = np.concatenate([each.image[0][each.target > 0].ravel() for each in found.crops]).astype(float)
    np.testing.assert_allclose(
        lumen, measure(Stack(FRAMED, Space("ZYX")), padding="none").apply(np.zeros(1))[0], atol=1e-2
    )


def test_a_stroke_that_slips_over_the_edge_changes_nothing() -> None:
    labels = np.zeros(FRAMED.shape, np.uint8)
    labels[:, BORDER - 2 : BORDER + 18, 60:140] = 2
    labels[:, 100:120, 60:140] = 1
    found, _ = read_labelled(FRAMED, labels)
    assert found.padding == "auto"
    learnt = sum(int((np.maximum(each.target, each.held_out) > 0).sum()) for each in found.crops)
    assert learnt == (labels[~IN_FRAME] == 2).sum()
