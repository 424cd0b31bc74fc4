"""OME-Zarr comes in with its axes, voxel size and place, chunk by chunk; what is not an image gets one sentence."""

import json
import threading
from contextlib import suppress

import numpy as np
import pytest
import zarr

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.files import holds_labels, read_levels, read_recipe, read_stack

AXES = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]


def numbers(shape, dtype="uint16"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def move(*values):
    return {"type": "translation", "translation": list(values)}


SECTIONS = (scale(50, 4, 4.5),)


def make_store(path, values, axes=AXES, steps=SECTIONS, version="0.5", chunks=None, after=()):
    """Write `values` as the only level "0" of an image of such a version."""
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": list(steps)}]}
    multiscale |= {"coordinateTransformations": list(after)} if after else {}
    new = version >= "0.5"
    ome = {"version": version, "multiscales": [multiscale]} if new else None
    attributes = {"ome": ome} if new else {"multiscales": [multiscale | {"version": version}]}
    group = zarr.create_group(path, zarr_format=3 if new else 2, attributes=attributes, overwrite=True)
    array = group.create_array("0", shape=values.shape, dtype=values.dtype, chunks=chunks or values.shape)
    array[...] = values
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_give_values_axes_voxel_size_origin_and_unit(tmp_path, version):
    values = numbers((4, 30, 40))
    steps = (scale(50, 4, 4.5), move(100, -8, 9))
    path = make_store(tmp_path / "em.ome.zarr", values, steps=steps, version=version, chunks=(2, 16, 16))
    stack = read_stack(path)
    assert (stack.space.axes, stack.shape, stack.name, stack.space.unit) == ("ZYX", (4, 30, 40), "em", "nm")
    assert (stack.space.voxel_size, stack.space.origin) == ((50.0, 4.0, 4.5), (100.0, -8.0, 9.0))
    assert stack.data.dtype == np.uint16
    assert np.array_equal(stack.data, values)
    for key in (1, np.s_[..., 5], np.s_[::-1, 3:25:4, 39:2:-3], np.s_[2:2], np.s_[-1, ..., -1], np.s_[0, 0, 0]):
        assert np.array_equal(stack.data[key], values[key])
        assert np.shape(stack.data[key]) == np.shape(values[key])


def test_transformations_of_dataset_and_multiscale_are_composed_in_that_order(tmp_path):
    steps, after = (scale(1, 2, 3), move(10, 20, 30)), (scale(10, 10, 10), move(1, 1, 1))
    stack = read_stack(make_store(tmp_path / "a.zarr", numbers((2, 3, 4)), steps=steps, after=after))
    assert (stack.space.voxel_size, stack.space.origin) == ((10.0, 20.0, 30.0), (101.0, 201.0, 301.0))


def test_sizes_in_several_units_become_those_of_x(tmp_path):
    units = ("micrometer", "angstrom", "nanometer")
    axes = [{"name": axis, "type": "space", "unit": unit} for axis, unit in zip("zyx", units, strict=True)]
    steps = (scale(0.05, 40, 4), move(1, 10, 1))
    stack = read_stack(make_store(tmp_path / "a.zarr", numbers((2, 3, 4)), axes, steps))
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == (
        (50.0, 4.0, 4.0),
        "nm",
        (1000.0, 1.0, 1.0),
    )


def test_axes_are_known_by_type_and_those_of_length_1_are_left_out(tmp_path):
    kinds = [("when", "time"), ("c", "channel"), ("depth", "space"), ("row", "space"), ("col", "space")]
    axes = [{"name": name, "type": kind} for name, kind in kinds]
    path = make_store(tmp_path / "a.zarr", numbers((1, 2, 1, 5, 6)), axes, (scale(1, 1, 7, 2, 2),))
    stack = read_stack(path)
    assert (stack.space.axes, stack.shape, stack.space.voxel_size, stack.space.unit) == (
        "CYX",
        (2, 5, 6),
        (7.0, 2.0, 2.0),
        "pixel",
    )
    assert np.array_equal(stack.data[1], numbers((1, 2, 1, 5, 6))[0, 1, 0])
    assert read_stack(path, axes="TCZYX").shape == (1, 2, 1, 5, 6)
    assert read_stack(path, voxel_size=(1, 2, 3), unit="nm").space.voxel_size == (1, 2, 3)


def test_without_a_usable_scale_the_voxel_size_is_unknown(tmp_path):
    for number, steps in enumerate([(), (scale(0, 0, 0),), ({"type": "identity"},), (move(1, 1, 4),)]):
        stack = read_stack(make_store(tmp_path / f"{number}.zarr", numbers((2, 3, 4)), steps=steps))
        assert (stack.space.voxel_size, stack.space.unit) == ((1.0, 1.0, 1.0), "pixel")


def test_older_versions_name_axes_by_letters_or_not_at_all(tmp_path):
    path = make_store(tmp_path / "a.zarr", numbers((2, 3, 4)), ["z", "y", "x"], (), "0.3")
    assert read_stack(path).space.axes == "ZYX"
    path = make_store(tmp_path / "b.zarr", numbers((1, 2, 3, 4, 5)), None, (), "0.1")
    assert (read_stack(path).space.axes, read_stack(path).shape) == ("CZYX", (2, 3, 4, 5))


def test_a_plain_array_takes_its_dimension_names_or_the_usual_axes(tmp_path):
    for count, axes in {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}.items():
        zarr.create_array(tmp_path / f"{count}.zarr", shape=(2,) * count, dtype="u1")
        assert read_stack(tmp_path / f"{count}.zarr").space.axes == axes
    zarr.create_array(tmp_path / "named.zarr", shape=(2, 5, 6), dtype="u1", dimension_names=("c", "y", "x"))
    stack = read_stack(tmp_path / "named.zarr")
    assert (stack.space.axes, stack.space.unit) == ("CYX", "pixel")
    assert read_stack(tmp_path / "named.zarr", axes="TYX").space.axes == "TYX"


def test_a_path_inside_a_store_has_the_axes_and_place_of_its_image(tmp_path):
    store = make_store(tmp_path / "em.ome.zarr", numbers((2, 3, 4)))
    stack = read_stack(store / "0")
    assert (stack.name, stack.space.voxel_size, stack.space.unit) == ("em_0", (50.0, 4.0, 4.5), "nm")
    assert read_stack(store / "zarr.json").name == "em"
    with pytest.raises(FileError, match="does not exist"):
        read_stack(store / "7")


def test_of_what_bioformats2raw_made_the_first_image_is_read(tmp_path):
    zarr.create_group(tmp_path / "a.zarr", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    make_store(tmp_path / "a.zarr" / "0", numbers((2, 3, 4)), version="0.4")
    assert read_stack(tmp_path / "a.zarr").space.voxel_size == (50.0, 4.0, 4.5)


def test_plates_wells_and_groups_name_what_to_give_instead(tmp_path):
    plate = {"plate": {"wells": [{"path": "A/1"}]}}
    zarr.create_group(tmp_path / "p.zarr", attributes={"ome": {"version": "0.5", **plate}})
    with pytest.raises(FileError, match=r"is a plate of many images: give the path of one field, such as '.*A/1/0'"):
        read_stack(tmp_path / "p.zarr")
    zarr.create_group(tmp_path / "w.zarr", attributes={"ome": {"well": {"images": [{"path": "3"}]}}})
    with pytest.raises(FileError, match=r"is a well of several fields: give the path of one, such as '.*w\.zarr/3'"):
        read_stack(tmp_path / "w.zarr")
    make_store(tmp_path / "w.zarr" / "labels" / "cells", numbers((2, 3, 4)))
    zarr.create_group(tmp_path / "w.zarr" / "labels", attributes={"ome": {"labels": ["cells"]}})
    with pytest.raises(FileError, match=r"without an image of its own: give a path inside it, such as '.*cells'"):
        read_stack(tmp_path / "w.zarr" / "labels")


def test_levels_come_finest_first_and_labels_are_known(tmp_path):
    store = zarr.create_group(tmp_path / "a.zarr")
    sets = []
    for number in range(2):
        store.create_array(str(number), shape=(8 >> number, 8 >> number), dtype="u1")
        sets.append({"path": str(number), "coordinateTransformations": [scale(4 << number, 4 << number)]})
    image = {"multiscales": [{"axes": AXES[1:], "datasets": sets}], "version": "0.5", "image-label": {}}
    store.attrs["ome"] = image
    levels = read_levels(tmp_path / "a.zarr")
    assert [(level.shape, level.space.voxel_size) for level in levels] == [((8, 8), (1, 4, 4)), ((4, 4), (1, 8, 8))]
    assert holds_labels(tmp_path / "a.zarr")
    assert read_recipe(tmp_path / "a.zarr") is None


# --- only what is requested ------------------------------------------------------------------------------------------


def test_only_the_chunks_asked_for_are_read_and_a_missing_one_is_the_fill_value(tmp_path):
    values = numbers((4, 32, 32)) + 1
    store = make_store(tmp_path / "a.zarr", values, chunks=(1, 16, 16))
    for file in (store / "0" / "c").rglob("*"):
        if file.is_file() and file.relative_to(store / "0" / "c").as_posix() != "2/1/0":
            file.write_bytes(b"not to be read")
    stack = read_stack(store)
    assert np.array_equal(stack.read((2, slice(16, 32), slice(0, 16))), values[2, 16:, :16])
    (store / "0" / "c" / "2" / "1" / "0").unlink()
    assert not stack.read((2, slice(16, 32), slice(0, 16))).any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_damaged_chunk_is_named(tmp_path, version):
    values = numbers((4, 32, 32))
    store = make_store(tmp_path / "a.zarr", values, chunks=(1, 16, 16), version=version)
    key = "c/2/1/0" if version == "0.5" else "2.1.0"
    (store / "0" / key).write_bytes(b"\x00" * 7)
    stack = read_stack(store)
    assert np.array_equal(stack.data[:2], values[:2])
    with pytest.raises(FileError, match=rf"Chunk {key} of '.*0' is damaged and cannot be read: copy or export it") as e:
        stack.read((slice(None), slice(None, None, 2), slice(3, 20)))
    assert "\n" not in str(e.value)


def test_several_threads_read_at_once(tmp_path):
    values = numbers((16, 64, 64))
    stack = read_stack(make_store(tmp_path / "a.zarr", values, chunks=(2, 32, 32)))
    wrong = []

    def read(seed):
        generator = np.random.default_rng(seed)
        for _ in range(15):
            z, y = generator.integers(0, 12), generator.integers(0, 40)
            if not np.array_equal(
                stack.read((slice(z, z + 4), slice(y, y + 20), slice(None))), values[z : z + 4, y : y + 20]
            ):
                wrong.append((z, y))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- bad stores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint64", "float16", "float64", ">u2", ">f4"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_every_type_is_read_in_native_order(tmp_path, dtype, zarr_format):
    values = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    native = values.astype(values.dtype.newbyteorder("="))
    stored = values.dtype if zarr_format == 2 else native.dtype
    zarr.create_array(tmp_path / "a.zarr", shape=(3, 4, 5), dtype=stored, zarr_format=zarr_format)[...] = values
    stack = read_stack(tmp_path / "a.zarr")
    assert stack.data.dtype == native.dtype
    assert stack.data.dtype.isnative
    assert stack.data[...].dtype.isnative
    assert np.array_equal(stack.data, native)


def test_complex_numbers_objects_and_too_many_axes_get_a_sentence(tmp_path):
    zarr.create_array(tmp_path / "c.zarr", shape=(3, 4), dtype="complex64")
    with pytest.raises(InputError, match="contains complex numbers: save their magnitude"):
        read_stack(tmp_path / "c.zarr")
    zarr.create_array(tmp_path / "t.zarr", shape=(2,) * 10, dtype="u1")
    with pytest.raises(InputError, match=r"has 10 axes \(2 × .*\), at most 5 can be used .*: save one part of it"):
        read_stack(tmp_path / "t.zarr")
    zarr.create_array(tmp_path / "e.zarr", shape=(0, 4), dtype="u1")
    with pytest.raises(InputError, match="is empty"):
        read_stack(tmp_path / "e.zarr")
    zarr.create_array(tmp_path / "s.zarr", shape=(), dtype="u1")
    with pytest.raises(FileError, match="contains no image"):
        read_stack(tmp_path / "s.zarr")


@pytest.mark.parametrize(("dtype", "filters"), [("|u1", [{"id": "pickle", "protocol": 5}]), ("|O", None)])
def test_a_store_that_could_run_code_is_refused_before_a_chunk_is_read(tmp_path, dtype, filters):
    told = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": dtype, "fill_value": 0, "order": "C"}
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(told | {"filters": filters, "compressor": None}))
    with pytest.raises(FileError, match="contains Python objects, which may run code"):
        read_stack(tmp_path / "a.zarr")


def test_newer_versions_odd_transformations_and_paths_outside_are_refused(tmp_path):
    path = make_store(tmp_path / "new.zarr", numbers((2, 3, 4)), version="0.6.dev1")
    with pytest.raises(
        FileError, match=r"is OME-Zarr 0\.6\.dev1, which is not understood yet: give the path of its array"
    ):
        read_stack(path)
    assert read_stack(path / "0", axes="ZYX", voxel_size=(1, 2, 3), unit="nm").space.unit == "nm"
    turned = {"type": "rotation", "rotation": [[1, 0], [0, 1]]}
    with pytest.raises(FileError, match="places its voxels by 'rotation', which cannot be read"):
        read_stack(make_store(tmp_path / "turned.zarr", numbers((2, 3, 4)), steps=(turned,)))
    path = make_store(tmp_path / "out.zarr", numbers((2, 3, 4)))
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"path": "0"', '"path": "../x"'))
    with pytest.raises(FileError, match="points outside of itself"):
        read_stack(path)
    with pytest.raises(FileError, match="is an address, and nothing is downloaded: copy the image here"):
        read_stack("https://somewhere.org/em.ome.zarr")
    with pytest.raises(FileError, match="does not exist: check the name"):
        read_stack(tmp_path / "missing.ome.zarr")


def test_an_image_placed_by_a_rotation_is_read_by_the_path_of_its_array(tmp_path):
    turned = {"type": "affine", "affine": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}
    path = make_store(tmp_path / "turned.zarr", numbers((2, 3, 4)), steps=(turned,))
    with pytest.raises(FileError, match=r"'affine'.*turned\.zarr/0'"):
        read_stack(path)
    stack = read_stack(path / "0", axes="ZYX", voxel_size=(50, 4, 4), unit="nm")
    assert np.array_equal(stack.data, numbers((2, 3, 4)))


@pytest.mark.parametrize("version", ["latest", "v5", "", "1.0", "0.5.2", "0.4"])
def test_a_version_that_is_no_number_or_new_gets_a_sentence(tmp_path, version):
    path = make_store(tmp_path / "a.zarr", numbers((2, 3, 4)))
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"0.5"', f'"{version}"'))
    if version in ("", "0.5.2", "0.4"):
        assert read_stack(path).space.unit == "nm"
        return
    with pytest.raises(FileError, match="not understood yet: give the path of its array"):
        read_stack(path)


@pytest.mark.parametrize(
    "steps",
    [
        (scale(50, 4),),
        (scale(None, 4, 4),),
        (scale("fifty", 4, "four"),),
        (scale(50, 4, 4), move(1, 2)),
        ({"type": "scale", "scale": 4},),
    ],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_scale_that_makes_no_sense_is_noted_and_a_user_s_counts(tmp_path, steps, version):
    path = make_store(tmp_path / "a.zarr", numbers((2, 3, 4)), steps=steps, version=version)
    stack = read_stack(path)
    assert (stack.space.voxel_size, stack.space.unit) == ((1, 1, 1), "pixel")
    assert any("makes no sense" in note for note in stack.notes)
    stack = read_stack(path, voxel_size=(50, 4, 4), unit="nm")
    assert (stack.space.voxel_size, stack.notes) == ((50, 4, 4), ())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_level_is_read_wherever_it_stands(tmp_path, version):
    values = numbers((2, 8, 12))
    path = make_store(tmp_path / "a.zarr", values[:, ::2, ::2], steps=(scale(50, 8, 8),), version=version)
    group = zarr.open_group(path)
    group.create_array("fine", data=values)
    ome = group.attrs["ome"] if version == "0.5" else {"multiscales": group.attrs["multiscales"]}
    ome["multiscales"][0]["datasets"].append({"path": "fine", "coordinateTransformations": [scale(50, 4, 4)]})
    group.attrs.update({"ome": ome} if version == "0.5" else ome)
    assert np.array_equal(read_stack(path).data, values)
    assert [level.shape for level in read_levels(path)] == [(2, 8, 12), (2, 4, 6)]
    assert read_stack(path).space.voxel_size == (50, 4, 4)


@pytest.mark.parametrize(
    ("attributes", "result"),
    [
        ({"resolution": [50, 4, 4], "units": ["nm", "nm", "nm"], "offset": [100, 8, 0]}, ((50, 4, 4), "nm")),
        ({"voxel_size": [50, 4, 4], "units": "nm"}, ((50, 4, 4), "nm")),
        ({"resolution": [50, 4, 4]}, ((50, 4, 4), "pixel")),
        ({"resolution": [50, 4]}, ((50, 50, 4), "pixel")),
        ({"resolution": "50 nm"}, ((1, 1, 1), "pixel")),
        ({"resolution": [50, 4, 4, 4]}, ((1, 1, 1), "pixel")),
        ({"resolution": ["a", "b", "c"]}, ((1, 1, 1), "pixel")),
    ],
)
def test_a_plain_array_may_say_its_resolution(tmp_path, attributes, result):
    zarr.create_array(tmp_path / "a.zarr", data=numbers((2, 3, 4)), attributes=attributes)
    stack = read_stack(tmp_path / "a.zarr")
    assert (stack.space.voxel_size, stack.space.unit) == result
    assert stack.space.origin == tuple(attributes.get("offset", (0, 0, 0)))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_codec_that_is_not_known_is_named_and_nothing_is_called_damaged(tmp_path, zarr_format):
    zarr.create_array(tmp_path / "a.zarr", data=numbers((2, 3, 4)), zarr_format=zarr_format)
    file = tmp_path / "a.zarr" / ("zarr.json" if zarr_format == 3 else ".zarray")
    file.write_text(file.read_text().replace('"zstd"', '"imagecodecs_jpegxl"'))
    with pytest.raises(FileError, match=r"imagecodecs_jpegxl.*store it with") as caught:
        read_stack(tmp_path / "a.zarr")
    assert "damaged" not in str(caught.value)


def test_a_huge_claim_costs_nothing_until_it_is_read_and_then_gets_a_sentence(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(10**6, 10**6, 10**6), chunks=(64, 64, 64), dtype="f4")
    stack = read_stack(tmp_path / "a.zarr")
    assert not stack.read((5, slice(0, 9), slice(0, 9))).any()
    with pytest.raises(FileError, match="needs more memory than there is: read a smaller part"):
        stack.read((...,))


def test_broken_metadata_raise_nothing_but_our_errors(tmp_path):
    path = make_store(tmp_path / "a.zarr", numbers((2, 3, 4)))
    chance = np.random.default_rng(0)
    for file in (path / "zarr.json", path / "0" / "zarr.json"):
        whole = file.read_bytes()
        for number in range(80):
            broken = bytearray(whole)
            for place in chance.integers(0, len(whole), 3):
                broken[place] = chance.integers(32, 127)
            file.write_bytes(broken[: len(broken) // 2] if number % 8 == 0 else bytes(broken))
            with suppress(SkipsegError):
                read_stack(path).read((0, 0, 0))
        file.write_bytes(whole)
