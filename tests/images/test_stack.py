"""A stack knows its axes, gives its parts without reading the rest, and refuses what makes no sense."""

import numpy as np
import pytest

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space, check_axes
from napari_skipseg.images.stack import Stack, complete_index


class Watched:
    """An array that notes how it was looked at."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.seen = values, values.shape, values.dtype, []

    def __getitem__(self, key):
        self.seen.append(key)
        return self.values[key]


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


def test_slices_of_a_series_are_its_planes_in_order():
    stack = Stack(numbered(2, 3, 4, 5), Space("TZYX"))
    indices = list(stack.slices("YX"))
    assert indices == [(t, z, slice(None), slice(None)) for t in range(2) for z in range(3)]
    planes = np.stack([stack.read(index) for index in indices])
    assert np.array_equal(planes.reshape(stack.shape), stack.data)


def test_slices_may_hold_volumes_or_stand_behind_the_space():
    assert list(Stack(numbered(2, 3, 4, 5), Space("TZYX")).slices("ZYX")) == [
        (t, slice(None), slice(None), slice(None)) for t in range(2)
    ]
    assert list(Stack(numbered(4, 5, 3), Space("YXC")).slices("YX")) == [
        (slice(None), slice(None), c) for c in range(3)
    ]
    assert list(Stack(numbered(4, 5), Space("YX")).slices("YX")) == [(slice(None), slice(None))]


@pytest.mark.parametrize(("axes", "position"), [("CZYX", 0), ("ZCYX", 1), ("ZYXC", 3)])
def test_a_channel_is_that_part_of_the_array_wherever_its_axis_stands(axes, position):
    values = numbered(3, 3, 3, 3)
    channel = Stack(values, Space(axes, (50, 4, 4), "nm")).channel(2)
    expected = np.take(values, 2, axis=position)
    assert channel.space.axes == "ZYX"
    assert (channel.space.voxel_size, channel.space.unit) == ((50, 4, 4), "nm")
    assert np.array_equal(channel.data, expected)
    assert np.array_equal(channel.data[1], expected[1])
    assert np.array_equal(channel.data[..., -1], expected[..., -1])
    assert np.array_equal(channel.data[1:, ..., :2], expected[1:, ..., :2])


def test_a_channel_reads_only_what_is_looked_at():
    watched = Watched(numbered(2, 6, 7, 8))
    channel = Stack(watched, Space("CZYX")).channel(1)
    assert watched.seen == []
    assert channel.read((3, slice(0, 2), slice(None))).shape == (2, 8)
    assert watched.seen == [(1, 3, slice(0, 2), slice(None))]


def test_a_stack_without_channels_is_its_own_channel():
    stack = Stack(numbered(4, 5), Space("YX"))
    assert stack.channel(0) is stack
    assert stack.channel(7) is stack


def test_lengths_and_space():
    stack = Stack(numbered(2, 3, 4, 5), Space("TCYX"))
    assert [stack.length(axis) for axis in "TCZYX"] == [2, 3, 1, 4, 5]
    assert stack.space.spatial_axes == "YX"
    assert Stack(numbered(3, 4, 5), Space("ZYX")).space.spatial_axes == "ZYX"


@pytest.mark.parametrize(
    ("axes", "dimensions", "message"),
    [
        ("QYX", 3, "The axes 'QYX' have unknown letters (Q): use T, C, Z, Y, X."),
        ("zyx", 3, "The axes 'zyx' have unknown letters (x, y, z): use T, C, Z, Y, X."),
        ("YYX", 3, "The axes 'YYX' name an axis twice."),
        ("YX", 3, "The axes 'YX' name 2 dimensions, the image has 3."),
        ("TC", 2, "The axes 'TC' lack Y or X: an image needs both."),
        ("XYZ", 3, "The axes 'XYZ' are in a different order than Z, Y, X: transpose the image."),
        ("YXZ", 3, "The axes 'YXZ' are in a different order than Z, Y, X: transpose the image."),
    ],
)
def test_wrong_axes_are_refused_in_one_sentence(axes, dimensions, message):
    with pytest.raises(InputError) as error:
        check_axes(axes, dimensions)
    assert str(error.value) == message


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TZYX", "CYX", "YXC", "TCZYX", "CTYX", "ZYXC"])
def test_right_axes_pass(axes):
    check_axes(axes, len(axes))


@pytest.mark.parametrize("size", [(0, 1, 1), (1, -4, 4), (1, np.nan, 1), (1, np.inf, 1), (4, 4)])
def test_an_impossible_voxel_size_is_refused(size):
    with pytest.raises(InputError, match="give three positive numbers"):
        Stack(numbered(2, 2), Space("YX", size))


@pytest.mark.parametrize("origin", [(0, np.nan, 0), (0, 0)])
def test_an_impossible_origin_is_refused(origin):
    with pytest.raises(InputError, match="give three finite numbers"):
        Stack(numbered(2, 2), Space("YX", origin=origin))


def test_an_empty_image_and_a_missing_channel_are_refused():
    with pytest.raises(InputError, match=r"'image' is empty: its shape is \(0, 5\)"):
        Stack(np.zeros((0, 5)), Space("YX"))
    with pytest.raises(InputError, match="Channel 3 does not exist: 'image' has channels 0 to 2"):
        Stack(numbered(3, 4, 5), Space("CYX")).channel(3)
    with pytest.raises(InputError, match="Channel -1 does not exist"):
        Stack(numbered(3, 4, 5), Space("CYX")).channel(-1)


@pytest.mark.parametrize("values", [np.zeros((2, 2), complex), np.array([["a", "b"]])])
def test_only_numbers_can_be_read(values):
    with pytest.raises(InputError, match="convert it to 8-bit"):
        Stack(values, Space("YX")).read((slice(None), slice(None)))


def test_an_index_is_completed_as_numpy_understands_it():
    everything = slice(None)
    assert complete_index(2, (3, 4, 5)) == (2, everything, everything)
    assert complete_index(-1, (3, 4)) == (2, everything)
    assert complete_index(..., (3, 4)) == (everything, everything)
    assert complete_index((..., np.int64(1)), (3, 4, 5)) == (everything, everything, 1)
    assert complete_index((1, ..., slice(2)), (3, 4, 5)) == (1, everything, slice(2))
    assert complete_index((0, ..., 0), (3, 4)) == (0, 0)


@pytest.mark.parametrize("key", [3, -4, (0, 0, 0), (..., ...), None, True, ([0, 1],), 1.0])
def test_what_is_no_basic_index_is_an_index_error(key):
    with pytest.raises(IndexError):
        complete_index(key, (3, 4))


def test_a_stack_says_where_it_lies_as_scripts_ask_for_it():
    stack = Stack(np.zeros((2, 3, 4)), Space("ZYX", (50, 4, 4), "nm", (100, 8, 0)))
    assert (stack.axes, stack.voxel_size, stack.unit, stack.origin) == ("ZYX", (50, 4, 4), "nm", (100, 8, 0))
