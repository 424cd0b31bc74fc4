"""Where an image lies: the one statement of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

SECTIONS = Space("CZYX", (50.0, 4.0, 8.0), "nm", (100.0, 20.0, 30.0))


def test_numbers_and_units_in_any_form_become_the_same_value() -> None:
    given = Space("YX", np.array([50, 4, 4], np.float32), "micron", [0, 1, 2])  # type: ignore[arg-type]
    assert given == Space("YX", (50.0, 4.0, 4.0), "µm", (0.0, 1.0, 2.0))
    assert {type(number) for number in (*given.voxel_size, *given.origin)} == {float}
    assert hash(given) == hash(replace(given))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"axes": "ZZYX"}, "twice"),
        ({"axes": "ZX"}, "lack Y or X"),
        ({"axes": "XYZ"}, "transpose"),
        ({"axes": "QYX"}, "unknown letters"),
        ({"voxel_size": (0.0, 4.0, 4.0)}, "voxel size"),
        ({"voxel_size": (4.0, 4.0)}, "voxel size"),
        ({"voxel_size": (1.0, float("nan"), 1.0)}, "voxel size"),
        ({"origin": (0.0, float("inf"), 0.0)}, "origin"),
        ({"unit": "parsec"}, "unit of length"),
    ],
)
def test_an_impossible_place_is_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Space(**({"axes": "ZYX"} | options))  # type: ignore[arg-type]


def test_size_and_origin_along_an_axis() -> None:
    assert [SECTIONS.size_along(axis) for axis in "TCZYX"] == [1.0, 1.0, 50.0, 4.0, 8.0]
    assert [SECTIONS.origin_along(axis) for axis in "TCZYX"] == [0.0, 0.0, 100.0, 20.0, 30.0]
    assert (SECTIONS.spatial_axes, Space("TYXC").spatial_axes) == ("ZYX", "YX")
    assert (SECTIONS.has_size, Space("YX", (50.0, 4.0, 4.0)).has_size) == (True, False)


def test_other_axes_leave_the_place() -> None:
    assert SECTIONS.without("C") == replace(SECTIONS, axes="ZYX")
    assert SECTIONS.without("T") == SECTIONS
    assert SECTIONS.with_axes("TZYXC") == replace(SECTIONS, axes="TZYXC")
    with pytest.raises(InputError):
        SECTIONS.without("X")


@pytest.mark.parametrize("factors", [{"Y": 2, "X": 4}, {"Z": 3.0}, {"C": 5}, {}])
def test_coarser_voxels_lie_over_those_they_stand_for(factors: dict[str, float]) -> None:
    coarse = SECTIONS.scaled(factors)
    for axis in "ZYX":
        step, side = factors.get(axis, 1), SECTIONS.size_along(axis)
        assert coarse.size_along(axis) == side * step
        corner = SECTIONS.origin_along(axis) - side / 2
        assert coarse.origin_along(axis) - coarse.size_along(axis) / 2 == pytest.approx(corner)
    assert (coarse.axes, coarse.unit) == (SECTIONS.axes, SECTIONS.unit)


def test_a_part_begins_where_its_first_voxel_lies() -> None:
    assert SECTIONS.shifted({"Z": 2, "X": -1, "C": 3}).origin == (200.0, 20.0, 22.0)
    assert SECTIONS.shifted({"Y": 3}).shifted({"Y": -3}) == SECTIONS


@pytest.mark.parametrize(
    ("unit", "origin"),
    [("nm", (100.0, 20.0, 30.0)), ("um", (0.1, 0.02, 0.03)), ("pixel", (2.0, 10.0, 7.5))],
)
def test_another_voxel_size_keeps_the_first_voxel(unit: str, origin: tuple[float, float, float]) -> None:
    resized = SECTIONS.resized((1.0, 2.0, 2.0), unit)
    assert (resized.voxel_size, resized.origin) == ((1.0, 2.0, 2.0), origin)


def test_a_voxel_size_in_another_unit_is_exact() -> None:
    assert Space("YX", (0.05, 0.004, 0.004), "µm").voxel_size_in("nm") == (50.0, 4.0, 4.0)
    for space, unit in ((Space("YX"), "nm"), (SECTIONS, "pixel")):
        with pytest.raises(ValueError, match="cannot be converted"):
            space.voxel_size_in(unit)


def test_it_survives_json_and_knows_no_other_keys() -> None:
    adapter = TypeAdapter(Space)
    assert adapter.validate_json(adapter.dump_json(SECTIONS)) == SECTIONS
    with pytest.raises(ValidationError):
        adapter.validate_python({"axes": "YX", "scale": 2})
    with pytest.raises(InputError):
        adapter.validate_python({"axes": "YX", "voxel_size": (0, 1, 1)})


def test_axes_alone_are_a_space_of_unknown_size():
    assert Stack(np.zeros((2, 3, 4), np.uint8), "ZYX").space == Space("ZYX")
