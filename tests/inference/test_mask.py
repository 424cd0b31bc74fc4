"""A run that is limited to a mask computes only tiles that touch it, and is that of the whole image inside of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from run_files import stop_after
from tiny_models import write_tiny

from napari_skipseg.api import find_objects, run_recipe, segment
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.mask import identify_mask, iter_survey, open_mask
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction, TileWritten
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.objects.classes import records_padding
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

pytestmark = pytest.mark.usefixtures("only_torch")

SIZE, ORIGIN = (50.0, 4.0, 8.0), (100.0, 20.0, 30.0)
RNG = np.random.default_rng(8)


def grey(*shape: int) -> NDArray[Any]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[int, Model]:
    return {n: read_model(write_tiny(folder / f"tiny{n}", n, 4)) for n in (2, 3)}


def predicted(stack: Stack, model: Model, mask: NDArray[Any] | None = None, **options: Any) -> Prediction:
    labels = None if mask is None else Stack(mask, Space("TZYX"[-mask.ndim :]), "mask")
    return run_to_end(iter_predict(RunSpec(stack, model, SegmentOptions(device="cpu", **options), mask=labels)))


@pytest.mark.parametrize(
    ("axes", "shape", "parts", "options"),
    [
        ("YX", (150, 170), [np.s_[60:101, 3:77], np.s_[140:150, 160:170]], {"tile": 64}),
        ("ZYX", (4, 90, 140), [np.s_[1, 10:20, 70:131], np.s_[3, 80:85, 2:3]], {"tile": 64, "average": 4}),
        ("TZYX", (2, 3, 90, 80), [np.s_[0, 2, 4:9, 40:80], np.s_[1, 0, 70:72, 50:60]], {"tile": 48}),
        ("ZYX", (40, 90, 80), [np.s_[9:31, 41:90, 5:30], np.s_[2:3, 1:2, 1:2]], {"tile": 32, "3D": True}),
        ("CYX", (2, 90, 80), [np.s_[41:90, 5:30]], {"tile": 48, "channel": 1}),
    ],
)
def test_inside_the_mask_the_result_is_that_of_the_whole_and_outside_it_is_0(
    models: dict[int, Model], axes: str, shape: tuple[int, ...], parts: list[Any], options: dict[str, Any]
) -> None:
    model = models[3 if options.pop("3D", False) else 2]
    stack = Stack(grey(*shape), Space(axes, SIZE, "nm", ORIGIN))
    mask = np.zeros(shape[axes.count("C") :], np.uint16)
    for number, part in enumerate(parts, start=1):
        mask[part] = number
    whole, limited = predicted(stack, model, **options), predicted(stack, model, mask, **options)
    place = tuple(
        slice(None) if axis == "T" else slice(int(found.min()), int(found.max()) + 1)
        for axis, found in zip(axes.replace("C", ""), np.nonzero(mask), strict=True)
    )
    expected = np.where(mask[place], np.maximum(np.asarray(whole.probability)[place], np.float32(1 / 255)), 0)
    np.testing.assert_array_equal(limited.probability, expected)
    if whole.uncertainty is not None:
        cut = np.where(mask[place], np.asarray(whole.uncertainty)[place], 0)
        np.testing.assert_array_equal(limited.uncertainty, cut)
    begins = [place[axes.replace("C", "").index(axis)].start if axis in axes else 0 for axis in "ZYX"]
    assert limited.space.origin == tuple(o + s * n for o, s, n in zip(ORIGIN, SIZE, begins, strict=True))
    assert limited.recipe["normalization"] == whole.recipe["normalization"]
    assert records_padding(limited.recipe)
    assert not records_padding(whole.recipe)


def test_attention_is_0_where_no_voxel_is_in_the_mask(models: dict[int, Model]) -> None:
    stack, mask = Stack(grey(150, 170), Space("YX")), np.zeros((150, 170), bool)
    mask[61:102, 3:77] = True
    mask[70:90, 20:50] = False
    whole, limited = predicted(stack, models[2], tile=64), predicted(stack, models[2], mask, tile=64)
    for of_whole, of_part in zip(whole.attentions, limited.attentions, strict=True):
        step = of_whole.stride[-1]
        padded = np.pad(mask, [(0, -length % step) for length in mask.shape])
        inside = padded.reshape(padded.shape[0] // step, step, -1, step).any((1, 3))
        cut = np.s_[61 // step : -(-102 // step), 3 // step : -(-77 // step)]
        np.testing.assert_array_equal(of_part.data, np.where(inside, of_whole.data, 0)[cut])


def test_only_tiles_that_touch_the_mask_are_computed_also_in_a_box_and_at_each_time(models: dict[int, Model]) -> None:
    stack, mask = Stack(grey(2, 5, 1100, 1100), Space("TZYX")), np.zeros((5, 1100, 1100), np.uint8)
    mask[1, 5, 5] = mask[4, 1090, 1090] = 7

    def regions(box: str = "") -> list[Any]:
        options, labels = SegmentOptions(device="cpu", tile=600, box=box), Stack(mask, Space("ZYX"))
        work = iter_predict(RunSpec(stack, models[2], options, mask=labels))
        return [each.region for each in work if isinstance(each, TileWritten)]

    found = regions()
    assert len(found) == 4, "two tiles of the many, at each of two times"
    assert sorted((each[0][0], each[1][0]) for each in found) == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert regions("t=1:2,z=0:3,x=0:20") == [((0, 1), (0, 1), (0, 1), (0, 1))]
    with pytest.raises(InputError, match="is 0 in the box z=2:4"):
        regions("z=2:4")


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_files_name_the_mask_and_are_the_same_after_a_stop_and_run_again(
    models: dict[int, Model], folder: Path, tmp_path: Path, form: Any
) -> None:
    image, mask, values = tmp_path / "em.ome.tif", tmp_path / "where.tif", np.zeros((4, 90, 140), np.uint8)
    values[1, 10:75, 70:131] = values[2, 3, 3] = values[3, 60:90, 5:10] = 9
    write_ome_tiff(image, grey(4, 90, 140), Space("ZYX", SIZE, "nm", ORIGIN))
    write_ome_tiff(mask, values, Space("ZYX", (0.05, 0.004, 0.008), "µm"))
    stack, found = read_stack(image), {}
    for name in ("part", "stopped"):
        options = SegmentOptions(device="cpu", tile=64, attention=False, mask=str(mask))
        target = FolderTarget(tmp_path / name, "em", form=form)
        if name == "stopped":
            stop_after(iter_segment(RunSpec(stack, models[2], options), target), 2)
            assert (tmp_path / name / "em.unfinished").is_dir()
        run_to_end(iter_segment(RunSpec(stack, models[2], options), target))
        found[name] = np.asarray(read_stack(target.file("probability")).data[...])
    np.testing.assert_array_equal(found["part"] > 0, values[1:, 3:, 3:131] > 0)
    np.testing.assert_array_equal(found["stopped"], found["part"])
    recipe = tmp_path / "part" / "em_recipe.json"
    _, recorded = json.loads(recipe.read_text())["inputs"]
    assert (recorded["file"], recorded["sha256"]) == (str(mask), identify_mask(Stack(values, Space("ZYX"))))
    again = run_recipe(recipe, model=folder / "tiny2")
    np.testing.assert_array_equal(read_stack(again[0]).data[...], found["part"])
    values[0, 0, 0] = 1
    write_ome_tiff(mask, values, Space("ZYX", SIZE, "nm"))
    with pytest.raises(FileError, match="contains a different mask than when the recipe was written"):
        run_recipe(recipe, tmp_path / "other", model=folder / "tiny2")


def test_an_unfinished_run_refuses_a_mask_that_was_changed(models: dict[int, Model], tmp_path: Path) -> None:
    image, mask, values = tmp_path / "em.tif", tmp_path / "where.tif", np.ones((3, 90, 140), np.uint8)
    write_ome_tiff(image, grey(3, 90, 140), Space("ZYX"))
    write_ome_tiff(mask, values, Space("ZYX"))
    options = SegmentOptions(device="cpu", tile=64, attention=False, mask=str(mask))
    stop_after(iter_segment(RunSpec(read_stack(image), models[2], options), FolderTarget(tmp_path / "out", "em")), 2)
    values[0, 5:9] = 0
    write_ome_tiff(mask, values, Space("ZYX"))
    with pytest.raises(FileError, match="differs in content of the mask"):
        run_to_end(iter_segment(RunSpec(read_stack(image), models[2], options), FolderTarget(tmp_path / "out", "em")))


IMAGE = Stack(np.zeros((2, 3, 40, 50), np.uint8), Space("TZYX", SIZE, "nm"), "em")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (
            Stack(np.ones((3, 40, 51), np.uint8), Space("ZYX"), "m"),
            "has 3 × 40 × 51 voxels and 'em' has 2 × 3 × 40 × 50",
        ),
        (Stack(np.ones((40, 50), np.uint8), Space("YX"), "m"), "give a mask of the image's shape"),
        (Stack(np.ones((3, 40, 50), np.uint8), Space("ZYX", (50, 4, 4), "nm"), "m"), "'m' has voxels of 50 × 4 × 4 nm"),
        (Stack(np.ones((3, 40, 50), np.float32), Space("ZYX"), "m"), "has float32 values and is no label image"),
        (Stack(np.ones((40, 50, 3), np.uint8), Space("YXC"), "m"), "has colours or channels and is no label image"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Stack, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_mask(mask, IMAGE)


def test_an_empty_mask_and_a_file_that_is_none_are_refused(models: dict[int, Model], tmp_path: Path) -> None:
    stack = Stack(grey(60, 70), Space("YX"), "flat")
    with pytest.raises(InputError, match="The mask 'mask' is 0 everywhere"):
        predicted(stack, models[2], np.zeros((60, 70), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    for name, said in (("notes.txt", "notes.txt"), ("missing.tif", "missing.tif")):
        with pytest.raises(FileError, match=said):
            run_to_end(iter_predict(RunSpec(stack, models[2], SegmentOptions(device="cpu", mask=str(tmp_path / name)))))


@pytest.mark.parametrize(
    "masks", [(SegmentOptions(mask="mask.tif"), None), (SegmentOptions(), ObjectOptions(mask="mask.tif@sha256:0"))]
)
def test_a_batch_takes_no_mask_of_a_single_image(masks: tuple[SegmentOptions, ObjectOptions | None]) -> None:
    with pytest.raises(InputError, match="masks of its own"):
        BatchSettings("in", "out", SegmentRequest("tiny", "0", masks[0], objects=masks[1]))


def test_python_takes_an_array_as_mask(models: dict[int, Model]) -> None:
    image, mask = grey(60, 70), np.zeros((60, 70), bool)
    mask[20:30, 40:45] = True
    found = segment(image, models[2], mask=mask, device="cpu")
    assert found.probability.shape == (10, 5)
    assert found.recipe["options"]["mask"] == "mask"
    assert found.recipe["inputs"][1]["file"] == ""


class Counted(LazyArray):
    """A large mask of which a corner is 1; it says how much is read at once."""

    def __init__(self) -> None:
        self.shape, self.dtype, self.most = (70, 2000, 3000), np.dtype(np.uint8), 0

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = np.zeros([len(range(n)[side]) for n, side in zip(self.shape, index, strict=True)], np.uint8)
        self.most = max(self.most, values.size)
        if all(side.start <= n - 1 < side.stop for n, side in zip(self.shape, index, strict=True)):
            values[-1, -1, -1] = 1
        return values


def test_a_large_mask_is_read_block_by_block() -> None:
    data = Counted()
    survey = run_to_end(iter_survey(Stack(data, Space("ZYX")), {"Y": (0, 1999, 2000)}, {}))
    assert data.most <= 2**25
    assert survey.box == {"Z": slice(69, 70), "Y": slice(1999, 2000), "X": slice(2999, 3000)}
    assert survey.touched.tolist() == [[[False], [True]]]


def test_objects_are_found_inside_of_the_mask_alone(models: dict[int, Model]) -> None:
    image, mask = grey(90, 100), np.zeros((90, 100), bool)
    mask[10:40, 20:50] = mask[50:80, 60:90] = True
    found = segment(image, models[2], mask=mask, device="cpu")
    labels = find_objects(found, method="cells", threshold=0.5)
    assert labels.max() > 0
    assert not labels[~mask[10:80, 20:90]].any()
