"""Constant areas without tissue are found, whatever value and shape they have; tissue of one value is none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_images import tissue
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import Normalization, measure, measure_greys
from napari_skipseg.images.intensity.padding import (
    REACH,
    REACH_Z,
    SQUARE_SIDE,
    fill_padding,
    find_mask,
    in_squares,
)
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

Values = NDArray[Any]


def nuclei(*shape: int, radius: int = 9, count: int = 20, seed: int = 0) -> Values:
    """Fluorescence: bright blurred nuclei over a background of 100 with noise, 16 bits."""
    random = np.random.default_rng(seed)
    image = np.zeros(shape)
    for centre in random.uniform(0, 1, (count, len(shape))) * shape:
        image[tuple(np.minimum(centre.astype(int), np.array(shape) - 1))] += random.uniform(0.5, 2.0)
    image = ndimage.gaussian_filter(image, radius / 2)
    return (100 + 3000 * image / image.max() + random.normal(0, 5, shape)).clip(0).astype(np.uint16)


def stack_of(values: Values, axes: str = "") -> Stack:
    return Stack(values, Space(axes or "TCZYX"[-values.ndim :]), name="it")


def framed(values: Values, border: int, value: float) -> Values:
    around = [(0, 0)] * (values.ndim - 2) + [(border, border)] * 2
    return np.pad(values, around, constant_values=value)


def is_close(measured: Normalization, wanted: Normalization) -> bool:
    return (
        abs(measured.mean - wanted.mean) < 0.05 * wanted.deviation
        and abs(measured.deviation / wanted.deviation - 1) < 0.03
    )


@pytest.mark.parametrize("border", [2, 5, 16, 64, 128])
@pytest.mark.parametrize("value", [0, 255, 128])
def test_the_grey_values_in_a_frame_are_those_without_it(border: int, value: int) -> None:
    inner = tissue(3, 160, 170)
    greys = measure_greys(stack_of(framed(inner, border, value)))
    assert greys.normalization.padding == (value,)
    assert is_close(greys.normalization, measure(stack_of(inner)))
    (told,) = greys.findings
    assert f"{border} pixels" in told


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "value"),
    [
        ("int8", 0.5, -64, -128),
        ("uint16", 10, 3000, 65535),
        ("int16", 10, -500, -32768),
        ("int32", 1000, 0, -1),
        ("float32", 1 / 255, 0, -9999.0),
        ("float32", 1 / 255, -0.5, 0.0),
        ("float64", 1, 0, -1e30),
        ("float32", 1, 0, np.nan),
        ("float64", 1, 0, np.inf),
    ],
)
def test_any_type_and_any_value_may_be_padding(dtype: str, scale: float, offset: float, value: float) -> None:
    inner = (tissue(2, 150, 150).astype(float) * scale + offset).astype(dtype)
    found = measure(stack_of(framed(inner, 40, value)))
    assert found.padding == ((value,) if np.isfinite(value) else (None,))
    assert is_close(found, measure(stack_of(inner)))


def test_padding_of_every_shape_is_left_out() -> None:
    inner = tissue(4, 200, 200)
    rows, columns = np.mgrid[:200, :200]
    masks = {
        "corner tile": (rows < 66) & (columns < 70),
        "round field of view": np.hypot(rows - 100, columns - 100) > 95,
        "oblique edge": rows + 0.2 * columns < 60,
        "one side": columns > 180,
    }
    for name, mask in masks.items():
        spoilt = np.where(mask, np.uint8(0), inner)
        found = measure(stack_of(spoilt))
        assert found.padding == (0,), name
        assert is_close(found, measure(stack_of(inner))), name
        assert np.mean(find_mask(spoilt[None], (0,)) == mask) > 0.995, name


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("degrees", [10, 37])
def test_the_corners_of_a_turned_stack_are_left_out(degrees: float, order: int) -> None:
    inner = tissue(3, 200, 200)
    turned = ndimage.rotate(inner, degrees, (2, 1), reshape=True, order=order, cval=0)
    found, wanted = measure(stack_of(turned)), measure(stack_of(inner))
    assert found.padding == (0,)
    assert abs(found.mean - wanted.mean) < 0.05 * wanted.deviation
    assert abs(found.deviation / wanted.deviation - 1) < 0.06  # interpolation takes noise away


@pytest.mark.parametrize(
    ("depth", "empty", "value"), [(5, [2], 0), (20, range(0, 20, 2), 255), (20, range(10), 128), (200, [7, 90, 150], 0)]
)
def test_empty_slices_are_left_out_however_many(depth: int, empty: Any, value: int) -> None:
    inner = tissue(depth, 64, 72)
    spoilt = inner.copy()
    spoilt[list(empty)] = value
    greys = measure_greys(stack_of(spoilt))
    assert greys.normalization.padding == (value,)
    assert is_close(greys.normalization, measure(stack_of(np.delete(inner, list(empty), axis=0))))
    assert any("empty" in told.lower() for told in greys.findings)


def test_a_stack_of_which_only_an_unsampled_slice_is_empty_has_padding() -> None:
    inner = tissue(150, 40, 40)
    plain = measure(stack_of(inner))
    for number in range(0, 150, 10):
        spoilt = inner.copy()
        spoilt[number] = 7
        assert measure(stack_of(spoilt)).padding == (7,)
    assert plain.padding == ()


def test_two_values_may_be_padding_at_once() -> None:
    spoilt = framed(tissue(3, 150, 150), 30, 0)
    spoilt[1, 60:120, 60:120] = 255
    found = measure(stack_of(spoilt))
    assert sorted(found.padding) == [0, 255]
    assert is_close(found, measure(stack_of(tissue(3, 150, 150))))


def test_a_frame_of_a_value_that_tissue_is_clipped_to_is_found() -> None:
    clipped = ((tissue(3, 200, 200).astype(float) - 110) * 3).clip(0, 255).astype(np.uint8)
    assert np.mean(clipped == 0) > 0.15
    assert measure(stack_of(clipped)).padding == ()
    assert measure(stack_of(framed(clipped, 40, 0))).padding == (0,)


@pytest.mark.parametrize("border", [30, 400])
def test_padding_of_large_slices_is_found_though_only_parts_are_measured(border: int) -> None:
    inner = np.tile(tissue(1, 400, 400), (1, 5, 5))
    found = measure(stack_of(framed(inner, border, 0)))
    assert found.padding == (0,)
    assert is_close(found, measure(stack_of(inner)))


def test_colour_images_are_padded_where_all_channels_are() -> None:
    colour = np.stack([tissue(160, 160, seed=number) for number in range(3)], axis=-1)
    spoilt = np.pad(colour, ((40, 40), (40, 40), (0, 0)))
    found = measure(stack_of(spoilt, "YXC"))
    assert found.padding == (0,)
    assert is_close(found, measure(stack_of(colour, "YXC")))
    blue = colour.copy()
    blue[..., :2] = 0
    assert measure(stack_of(blue, "YXC")) == Normalization(blue.mean(), pytest.approx(blue.std()))


def lumen() -> Values:
    """Saturated white areas, with the soft edges of a microscope's picture."""
    image = tissue(2, 256, 256).astype(float)
    rows, columns = np.mgrid[:256, :256]
    for y, x, radius in ((60, 70, 40), (180, 160, 55), (30, 230, 30)):
        image += 220 / (1 + np.exp((np.hypot(rows - y, columns - x) - radius) / 2.0))
    return image.clip(0, 255).astype(np.uint8)


def masked(values: Values) -> Values:
    """Small objects cut out of their background."""
    return np.where(ndimage.gaussian_filter(values.astype(float), 1) > 400, values, 0).astype(values.dtype)


CLEAN = {
    "tissue": lambda: tissue(3, 128, 128),
    "saturated lumen": lumen,
    "dark lumen": lambda: 255 - lumen(),
    "high contrast": lambda: ((tissue(3, 200, 200).astype(float) - 128) * 4 + 128).clip(0, 255).astype(np.uint8),
    "few grey levels": lambda: tissue(3, 200, 200) // 24,
    "smooth": lambda: ndimage.gaussian_filter(tissue(3, 200, 200), (0, 3, 3)),
    "nuclei": lambda: nuclei(24, 96, 96),
    "nuclei without background": lambda: (nuclei(24, 96, 96).astype(int) - 115).clip(0).astype(np.uint16),
    "smooth nuclei without background": lambda: (
        (ndimage.gaussian_filter(nuclei(24, 96, 96).astype(float), 1) - 110).clip(0).astype(np.uint16)
    ),
    "nuclei cut out": lambda: masked(nuclei(24, 96, 96)),
    "real nuclei without background": lambda: (nuclei(24, 96, 96) - 110.0).clip(0).astype(np.float32),
    "empty slices of such nuclei": lambda: np.concatenate(
        [np.zeros((8, 96, 96), np.uint16), (nuclei(24, 96, 96).astype(int) - 115).clip(0).astype(np.uint16)]
    ),
}


@pytest.mark.parametrize("make", CLEAN.values(), ids=CLEAN)
def test_an_image_without_padding_is_measured_as_a_whole(make: Any) -> None:
    values = make()
    greys = measure_greys(stack_of(values))
    normalization = greys.normalization
    assert normalization == Normalization(values.mean(dtype=float), values.std(dtype=float))
    assert greys.findings == ()


def test_constant_areas_can_be_kept_as_tissue() -> None:
    spoilt = framed(tissue(3, 100, 100), 40, 0)
    kept = measure(stack_of(spoilt), padding="none")
    assert kept == Normalization(spoilt.mean(), spoilt.std())
    with pytest.raises(InputError, match="NaN"):
        measure(stack_of(framed(tissue(3, 100, 100).astype(np.float32), 40, np.nan)), padding="none")


def test_stray_holes_are_no_padding() -> None:
    values = tissue(2, 60, 60).astype(np.float32)
    values[1, 20:24, 30:34] = np.nan
    with pytest.raises(InputError, match="NaN"):
        measure(stack_of(values))


def test_only_squares_of_the_value_are_padding() -> None:
    same = np.zeros((100, 100), bool)
    same[30 : 30 + SQUARE_SIDE, 30 : 30 + SQUARE_SIDE] = True
    same[60 : 60 + SQUARE_SIDE - 1, 60:90] = True
    same[0:2, 50:90] = True  # beyond the border all is set
    inside = in_squares(same)
    assert inside[30 : 30 + SQUARE_SIDE, 30 : 30 + SQUARE_SIDE].all()
    assert not inside[50:, :].any()
    assert inside[0:2, 50:90].all()


@pytest.mark.parametrize("noise", [0, 3])
def test_what_becomes_of_a_pixel_depends_on_its_surroundings_alone(noise: int) -> None:
    random = np.random.default_rng(3)
    values = tissue(6, 260, 300)
    for _ in range(25):
        z, y, x = random.integers(0, values.shape)
        hole = values[z, max(0, y - 30) : y + 30, max(0, x - 20) : x + 45]
        hole[...] = random.integers(0, noise + 1, hole.shape)
    values[3] = random.integers(0, noise + 1, values[3].shape)
    normalization = Normalization(128.0, 35.0, None, None, () if noise else (0.0,), flat=2.0 if noise else None)
    for across_slices in (False, True):
        pixels, mask = normalization.prepare(values[None], across_slices)
        assert mask is not None
        for z0, z1, y0, y1, x0, x1 in ((0, 6, 100, 150, 70, 170), (2, 5, 0, 40, 250, 300), (1, 4, 200, 260, 0, 90)):
            box = [(z0, z1), (y0, y1), (x0, x1)]
            reaches = (REACH_Z if across_slices else 0, REACH, REACH)
            wide = [
                (max(0, a - more), min(n, b + more)) for (a, b), more, n in zip(box, reaches, values.shape, strict=True)
            ]
            part, part_mask = normalization.prepare(values[None][(0, *(slice(*w) for w in wide))][None], across_slices)
            inner = tuple(slice(a - w[0], b - w[0]) for (a, b), w in zip(box, wide, strict=True))
            outer = tuple(slice(*side) for side in box)
            np.testing.assert_array_equal(part[(0, *inner)], pixels[(0, *outer)])
            if part_mask is not None:
                np.testing.assert_array_equal(part_mask[inner], mask[outer])


def test_beside_tissue_padding_is_filled_with_its_mirror_image() -> None:
    pixels = np.arange(1.0, 101.0, dtype=np.float32).reshape(1, 1, 100) + np.zeros((1, 3, 1), np.float32)
    mask = np.zeros((3, 100), bool)
    mask[:, 40:] = True
    fill_padding(pixels, mask)
    np.testing.assert_allclose(pixels[0, 1, 40:50], np.arange(40, 30, -1))
    assert (pixels[0, :, 70:] == 0).all()


def test_an_empty_slice_is_filled_from_its_neighbours_for_a_network_that_sees_them() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 5, 30, 30)).astype(np.float32)
    mask = np.zeros((5, 30, 30), bool)
    mask[2] = True
    alone, together = pixels.copy(), pixels.copy()
    fill_padding(alone, mask)
    fill_padding(together, mask, across_slices=True)
    assert (alone[0, 2] == 0).all()
    assert any(np.array_equal(together[0, 2], pixels[0, z]) for z in (1, 3))
    np.testing.assert_array_equal(together[0, [0, 1, 3, 4]], pixels[0, [0, 1, 3, 4]])


def _shaded(shape: tuple[int, ...]) -> Values:
    return np.broadcast_to(np.linspace(60, 180, shape[-1]), shape)


def _noisy(shape: tuple[int, ...], level: float, noise: float) -> Values:
    return np.random.default_rng(5).normal(level, noise, shape)


WITHOUT_STRUCTURE = {
    "the noise of a black camera": lambda shape: np.abs(_noisy(shape, 0, 1.2)),
    "grey with noise": lambda shape: _noisy(shape, 128, 3),
    "a shading": _shaded,
    "white after a lossy compression": lambda shape: _noisy(shape, 255, 1.5),
}


@pytest.mark.parametrize("make", WITHOUT_STRUCTURE.values(), ids=WITHOUT_STRUCTURE)
def test_a_frame_without_structure_is_left_out(make: Any) -> None:
    inner = tissue(3, 176, 176)
    image = make((3, 304, 304)).clip(0, 255).astype(np.uint8)
    image[:, 64:-64, 64:-64] = inner
    greys = measure_greys(stack_of(image))
    assert is_close(greys.normalization, measure(stack_of(inner)))
    assert any("noise or shading" in told for told in greys.findings)
    mask = greys.normalization.prepare(image[None])[1]
    assert mask is not None
    assert not mask[:, 66:-66, 66:-66].any()
    assert mask[:, :60].all()
    assert mask[..., -60:].all()


@pytest.mark.parametrize("make", WITHOUT_STRUCTURE.values(), ids=WITHOUT_STRUCTURE)
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_slice_without_structure_is_left_out(make: Any, number: int) -> None:
    image = tissue(5, 160, 176)
    whole = measure(stack_of(np.delete(image, number, axis=0)))
    image[number] = make((1, 160, 176)).clip(0, 255).astype(np.uint8)[0]
    found = measure(stack_of(image))
    assert is_close(found, whole)
    mask = found.prepare(image[None])[1]
    assert mask is not None
    assert mask.all((1, 2)).tolist() == [z == number for z in range(5)]


@pytest.mark.parametrize("share", [0.0005, 0.002])
def test_hot_pixels_in_a_frame_do_not_hide_it(share: float) -> None:
    inner = tissue(3, 180, 180).astype(np.uint16) + 300
    image = framed(inner, 60, 0)
    hot = np.random.default_rng(2).random(image.shape) < share
    image[hot] = 65535
    image[1] = np.where(hot[1], 65535, 0)  # an empty slice
    found = measure(stack_of(image))
    assert found.padding == (0,)
    assert is_close(found, measure(stack_of(inner[[0, 2]])))
    mask = found.prepare(image[None])[1]
    assert mask is not None
    assert mask[1].mean() > 0.99


@pytest.mark.parametrize(("bar", "text"), [(0, 255), (255, 0), (0, 65535)])
def test_text_in_a_data_bar_does_not_hide_the_bar(bar: int, text: int) -> None:
    inner = tissue(2, 200, 256).astype(np.uint16 if text > 255 else np.uint8)
    image = np.pad(inner, ((0, 0), (0, 40), (0, 0)), constant_values=bar)
    for x in range(10, 240, 9):
        image[:, 213:227, x : x + 5] = np.where(np.random.default_rng(x).random((14, 5)) < 0.5, text, bar)
    found = measure(stack_of(image))
    assert found.padding == (bar,)
    wanted = measure(stack_of(inner))
    assert abs(found.mean - wanted.mean) < 0.4 * wanted.deviation
    assert abs(found.deviation / wanted.deviation - 1) < 0.5  # the text is left


def test_three_values_may_be_padding_at_once() -> None:
    image = framed(tissue(3, 150, 150), 40, 0)
    image[:, :, -40:] = 255
    image[:, -40:] = 128
    assert sorted(measure(stack_of(image)).padding) == [0, 128, 255]


@pytest.mark.parametrize("share", [0.1, 0.05])
def test_a_slice_of_little_contrast_is_tissue(share: float) -> None:
    image = tissue(5, 160, 176).astype(np.float32)
    image[2] = (image[2] - 128) * share + 128
    for dtype in (np.float32, np.uint16):
        values = (image * 10).astype(dtype)
        assert measure(stack_of(values)) == Normalization(values.mean(dtype=float), values.std(dtype=float))
