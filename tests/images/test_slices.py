"""A folder, a pattern or a list with one file per slice is one stack, read on demand; gaps and faults are told."""

import os
import sys

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image
from several import smooth

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images import slices
from napari_skipseg.images.files import (
    holds_labels,
    holds_lossy,
    images_to_read,
    list_images,
    read_levels,
    read_recipe,
    read_stack,
    write_ome_tiff,
)
from napari_skipseg.images.identity import check_unchanged, fingerprint, identify
from napari_skipseg.images.slice_checks.checks import SliceFault
from napari_skipseg.images.slice_checks.messages import describe_faults
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

STACK = smooth((5, 40, 50))
NUMBERS = (1, 2, 9, 10, 11)


def write_tiff(path, values):
    tifffile.imwrite(path, values, photometric="minisblack")


def write_picture(path, values):
    Image.fromarray(values).save(path)


def write_mrc(path, values):
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.int16))


def write_slices(folder, names, values=STACK, write=write_tiff):
    folder.mkdir(exist_ok=True)
    for name, plane in zip(names, values, strict=True):
        write(folder / name, plane)
    return folder


@pytest.fixture
def sections(tmp_path):
    return write_slices(tmp_path / "sections", [f"s_{number}.tif" for number in NUMBERS])


# --- what is a stack, and in which order -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "write"),
    [
        ([f"s_{n}.tif" for n in NUMBERS], write_tiff),
        ([f"s_{n:03}.TIF" for n in NUMBERS], write_tiff),
        ([f"{n}.tiff" for n in (8, 9, 10, 99, 100)], write_tiff),
        ([f"em 2021-03-04 z{n}.png" for n in NUMBERS], write_picture),
        ([f"Schnitt_é{n}.bmp" for n in NUMBERS], write_picture),
        ([f"tomo{n}_final.mrc" for n in NUMBERS], write_mrc),
        ([f"z_{n}.tif" for n in ("0.00", "0.50", "1.00", "1.50", "10.00")], write_tiff),
        ([f"2024-01-0{n}_scan{n}.tif" for n in range(1, 6)], write_tiff),
        (["s_1.tif", "s_2.png", "s_3.tiff", "s_4.bmp", "s_5.tif"], None),
    ],
    ids=["tiff", "padded", "numbers-alone", "png", "bmp", "mrc", "decimals", "dates", "mixed-formats"],
)
def test_a_folder_of_numbered_files_is_one_stack_in_natural_order(tmp_path, names, write):
    def by_ending(path, values):
        (write or (write_tiff if path.suffix.startswith(".tif") else write_picture))(path, values)

    folder = write_slices(tmp_path / "sections", names, write=by_ending)
    stack = read_stack(folder)
    assert (stack.space.axes, stack.shape, stack.name, stack.file) == ("ZYX", STACK.shape, "sections", str(folder))
    assert np.array_equal(stack.data, STACK)
    assert np.array_equal(stack.read((3, slice(4, 30), slice(None, None, -2))), STACK[3, 4:30, ::-2])
    assert np.array_equal(stack.read((slice(4, 0, -2), 7, slice(0, 5))), STACK[4:0:-2, 7, :5])
    assert identify(stack) == identify(Stack(STACK.astype(stack.data.dtype), Space("ZYX")))


def test_jpeg_slices_are_a_stack_whose_values_are_near(tmp_path):
    folder = write_slices(tmp_path / "s", [f"{n}.jpg" for n in range(5)], write=write_picture)
    stack = read_stack(folder)
    assert stack.shape == STACK.shape
    assert np.abs(np.asarray(stack.data).astype(int) - STACK).mean() < 5
    assert holds_lossy(folder)


def test_colours_stay_and_volumes_become_times(tmp_path):
    colours = smooth((3, 3, 20, 30)).transpose(0, 2, 3, 1).copy()
    folder = write_slices(tmp_path / "c", ["1.png", "2.png", "3.png"], colours, write_picture)
    assert np.array_equal(read_stack(folder).data, colours)
    assert read_stack(folder).space.axes == "ZYXC"
    volumes = np.stack([STACK, STACK[::-1]])
    stack = read_stack(write_slices(tmp_path / "v", ["t1.tif", "t2.tif"], volumes))
    assert (stack.space.axes, stack.shape) == ("TZYX", (2, 5, 40, 50))
    assert np.array_equal(stack.data, volumes)
    assert any("times" in note for note in stack.notes)


def test_sidecars_hidden_files_folders_and_our_results_are_no_slices(sections):
    for name in ("Thumbs.db", ".DS_Store", "._s_1.tif", "notes.txt", "s_1.tif.aux.xml", "desktop.ini", "s_1.mdoc"):
        (sections / name).write_bytes(b"no image")
    (sections / "sections.unfinished").mkdir()
    before = fingerprint(sections)
    write_ome_tiff(sections / "sections_probability.tif", STACK, Space("ZYX", (1, 1, 1), "pixel"), description={"a": 1})
    assert np.array_equal(read_stack(sections).data, STACK)
    check_unchanged(sections, before)


def test_a_pattern_and_a_list_are_stacks_a_list_in_its_own_order(sections):
    (sections / "preview.tif").write_bytes((sections / "s_1.tif").read_bytes())
    with pytest.raises(InputError, match=r"'preview\.tif' in '.*' is not named like the other slices .*s_\*\.tif"):
        read_stack(sections)
    stack = read_stack(sections / "s_*.tif")
    assert np.array_equal(stack.data, STACK)
    assert np.array_equal(read_stack(stack.file).data, STACK)
    some = read_stack([sections / "s_10.tif", sections / "s_2.tif"])
    assert np.array_equal(some.data, STACK[[3, 1]])
    assert np.array_equal(read_stack(some.file).data, STACK[[3, 1]])
    assert fingerprint(some.file)["files"] == 2
    assert np.array_equal(read_stack([sections / "s_9.tif"]).data, STACK[2])
    with pytest.raises(FileError, match="matches"):
        read_stack(sections / "t_*.tif")


def test_files_of_several_folders_are_no_stack(tmp_path, sections):
    write_tiff(tmp_path / "s_3.tif", STACK[0])
    with pytest.raises(InputError, match="different folder"):
        read_stack([sections / "s_1.tif", tmp_path / "s_3.tif"])


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((1, 2, 3, 4, 5), ""),
        ((0, 10, 20, 30, 40), ""),
        ((5, 6, 8, 9, 10), "Section 7 is missing between s_6.tif and s_8.tif"),
        ((1, 2, 9, 10, 11), "Sections 3 to 8 are missing between s_2.tif and s_9.tif"),
        ((1, 3, 4, 6, 7), "Section 2 is missing between s_1.tif and s_3.tif, section 5 is missing between s_4.tif"),
        ((0, 10, 30, 40, 50), "Section 20 is missing"),
        ((2, 3, 4, 5, 6), "The numbers begin at 2 (s_2.tif): check whether earlier sections are missing"),
        ((2, 3, 5, 6, 7), "Section 4 is missing between s_3.tif and s_5.tif, and the numbers begin at 2 (s_2.tif)"),
        ((10, 20, 30, 40, 50), ""),
    ],
)
def test_numbers_that_are_missing_are_told(tmp_path, numbers, told):
    notes = read_stack(write_slices(tmp_path / "s", [f"s_{number}.tif" for number in numbers])).notes
    assert [note for note in notes if "missing" in note] == [note for note in notes if told and told in note]
    assert len(notes) == bool(told)


def test_many_gaps_are_counted(tmp_path):
    names = [f"s_{number}.tif" for number in (1, 2, 4, 5, 7, 8, 10, 11, 13, 14)]
    notes = read_stack(write_slices(tmp_path / "s", names, smooth((10, 8, 9)))).notes
    assert "and 1 more gap" in notes[0]


@pytest.mark.parametrize(
    "other", [STACK[0, :30], STACK[0].astype(np.uint16), np.stack([STACK[0]] * 2)], ids=["size", "type", "pages"]
)
def test_a_slice_unlike_the_others_is_named(sections, other):
    write_tiff(sections / "s_9.tif", other)
    with pytest.raises(InputError, match=r"'s_9\.tif' in '.*sections' has .* but 's_1\.tif' has 40 × 50 pixels"):
        read_stack(sections)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0"], ids=["empty", "text", "short"])
def test_a_slice_that_is_no_image_is_named(sections, content):
    (sections / "s_9.tif").write_bytes(content)
    with pytest.raises(FileError, match=r"s_9\.tif'"):
        read_stack(sections)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes in folders")
def test_pipes_and_links_to_nothing_are_named_and_nothing_waits(sections):
    os.mkfifo(sections / "s_3.tif")
    with pytest.raises(FileError, match=r"s_3\.tif' is a pipe or a device"):
        read_stack(sections)
    (sections / "s_3.tif").unlink()
    (sections / "s_3.tif").symlink_to(sections / "nothing")
    with pytest.raises(FileError, match=r"s_3\.tif' does not exist"):
        read_stack(sections)


def test_a_slice_damaged_or_changed_later_is_told_where_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "MOST_OPEN", 1)
    folder = write_slices(tmp_path / "s", [f"{n}.png" for n in range(5)], write=write_picture)
    stack = read_stack(folder)
    before = fingerprint(folder)
    content = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(content[: len(content) // 2])
    assert np.array_equal(stack.read((2, ...)), STACK[2])
    with pytest.raises(FileError, match=r"3\.png'"):
        stack.read((3, ...))
    write_picture(folder / "3.png", STACK[3, :30])
    with pytest.raises(FileError, match=r"3\.png' has a different shape"):
        stack.read((3, ...))
    with pytest.raises(FileError, match="was changed"):
        check_unchanged(folder, before)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a_1.tif", "a_2.tif", "b_1.tif", "b_2.tif", "a_3.tif"], "is not named like"),
        (["s_1.tif", "s_1.png", "s_2.tif", "s_3.tif", "s_4.tif"], "are both one slice"),
        (["one.tif", "two.tif", "three.tif", "four.tif", "five.tif"], "has no number"),
        (["s_1.tif", "s_01.tif", "s_2.tif", "s_3.tif", "s_4.tif"], "'s_0?1.tif' and 's_0?1.tif' .* are both one slice"),
        (["a1_z1.tif", "a1_z2.tif", "a1_z3.tif", "a2_z1.tif", "a2_z2.tif"], "two numbers"),
        (["s_0.5.tif", "s_0.25.tif", "s_1.0.tif", "s_1.5.tif", "s_1.25.tif"], "two numbers"),
    ],
)
def test_names_that_do_not_count_one_stack_are_refused(tmp_path, names, told):
    def write(path, values):
        (write_tiff if path.suffix == ".tif" else write_picture)(path, values)

    with pytest.raises(InputError, match=told):
        read_stack(write_slices(tmp_path / "s", names, write=write))


def test_names_that_count_slices_and_channels_are_refused_and_a_pattern_chooses(tmp_path):
    names = [f"z{z}_c{c}.tif" for z in (1, 2, 3) for c in (0, 1)]
    folder = write_slices(tmp_path / "s", names, smooth((6, 20, 30)))
    with pytest.raises(InputError, match="two numbers"):
        read_stack(folder)
    assert np.array_equal(read_stack(folder / "z*_c1.tif").data, smooth((6, 20, 30))[1::2])


def test_a_folder_without_images_or_with_another_folders_alone_is_told(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(FileError, match="is a folder: give an image file"):
        read_stack(tmp_path)


# --- voxel size ------------------------------------------------------------------------------------------------------


def test_the_voxel_size_is_the_first_files_and_z_is_given_or_taken_and_told(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(3):
        write_ome_tiff(folder / f"{number}.tif", STACK[number], Space("YX", (1, 4, 5), "nm"))
    stack = read_stack(folder)
    assert (stack.space.voxel_size, stack.space.unit) == ((4.0, 4.0, 5.0), "nm")
    assert any("the distance of the slices" in note for note in stack.notes)
    stack = read_stack(folder, voxel_size=(50, 4, 5), unit="nm")
    assert (stack.space.voxel_size, stack.notes) == ((50, 4, 5), ())
    with pytest.raises(InputError, match="has no unit"):
        read_stack(folder, voxel_size=(50, 4, 5))


def test_a_file_of_another_voxel_size_is_noted(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(3):
        per_cm = 2.5e6 if number < 2 else 1.25e6
        options = {"photometric": "minisblack", "metadata": None, "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(folder / f"{number}.tif", STACK[number], resolution=(per_cm, per_cm), **options)
    stack = read_stack(folder)
    assert stack.space.voxel_size[1:] == (4, 4)
    assert any("'2.tif' has a different voxel size than '0.tif'" in note for note in stack.notes)
    assert read_stack(folder, voxel_size=(50, 4, 4), unit="nm").notes == ()
    alike = read_stack([folder / "0.tif", folder / "1.tif"])
    assert not any("a different voxel size" in note for note in alike.notes)


def test_a_z_that_the_files_know_is_kept(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(3):
        write_ome_tiff(folder / f"{number}.tif", STACK[number], Space("YX", (50, 4, 4), "nm"))
    stack = read_stack(folder)
    assert (stack.space.voxel_size, stack.space.unit, stack.notes) == ((50.0, 4.0, 4.0), "nm", ())


def test_axes_can_be_given(sections):
    assert read_stack(sections, axes="TYX").space.axes == "TYX"
    with pytest.raises(InputError):
        read_stack(sections, axes="YX")


# --- how it is read --------------------------------------------------------------------------------------------------


def test_a_slice_is_opened_when_it_is_looked_at_and_few_are_kept(tmp_path, monkeypatch):
    folder = write_slices(tmp_path / "s", [f"{n}.png" for n in range(5)], write=write_picture)
    opened = []
    real = slices.SliceArray._stack
    monkeypatch.setattr(slices.SliceArray, "_stack", lambda self, n: opened.append(n) or real(self, n))
    stack = read_stack(folder)
    assert opened == []
    stack.read((slice(1, 3), 0, 0))
    assert opened == [1, 2]
    monkeypatch.setattr(slices, "MOST_OPEN", 2)
    data = read_stack(folder).data
    assert np.array_equal(data, STACK)
    assert len(data._open) == 2


def test_a_set_of_ome_tiffs_in_a_folder_is_opened_as_the_image_it_is(tmp_path):
    make_set(tmp_path / "set")
    for path in (tmp_path / "set", tmp_path / "set" / "p_0.ome.tif"):
        assert np.array_equal(read_stack(path).data, STACK[:2])
    write_tiff(tmp_path / "set" / "p_2.ome.tif", STACK[2])
    with pytest.raises(InputError, match=r"to which 'p_2\.ome\.tif' does not belong"):
        read_stack(tmp_path / "set")


def make_set(folder):
    """Write an image of two planes in two files that name each other."""
    folder.mkdir()
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="p_{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(2)
    )
    for z in range(2):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
            f'SizeX="50" SizeY="40" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="c" SamplesPerPixel="1"/>{data}</Pixels>'
            "</Image></OME>"
        )
        tifffile.imwrite(folder / f"p_{z}.ome.tif", STACK[z], description=xml, metadata=None)


def test_a_folder_of_slices_has_no_recipe_is_one_image_and_one_level(sections):
    assert read_recipe(sections) is None
    assert not holds_labels(sections)
    assert [level.shape for level in read_levels(sections)] == [STACK.shape]
    assert images_to_read(sections) == (str(sections),)
    assert len(list_images(sections)) == 1
    with pytest.raises(SkipsegError, match="leave out the number"):
        read_stack(sections, image=1)


# --- names of files in what is said of slices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([SliceFault("empty", 1)], "Slice 1 (s_4.tif) is empty."),
        ([SliceFault("empty", 0), SliceFault("empty", 3)], "Slices 0 (s_2.tif) and 3 (s_6.tif) are empty."),
        (
            [SliceFault("noisy", n) for n in (1, 2, 3)],
            "Slices 1-3 (s_4.tif to s_6.tif) are far noisier than the others.",
        ),
        ([SliceFault("doubled", 2, other=1)], "Slice 2 (s_5.tif) equals slice 1 (s_4.tif)."),
        (
            [SliceFault("moved", 2, 30, other=1)],
            "From slice 2 (s_5.tif) on, the stack is shifted by about 30 pixels against slice 1 (s_4.tif).",
        ),
    ],
)
def test_what_is_said_of_slices_names_their_files(kinds, said):
    assert describe_faults(kinds, ("s_2.tif", "s_4.tif", "s_5.tif", "s_6.tif")) == (said,)


def test_a_folder_of_slices_names_the_files_of_its_slices_and_a_volume_does_not(tmp_path):
    names = [f"s_{number}.tif" for number in (1, 2, 4, 5, 6)]
    stack = read_stack(write_slices(tmp_path / "s", names))
    assert stack.slice_names == tuple(names)
    tifffile.imwrite(tmp_path / "volume.tif", STACK)
    assert read_stack(tmp_path / "volume.tif").slice_names == ()
