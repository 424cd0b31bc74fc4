"""Nothing of a file is left out in silence: a stack is whole, several images are named, what is beside is noted."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from several import add_page, append, smooth, write_ome, write_pages

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.choice import SeveralImagesError
from napari_skipseg.images.files import (
    images_to_read,
    list_images,
    read_levels,
    read_recipe,
    read_stack,
    write_ome_tiff,
)
from napari_skipseg.images.identity import check_unchanged, fingerprint
from napari_skipseg.images.space import Space
from napari_skipseg.inference.recipes.recipe import describe_input

STACK = smooth((5, 128, 128))
OTHER = smooth((4, 96, 96), seed=1)
THUMBNAIL = np.ascontiguousarray(STACK[0, ::4, ::4])


def read_whole(path, **options):
    stack = read_stack(path, **options)
    return stack, stack.read((...,))


# --- stacks that are one image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda path: append(path, *STACK),
        lambda path: append(path, *STACK, metadata={"axes": "YX"}),
        lambda path: append(path, *STACK, metadata=None),
        lambda path: append(path, *STACK, compression="zlib"),
        lambda path: append(path, *STACK, bigtiff=True),
        lambda path: append(path, *STACK, tile=(64, 64)),
        lambda path: write_pages(path, *STACK),
        lambda path: write_pages(
            path, *zip(STACK, [{"compression": c} for c in ("zlib", "lzw", None, "zlib", "zstd")], strict=True)
        ),
    ],
    ids=["append", "axes", "plain", "zlib", "bigtiff", "tiles", "pages", "several-compressions"],
)
def test_pages_of_one_size_and_type_are_one_stack_in_their_order(tmp_path, write):
    stack, values = read_whole(write(tmp_path / "a.tif"))
    assert (stack.space.axes, stack.notes) == ("ZYX", ())
    assert np.array_equal(values, STACK)
    assert len(list_images(tmp_path / "a.tif")) == 1


def test_appended_colours_are_a_stack_of_colours(tmp_path):
    colours = smooth((4, 3, 50, 60)).transpose(0, 2, 3, 1).copy()
    for page in colours:
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, photometric="rgb")
    stack, values = read_whole(tmp_path / "a.tif")
    assert stack.space.axes == "ZYXC"
    assert np.array_equal(values, colours)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "bool"])
def test_appended_slices_of_any_type_are_a_stack(tmp_path, dtype):
    values = (smooth((3, 40, 50)) > 100).astype(dtype) if dtype == "bool" else smooth((3, 40, 50), dtype=dtype)
    assert np.array_equal(read_whole(append(tmp_path / "a.tif", *values))[1], values)


# --- pictures beside a main image ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "beside"),
    [
        ((THUMBNAIL, *STACK), "0: 32 × 32"),
        ((*STACK, THUMBNAIL), "1: 32 × 32"),
        ((*STACK, (smooth((3, 40, 60)).transpose(1, 2, 0).copy(), {"photometric": "rgb"})), "1: 40 × 60 × 3"),
        ((smooth((50, 70)), *STACK, smooth((200, 300))), "0: 50 × 70"),
        ((*STACK, THUMBNAIL.astype("uint16")), "1: 32 × 32"),
        ((*STACK, (THUMBNAIL, {"subfiletype": 1})), "1: 32 × 32"),
    ],
    ids=["thumbnail-first", "thumbnail-last", "label", "label-and-macro", "other-type", "marked"],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_page_of_another_size_beside_a_stack_is_left_out_and_noted(tmp_path, pages, beside, compression):
    stack, values = read_whole(write_pages(tmp_path / "a.tif", *pages, compression=compression))
    assert np.array_equal(values, STACK)
    assert len(stack.notes) == 1
    assert beside in stack.notes[0]
    assert (stack.name, stack.file) == ("a", str(tmp_path / "a.tif"))
    assert images_to_read(tmp_path / "a.tif") == (str(tmp_path / "a.tif"),)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("slices", [1, 5])
def test_a_page_behind_what_imagej_counts_is_noted(tmp_path, compression, slices):
    values = STACK[:slices] if slices > 1 else STACK[0]
    axes = {"axes": "ZYX"[-values.ndim :]}
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, compression=compression, metadata=axes)
    stack, found = read_whole(add_page(tmp_path / "a.tif", THUMBNAIL))
    assert np.array_equal(found, values)
    assert "32 × 32" in stack.notes[0]
    assert np.array_equal(read_whole(tmp_path / "a.tif", image=1)[1], THUMBNAIL)


def test_an_image_named_label_or_macro_in_an_ome_tiff_is_beside_the_main_one(tmp_path):
    for name in ("label image", "macro image", "Overview"):
        path = write_ome(tmp_path / f"{name}.ome.tif", STACK[0], smooth((30, 40)), names=("main", name))
        stack, values = read_whole(path)
        assert np.array_equal(values, STACK[0])
        assert name in stack.notes[0]


def test_pages_that_an_ome_xml_does_not_name_are_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    stack, values = read_whole(add_page(tmp_path / "a.ome.tif", THUMBNAIL))
    assert np.array_equal(values, STACK)
    assert "not in its OME-XML" in stack.notes[0]


def test_a_slide_has_thumbnail_label_and_macro_beside_it_and_its_levels_are_no_images(tmp_path):
    base = smooth((512, 512))
    write_pages(
        tmp_path / "a.svs",
        (base, {"tile": (128, 128), "description": "Aperio Image Library v1\n"}),
        (base[::4, ::4].copy(), {"description": "Aperio"}),
        (base[::2, ::2].copy(), {"tile": (128, 128), "description": "Aperio"}),
        (smooth((60, 64)), {"subfiletype": 1, "description": "Aperio"}),
        (smooth((60, 160)), {"subfiletype": 9, "description": "Aperio"}),
    )
    stack, values = read_whole(tmp_path / "a.svs")
    assert np.array_equal(values, base)
    assert [image.name for image in list_images(tmp_path / "a.svs")] == ["Baseline", "Thumbnail", "Label", "Macro"]
    assert "Macro" in stack.notes[0]


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("reduce", [lambda page: page[::2, ::2], lambda page: page.reshape(64, 2, 64, 2).mean((1, 3))])
def test_pages_that_show_the_same_at_fewer_pixels_are_levels(tmp_path, is_marked, reduce):
    rough = (STACK // 4 * 2 + np.random.default_rng(0).integers(0, 128, STACK.shape)).astype(np.uint8)
    half = [(np.ascontiguousarray(reduce(page), np.uint8), {"subfiletype": int(is_marked)}) for page in rough]
    stack, values = read_whole(write_pages(tmp_path / "a.tif", *rough, *half))
    assert np.array_equal(values, rough)
    assert len(stack.notes) == (0 if is_marked else 1)


def test_levels_in_subifds_are_no_images(tmp_path):
    for name, told in (("plain.tif", {}), ("a.ome.tif", {"axes": "ZYX"})):
        path = tmp_path / name
        with tifffile.TiffWriter(path) as writer:
            writer.write(STACK, subifds=1, photometric="minisblack", metadata=told)
            writer.write(np.ascontiguousarray(STACK[:, ::2, ::2]), subfiletype=1, photometric="minisblack")
        stack, values = read_whole(path)
        assert np.array_equal(values, STACK)
        assert stack.notes == ()


# --- several images of equal standing --------------------------------------------------------------------------------

BY_TURNS = [page for pair in zip(STACK[:4], OTHER, strict=True) for page in pair]

SEVERAL = {
    "two-stacks": lambda path: write_pages(path, *STACK, *OTHER),
    "interleaved": lambda path: write_pages(path, *BY_TURNS),
    "interleaved-append": lambda path: append(path, *BY_TURNS),
    "volumes": lambda path: append(path, STACK, STACK[:, ::-1]),
    "slice-behind-a-stack": lambda path: append(path, STACK, STACK[0]),
    "types": lambda path: write_pages(path, *STACK, STACK[0].astype("uint16")),
    "half-the-size-but-unlike": lambda path: write_pages(path, *STACK, *smooth((5, 64, 64), seed=7)),
    "two-pages": lambda path: write_pages(path, STACK[0], smooth((100, 60))),
    "small-but-unlike": lambda path: write_pages(path, STACK[0], smooth((32, 32), seed=7)),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_images_of_a_tiff_are_named_and_each_can_be_read(tmp_path, kind):
    path = SEVERAL[kind](tmp_path / "a.tif")
    with pytest.raises(SeveralImagesError, match=r"contains 2 images \(0: .*; 1: .*'.*a\.tif#1'") as error:
        read_stack(path)
    assert [image.number for image in error.value.images] == [0, 1]
    for number, info in enumerate(list_images(path)):
        stack, values = read_whole(path, image=number)
        assert (stack.shape, stack.name, stack.file) == (info.shape, f"a_{number}", f"{path}#{number}")
        assert np.array_equal(read_whole(stack.file)[1], values)
        assert np.array_equal(read_levels(stack.file)[0].data, values)
        assert read_recipe(stack.file) is None
    assert images_to_read(path) == (f"{path}#0", f"{path}#1")
    with pytest.raises(InputError, match=r"Image 2 does not exist: .* contains 2 images"):
        read_stack(path, image=2)


def test_the_positions_of_an_ome_tiff_are_named_as_it_names_them(tmp_path):
    positions = [np.roll(STACK, 20 * number, axis=2) for number in range(3)]
    path = write_ome(tmp_path / "a.ome.tif", *positions)
    with pytest.raises(SeveralImagesError, match=r"0: Pos0, 5 × 128 × 128 uint8; 1: Pos1, .*; 2: Pos2"):
        read_stack(path)
    for number, position in enumerate(positions):
        assert np.array_equal(read_whole(path, image=number)[1], position)
        assert np.array_equal(read_whole(f"{path}#{number}")[1], position)


def test_single_planes_of_an_ome_tiff_are_positions_and_no_stack(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", *STACK[:3])
    assert images_to_read(path) == (f"{path}#0", f"{path}#1", f"{path}#2")
    assert np.array_equal(read_whole(path, image=2)[1], STACK[2])


def test_each_image_of_an_ome_tiff_has_its_own_voxel_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for size in (4.0, 8.0):
            told = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": size}
            writer.write(STACK[0], photometric="minisblack", metadata=told | {"PhysicalSizeYUnit": "nm"})
    assert [read_stack(tmp_path / "a.ome.tif", image=n).space.voxel_size[2] for n in (0, 1)] == [4.0, 8.0]


def test_a_number_for_a_file_of_one_image_changes_nothing(tmp_path):
    write_pages(tmp_path / "a.tif", *STACK)
    Image.fromarray(STACK[0]).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        assert read_stack(tmp_path / name, image=0).file == str(tmp_path / name)
        with pytest.raises(InputError, match="Image 3 does not exist"):
            read_stack(tmp_path / name, image=3)


def test_a_number_twice_must_be_the_same(tmp_path):
    path = append(tmp_path / "a.tif", STACK, STACK)
    assert read_stack(f"{path}#1", image=1).name == "a_1"
    with pytest.raises(InputError, match="names image 1, and image 0"):
        read_stack(f"{path}#1", image=0)


def test_a_page_of_another_size_among_many_is_named_wherever_it_lies(tmp_path):
    for place in (2, 6, 9):
        pages = [*STACK, *STACK, *STACK]
        pages.insert(place, THUMBNAIL)
        with pytest.raises(FileError, match=f"Page {place} of '.*' has a different size or kind"):
            read_stack(write_pages(tmp_path / f"{place}.tif", *pages))


def test_the_fingerprint_of_an_image_is_that_of_its_file(tmp_path):
    path = append(tmp_path / "a.tif", STACK, STACK)
    before = fingerprint(f"{path}#1")
    assert before == fingerprint(path)
    check_unchanged(f"{path}#1", before)
    path.unlink()
    with pytest.raises(FileError, match="was removed"):
        check_unchanged(f"{path}#1", before)


# --- pictures and stores ---------------------------------------------------------------------------------------------


def test_the_frames_of_a_picture_are_slices(tmp_path):
    first, *others = (Image.fromarray(page) for page in STACK)
    first.save(tmp_path / "a.png", save_all=True, append_images=others)
    stack, values = read_whole(tmp_path / "a.png")
    assert stack.space.axes == "ZYX"
    assert np.array_equal(values, STACK)
    assert "5 frames" in stack.notes[0]


def test_a_jpeg_with_a_smaller_copy_or_another_picture_inside(tmp_path):
    colours = [Image.fromarray(smooth((3, 50, 60), seed).transpose(1, 2, 0).copy()) for seed in range(2)]
    small = colours[0].resize((30, 25))
    colours[0].save(tmp_path / "copy.jpg", format="MPO", save_all=True, append_images=[small])
    stack = read_stack(tmp_path / "copy.jpg")
    assert (stack.shape, len(stack.notes)) == ((50, 60, 3), 1)
    other = colours[1].resize((20, 50))
    colours[0].save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[other])
    with pytest.raises(SeveralImagesError):
        read_stack(tmp_path / "two.jpg")
    assert read_stack(tmp_path / "two.jpg#1").shape == (50, 20, 3)


def make_image(group, values):
    group.create_array("s", shape=values.shape, dtype=values.dtype, chunks=values.shape)[:] = values
    axes = [{"name": name, "type": "space"} for name in "zyx"[-values.ndim :]]
    steps = [{"type": "scale", "scale": [4.0] * values.ndim}]
    datasets = [{"path": "s", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def test_a_collection_of_zarr_images_names_them(tmp_path):
    store = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"bioformats2raw.layout": 3}})
    for number in range(3):
        make_image(store.create_group(str(number)), STACK + np.uint8(number))
    path = tmp_path / "a.zarr"
    with pytest.raises(SeveralImagesError, match=r"contains 3 images .*a\.zarr/1'"):
        read_stack(path)
    assert images_to_read(path) == tuple(str(path / str(number)) for number in range(3))
    for number in range(3):
        for stack in (read_stack(path, image=number), read_stack(f"{path}#{number}"), read_stack(path / str(number))):
            assert np.array_equal(stack.data, STACK + np.uint8(number))
            assert (stack.name, stack.file) == (f"a_{number}", str(path / str(number)))
    assert read_levels(f"{path}#1")[0].name == "a_1"
    assert read_recipe(f"{path}#1") is None
    assert fingerprint(f"{path}#1") == fingerprint(path / "1")


def test_the_fields_of_a_plate_are_its_images(tmp_path):
    wells = [{"path": "A/1"}, {"path": "B/2"}]
    store = zarr.create_group(tmp_path / "p.zarr", attributes={"ome": {"version": "0.5", "plate": {"wells": wells}}})
    for number, well in enumerate(wells):
        group = store.create_group(well["path"], attributes={"ome": {"well": {"images": [{"path": "0"}]}}})
        make_image(group.create_group("0"), STACK[number])
    assert [image.name for image in list_images(tmp_path / "p.zarr")] == ["A/1/0", "B/2/0"]
    with pytest.raises(SeveralImagesError, match=r"p\.zarr/B/2/0'"):
        read_stack(tmp_path / "p.zarr")
    assert np.array_equal(read_stack(tmp_path / "p.zarr", image=1).data, STACK[1])
    assert np.array_equal(read_stack(tmp_path / "p.zarr" / "B" / "2").data, STACK[1])


def test_a_second_multiscale_is_noted(tmp_path):
    store = zarr.create_group(tmp_path / "a.zarr")
    make_image(store, STACK)
    told = dict(store.attrs["ome"])
    told["multiscales"] = [*told["multiscales"], {**told["multiscales"][0], "name": "second"}]
    store.attrs["ome"] = told
    assert any("1 other image" in note for note in read_stack(tmp_path / "a.zarr").notes)


def test_a_file_whose_name_ends_like_a_number_is_that_file(tmp_path):
    path = Path(write_pages(tmp_path / "a.tif", *STACK)).rename(tmp_path / "a.tif#1")
    assert np.array_equal(read_whole(path)[1], STACK)
    folder = tmp_path / "C#"
    folder.mkdir()
    assert read_stack(f"{append(folder / 'b.tif', STACK, STACK)}#1").name == "b_1"
    with pytest.raises(FileError, match="does not exist"):
        read_stack(tmp_path / "none.tif#1")


# --- names -----------------------------------------------------------------------------------------------------------


def test_an_image_is_chosen_by_its_name_and_keeps_it(tmp_path):
    stacks = [smooth((3, 30, 40), seed) for seed in range(3)]
    path = write_ome(tmp_path / "positions.ome.tif", *stacks, names=("Left", "Right", "Right"))
    stack = read_stack(path, image="Left")
    assert np.array_equal(stack.data, stacks[0])
    assert (stack.title, stack.file) == ("Left", f"{path}#0")
    assert read_stack(path, image="2").title == "Right"
    for wrong, why in (("Right", "2 images have this name"), ("left", "no image has this name")):
        with pytest.raises(InputError, match=why):
            read_stack(path, image=wrong)


def test_the_name_of_an_image_is_in_the_results_and_in_the_recipe(tmp_path):
    path = write_ome(tmp_path / "positions.ome.tif", *(smooth((2, 30, 40), seed) for seed in range(2)))
    write_ome_tiff(tmp_path / "copy.ome.tif", STACK[:2], Space("ZYX", (1, 1, 1), "nm"), title="Pos <1>")
    assert read_stack(tmp_path / "copy.ome.tif").title == "Pos <1>"
    assert describe_input(read_stack(path, image=1)).title == "Pos1"
