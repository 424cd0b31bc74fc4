"""A run that is limited to a box gives the bytes of the whole run, where the box lies in the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from run_files import stop_after
from tiny_models import write_tiny

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.box import box_from_text, box_to_text, box_within
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction, TileWritten
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.progress import run_to_end

pytestmark = pytest.mark.usefixtures("only_torch")

SIZE, ORIGIN = (50.0, 4.0, 8.0), (100.0, 20.0, 30.0)
RNG = np.random.default_rng(8)


def grey(*shape: int) -> NDArray[Any]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Model]:
    folder = tmp_path_factory.mktemp("models")
    sized = {"voxel_size": (50.0, 6.0, 12.0), "unit": "nm"}
    return {n: read_model(write_tiny(folder / f"tiny{n}", n, 4, **(sized if n == 2 else {}))) for n in (2, 3)}


def predicted(stack: Stack, model: Model, **options: Any) -> Prediction:
    return run_to_end(iter_predict(RunSpec(stack, model, SegmentOptions(device="cpu", **options))))


@pytest.mark.parametrize(
    ("axes", "shape", "box", "options"),
    [
        ("YX", (150, 170), "y=60:101,x=3:77", {"tile": 64}),
        ("YX", (150, 170), "y=149:150,x=169:170", {"tile": 64}),
        ("ZYX", (4, 90, 140), "z=1:3,y=10:55,x=70:131", {"tile": 64, "average": 4}),
        ("TZYX", (2, 3, 90, 80), "t=1:2,z=2:3,x=40:80", {"tile": 48}),
        ("ZYX", (3, 90, 140), "z=2:3,y=10:55,x=90:131", {"tile": 64, "samples": 2, "dropout": 0.2, "seed": 4}),
        ("ZYX", (3, 90, 140), "z=1:2,y=30:55,x=90:131", {"tile": 64, "rescale": True}),
        ("ZYX", (40, 90, 80), "z=9:31,y=41:90,x=5:30", {"tile": 32, "3D": True}),
        ("CYX", (2, 90, 80), "y=41:90,x=5:30", {"tile": 48, "channel": 1}),
    ],
)
def test_the_result_in_a_box_is_that_of_the_whole_run(
    models: dict[int, Model], axes: str, shape: tuple[int, ...], box: str, options: dict[str, Any]
) -> None:
    model = models[3 if options.pop("3D", False) else 2]
    stack = Stack(grey(*shape), Space(axes, SIZE, "nm", ORIGIN))
    whole, part = predicted(stack, model, **options), predicted(stack, model, box=box, **options)
    inside = box_within(box_from_text(box), stack)
    place = tuple(inside[axis] for axis in axes if axis != "C")
    np.testing.assert_array_equal(part.probability, np.asarray(whole.probability)[place])
    if whole.uncertainty is not None:
        np.testing.assert_array_equal(part.uncertainty, np.asarray(whole.uncertainty)[place])
    begins = [inside[axis].start if axis in inside else 0 for axis in "ZYX"]
    assert part.space.origin == tuple(o + s * n for o, s, n in zip(ORIGIN, SIZE, begins, strict=True))
    assert part.space.voxel_size == SIZE
    assert part.recipe["options"]["box"] == box
    assert part.recipe["normalization"] == whole.recipe["normalization"]


def test_attention_maps_of_a_box_lie_where_those_of_the_whole_do(models: dict[int, Model]) -> None:
    stack = Stack(grey(2, 150, 170), Space("ZYX", SIZE, "nm", ORIGIN))
    whole, part = (predicted(stack, models[2], tile=64, box=box) for box in ("", "z=1:2,y=61:102,x=3:77"))
    assert len(whole.attentions) == len(part.attentions) > 0
    for of_whole, of_part in zip(whole.attentions, part.attentions, strict=True):
        step = of_whole.stride[-1]
        cut = of_whole.data[1:2, 61 // step : -(-102 // step), 3 // step : -(-77 // step)]
        np.testing.assert_array_equal(of_part.data, cut)
        assert of_part.begin == (0, 61 // step * step - 61, 3 // step * step - 3)


def test_only_tiles_that_overlap_the_box_are_computed(models: dict[int, Model]) -> None:
    stack = Stack(grey(30, 300, 300), Space("ZYX"))
    options = SegmentOptions(device="cpu", tile=64, box="z=7:8,y=100:110,x=100:110")
    found = [each for each in iter_predict(RunSpec(stack, models[2], options)) if isinstance(each, TileWritten)]
    assert [(each.done, each.total, each.region) for each in found] == [(1, 1, ((0, 1), (0, 10), (0, 10)))]


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_files_of_a_box_are_cut_from_those_of_the_whole_also_after_a_stop(
    models: dict[int, Model], tmp_path: Path, form: Any
) -> None:
    file, box = tmp_path / "em.ome.tif", "z=1:3,y=10:75,x=70:131"
    write_ome_tiff(file, grey(4, 90, 140), Space("ZYX", SIZE, "nm", ORIGIN))
    stack, found = read_stack(file), {}
    for name, asked in (("whole", ""), ("part", box), ("stopped", box)):
        options = SegmentOptions(device="cpu", tile=64, attention=False, box=asked)
        target = FolderTarget(tmp_path / name, "em", form=form)
        if name == "stopped":
            stop_after(iter_segment(RunSpec(stack, models[2], options), target), 2)
            assert (tmp_path / name / "em.unfinished").is_dir()
        run_to_end(iter_segment(RunSpec(stack, models[2], options), target))
        found[name] = [read_stack(target.file(result)) for result in ("probability", "binary")]
    for whole, part, stopped in zip(*found.values(), strict=True):
        expected = np.asarray(whole.data[...])[1:3, 10:75, 70:131]
        np.testing.assert_array_equal(part.data[...], expected)
        np.testing.assert_array_equal(stopped.data[...], expected)
        assert not (tmp_path / "part" / "em.unfinished").exists()
        assert not (tmp_path / "stopped" / "em.unfinished").exists()
        np.testing.assert_allclose(part.space.origin, (150.0, 60.0, 590.0))
        assert part.space.unit == whole.space.unit


@pytest.mark.parametrize("name", ["em", "em_tiles", "tiles"])
def test_a_box_after_another_one_is_refused_only_if_that_is_unfinished_and_restart_discards_it(
    models: dict[int, Model], tmp_path: Path, name: str
) -> None:
    write_ome_tiff(tmp_path / "em.ome.tif", grey(4, 90, 140), Space("ZYX"))
    stack, out = read_stack(tmp_path / "em.ome.tif"), tmp_path / "out"

    def segmenting(box: str, restart: bool = False) -> Any:
        options = SegmentOptions(device="cpu", tile=64, attention=False, box=box)
        return iter_segment(
            RunSpec(stack, models[2], options), FolderTarget(out, name, form="ome-zarr", restart=restart)
        )

    run_to_end(segmenting("z=0:2"))
    stop_after(segmenting("z=3:4"), 2)
    with pytest.raises(FileError, match="unfinished run that differs in box"):
        run_to_end(segmenting("z=2:4,x=0:70"))
    run_to_end(segmenting("z=2:4,x=0:70", restart=True))
    assert read_stack(out / f"{name}_binary.ome.zarr").shape == (2, 90, 70)
    assert not (out / f"{name}.unfinished").exists()


def test_a_box_that_reaches_beyond_the_image_is_cut_and_that_is_said_once(models: dict[int, Model]) -> None:
    stack, said = Stack(grey(3, 60, 70), Space("ZYX"), "em"), "was cut to z=1:3,x=0:9: 'em' has 3 voxels along Z."
    found = predicted(stack, models[2], box="z=1:100,x=0:9")
    assert [note for note in found.recipe["findings"] if "box" in note] == [f"The box z=1:100,x=0:9 {said}"]
    assert not any("box" in note for note in predicted(stack, models[2], box="z=1:3,x=0:9").recipe["findings"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("z=1:3;y=2", "is no box"),
        ("y=5:5", "empty along Y"),
        ("y=9:5", "empty along Y"),
        ("y=1:5,y=2:3", "names Y twice"),
        ("y=-3:5", "is no box"),
        ("c=0:1", "is no box"),
    ],
)
def test_a_text_that_is_no_box_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SegmentOptions(box=text)


def test_a_box_outside_of_the_image_or_along_a_missing_axis_is_refused(models: dict[int, Model]) -> None:
    stack = Stack(grey(60, 70), Space("YX"), "flat")
    with pytest.raises(InputError, match="lies outside of 'flat', which has 70 voxels along X"):
        predicted(stack, models[2], box="x=70:80")
    with pytest.raises(InputError, match="'flat' has no axis Z"):
        predicted(stack, models[2], box="z=3:4,x=0:8")
    assert box_within(box_from_text("z=0:1,x=60:900"), stack) == {"Y": slice(0, 60), "X": slice(60, 70)}


def test_a_box_reads_as_it_is_written() -> None:
    assert box_to_text(box_from_text(" X = 3:4 , t=0:2")) == "t=0:2,x=3:4"
