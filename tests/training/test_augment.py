"""Augmentation: geometry for image and labels together, then grey values."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline

from napari_skipseg.training import patches
from napari_skipseg.training.augment import (
    blur,
    draw_matrix,
    draw_warp,
    resample,
    sampling_grid,
    spline_basis,
    vary_greys,
)
from napari_skipseg.training.patches import LabelledImage, draw_sample
from napari_skipseg.training.settings import AUGMENTATIONS, Augmentation

NOTHING = AUGMENTATIONS["none"]
DROZDZAL = AUGMENTATIONS["drozdzal"]
FROM_OLD = [
    ((24, 32), [-0.2204, -0.353, -0.4047, -0.6208], [0, 2, 2, 1, 0, -1, 1, 0, 2, 1, 2, 1]),
    ((4, 16, 16), [-0.4067, -0.1336, 0.2579, -0.0742], [-1, -1, -1, -1, 0, -1, 1, 2, 2, -1, 1, 1]),
]
"""What 0.1.0 drew: some grey values and labels of a sample."""
PATCHES = {2: (24, 32), 3: (8, 16, 24)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def moved_only(**options):
    """Augmentation that leaves grey values alone."""
    return Augmentation(gain=0, offset=0, noise=0, blur=0, **options)


def random_run(shape=(6, 40, 50), seed=0, channels=1):
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(channels, *shape)).astype(np.float32)
    return LabelledImage(image, generator.integers(-1, 3, shape, dtype=np.int16))


def blocks(shape=(24, 96, 96)):
    """An image equal to its labels: random blocks of 12 voxels a side."""
    coarse = np.random.default_rng(0).integers(0, 3, [length // 12 for length in shape], dtype=np.int16)
    labels = coarse.repeat(12, 0).repeat(12, 1).repeat(12, 2)
    return LabelledImage(labels[None].astype(np.float32), labels)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_augmentation_gives_image_and_labels_back(dimensions):
    patch = PATCHES[dimensions]
    image, labels = torch.randn(2, *patch), torch.randint(-1, 3, patch, dtype=torch.int16)
    centre = torch.tensor([(length - 1) / 2 for length in patch])
    grid = sampling_grid(NOTHING, patch, centre, seeded())
    same, same_labels = resample(image, labels, grid)
    assert torch.allclose(same, image, atol=1e-4)
    assert torch.equal(same_labels, labels)
    assert same_labels.dtype == torch.int16
    assert torch.equal(vary_greys(NOTHING, image, seeded()), image)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("number", range(5))
def test_without_augmentation_a_sample_is_a_part_of_the_stack(dimensions, number):
    run = random_run(channels=2)
    patch = (16, 20) if dimensions == 2 else (3, 16, 20)
    image, labels = (tensor.numpy() for tensor in draw_sample((run,), patch, NOTHING, 0, number))
    deep = (1,) * (3 - dimensions) + patch
    parts = np.lib.stride_tricks.sliding_window_view(run.target, deep).reshape(-1, *patch)
    images = np.lib.stride_tricks.sliding_window_view(run.image, (1, *deep)).reshape(2, -1, *patch)
    found = np.flatnonzero((parts == labels).all(tuple(range(1, dimensions + 1))))
    assert len(found) == 1
    assert np.allclose(images[:, found[0]], image, atol=1e-4)


def test_a_patch_larger_than_the_stack_is_filled_by_reflection():
    run = random_run((2, 9, 12))
    image, labels = draw_sample((run,), (15, 16), NOTHING, 0, 0)
    assert image.shape == (1, 15, 16)
    inner = labels[3:12, 2:14].numpy()
    assert any(np.array_equal(inner, run.target[z]) for z in range(2))
    outer = np.pad(inner, ((3, 3), (2, 2)), mode="symmetric")
    assert np.array_equal(labels.numpy(), outer)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_flips_and_swaps_give_one_of_the_symmetries_exactly(dimensions):
    side = 8
    options = Augmentation(True, True, 0, 0, 0, 3, 0, 0, 0, 0, 0)
    labels = torch.arange(side**dimensions).reshape([side] * dimensions)
    centre = torch.full((dimensions,), (side - 1) / 2)
    seen = set()
    for seed in range(40):
        grid = sampling_grid(options, (side,) * dimensions, centre, seeded(seed))
        image, moved = resample(labels[None].float(), labels, grid)
        assert torch.equal(moved.flatten().sort().values, labels.flatten())
        assert torch.allclose(image[0], moved.float(), atol=1e-2)
        seen.add(tuple(moved.flatten()[:3].tolist()))
    assert len(seen) == 8 if dimensions == 2 else len(seen) > 15


def waves(shape=(20, 80, 80)):
    """A smooth image of wavelengths of about 30 voxels, and the labels 0, 5, 9 that its values are cut into."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 8, mode="reflect")
    image = (image / image.std()).astype(np.float32)
    return LabelledImage(image[None], np.array([0, 5, 9], np.int16)[np.digitize(image, (-0.4, 0.5))])


@pytest.mark.parametrize("patch", [(40, 48), (12, 32, 40)])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("options", [DROZDZAL, moved_only(swap_axes=True, shear=0.41)], ids=["drozdzal", "swapped"])
def test_labels_cut_from_an_image_are_those_cut_from_the_moved_image(patch, number, options):
    run = waves()
    image, labels = (tensor.numpy() for tensor in draw_sample((run,), patch, options, 1, number))
    assert set(np.unique(labels)) <= {0, 5, 9}
    assert len(np.unique(labels)) > 1
    assert labels.dtype == np.int16
    edge = np.minimum(np.abs(image[0] + 0.4), np.abs(image[0] - 0.5)) < 0.2  # nearest is half a voxel off linear
    assert edge.mean() < 0.6
    assert np.array_equal(labels[~edge], np.array([0, 5, 9])[np.digitize(image[0], (-0.4, 0.5))][~edge])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_moving_is_that_of_scipy_linear_and_nearest_mirrored_at_the_border(dimensions, seed):
    shape = PATCHES[dimensions]
    image, labels = torch.randn(1, *shape, generator=seeded(9)), torch.arange(math.prod(shape)).reshape(shape) % 1000
    centre = torch.tensor([(length - 1) / 2 for length in shape])
    options = moved_only(swap_axes=True, rotation=25, shear=0.41, warp_sigma=6)
    grid = sampling_grid(options, shape, centre, seeded(seed))
    assert (grid < 0).any()
    moved, moved_labels = resample(image, labels, grid)
    places = grid.movedim(-1, 0).numpy()
    linear = ndimage.map_coordinates(image[0].numpy(), places, order=1, mode="reflect")
    assert np.allclose(moved[0], linear, atol=1e-4)
    nearest = ndimage.map_coordinates(labels.numpy(), places, order=0, mode="reflect")
    assert (moved_labels.numpy() == nearest).mean() > 0.999  # but for places half-way between two voxels


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_without_a_warp_the_moving_is_scipys_affine_transform(dimensions, seed):
    shape = PATCHES[dimensions]
    image, labels = torch.randn(1, *shape, generator=seeded(9)), torch.zeros(shape)
    centre = torch.tensor([(length - 1) / 2 for length in shape])
    options = moved_only(swap_axes=True, rotation=25, scale=0.2, shear=0.41, warp_sigma=0)
    moved, _ = resample(image, labels, sampling_grid(options, shape, centre, seeded(seed)))
    generator = seeded(seed)
    draw_warp(options, shape, generator)
    matrix = draw_matrix(options, dimensions, generator).double()
    offset = centre - matrix @ centre.double()
    expected = ndimage.affine_transform(image[0].numpy(), matrix.numpy(), offset.numpy(), order=1, mode="reflect")
    assert np.allclose(moved[0], expected, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("number", range(4))
def test_image_and_labels_move_together(dimensions, number):
    patch = (48, 48) if dimensions == 2 else (16, 32, 32)
    options = moved_only(swap_axes=dimensions == 2, rotation=180, shear=0.2, warp_sigma=2)
    image, labels = draw_sample((blocks(),), patch, options, 0, number)
    pure = (image[0] - image[0].round()).abs() < 1e-3  # away from edges, or an edge met exactly
    assert pure.float().mean() > 0.4
    agree = image[0].round().to(labels.dtype) == labels
    assert agree[pure].float().mean() > 0.98
    assert agree.float().mean() > 0.85


def test_rotation_turns_about_the_middle_by_the_drawn_angle():
    matrix = draw_matrix(moved_only(flips=False, rotation=30, scale=0, shear=0, warp_sigma=0), 3, seeded(5))
    assert matrix[0].tolist() == [1, 0, 0]
    assert matrix[:, 0].tolist() == [1, 0, 0]
    turn = matrix[1:, 1:]
    assert torch.allclose(turn @ turn.T, torch.eye(2), atol=1e-6)
    assert abs(math.degrees(math.atan2(turn[1, 0], turn[0, 0]))) <= 30


def test_the_shear_leans_one_axis_by_its_angle_and_is_that_of_keras_but_for_the_length():
    options = moved_only(flips=False, rotation=0, scale=0, shear=0.41, warp_sigma=0)
    angles = []
    for seed in range(50):
        matrix = draw_matrix(options, 2, seeded(seed)).numpy()
        angle = math.atan(matrix[0, 1])
        keras = np.array([[1, -math.sin(-angle)], [0, math.cos(-angle)]])
        assert np.allclose(matrix @ np.diag([1, math.cos(angle)]), keras, atol=1e-6)
        angles.append(angle)
    assert -0.41 <= min(angles) < -0.35
    assert 0.35 < max(angles) <= 0.41


@pytest.mark.parametrize("scale", [0.0, 0.15, 0.5])
def test_scale_lies_within_its_factor_and_shear_keeps_areas(scale):
    options = moved_only(rotation=180, scale=scale, shear=0.4)
    areas = [abs(float(torch.linalg.det(draw_matrix(options, 2, seeded(seed))))) for seed in range(50)]
    assert all((1 + scale) ** -2 - 1e-5 <= area <= (1 + scale) ** 2 + 1e-5 for area in areas)


@pytest.mark.parametrize(("length", "spans"), [(2, 1), (7, 3), (64, 3), (65, 5)])
def test_spline_weights_sum_to_one_and_are_those_of_a_cubic_b_spline(length, spans):
    basis = spline_basis(length, spans)
    assert basis.shape == (length, spans + 3)
    assert torch.allclose(basis.sum(1), torch.ones(length), atol=1e-5)
    assert basis.min() >= 0
    assert basis[0, :4].tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6, 0], abs=1e-6)
    assert basis[-1, -3:].tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6], abs=1e-5)


def test_spline_weights_reproduce_straight_lines():
    knots = torch.arange(-1, 5).float()
    assert torch.allclose(spline_basis(31, 3) @ knots, torch.linspace(0, 3, 31), atol=1e-5)


def test_warps_are_anchored_at_their_outermost_control_points():
    options = Augmentation(warp_sigma=10, warp_grid=3)
    shape = (33, 49)
    fields = torch.stack([draw_warp(options, shape, seeded(seed)) for seed in range(400)])
    assert fields.shape == (400, 2, *shape)
    free = [(spline_basis(length, 3)[:, 1:-1] ** 2).sum(1) for length in shape]
    expected = 10 * (free[0][:, None] * free[1][None]).sqrt()
    assert torch.allclose(fields.std((0, 1)), expected, rtol=0.15)


@pytest.mark.parametrize("shape", [(24, 32), (9, 24, 32)])
def test_the_papers_warp_is_a_cubic_b_spline_of_6_control_points_a_side_the_outer_ones_at_rest(shape):
    drawn = torch.randn((len(shape), *[6] * len(shape)), generator=seeded(4)).double().numpy() * 10
    controls = np.zeros_like(drawn)
    inner = (slice(None), *[slice(1, 5)] * len(shape))
    controls[inner] = drawn[inner]
    for axis, length in enumerate(shape, start=1):
        spline = BSpline(np.arange(-3, 7), controls, 3, axis=axis)
        controls = spline(np.linspace(0, 3, length))
    assert np.allclose(draw_warp(DROZDZAL, shape, seeded(4)), controls, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_warp_of_sigma_0_moves_nothing(dimensions):
    assert not draw_warp(Augmentation(warp_sigma=0), PATCHES[dimensions], seeded()).any()


def test_the_papers_augmentation_leaves_grey_values_alone_and_sizes_too():
    image = torch.randn(1, 16, 16, generator=seeded())
    assert torch.equal(vary_greys(DROZDZAL, image, seeded()), image)
    areas = [abs(float(torch.linalg.det(draw_matrix(DROZDZAL, 2, seeded(seed))))) for seed in range(20)]
    assert np.allclose(areas, 1, atol=1e-5)


def test_the_default_is_among_the_named_ones_and_nothing_else_has_its_name():
    assert AUGMENTATIONS["default"] == Augmentation()
    assert len(set(AUGMENTATIONS.values())) == len(AUGMENTATIONS)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="an older torch draws other numbers"
)
@pytest.mark.parametrize(("patch", "values", "labels"), FROM_OLD)
def test_the_default_draws_what_it_always_drew(patch, values, labels):
    image, drawn = draw_sample((random_run((9, 60, 70)),), patch, Augmentation(), 3, 17)
    assert image.flatten()[::150][:4].tolist() == pytest.approx(values, abs=1e-3)
    assert drawn.flatten()[::40][:12].tolist() == labels


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_sample_is_a_function_of_seed_and_number(dimensions):
    runs = (random_run(), random_run(seed=1))
    patch = PATCHES[dimensions] if dimensions == 2 else (4, 16, 16)

    def draw(seed, number):
        torch.manual_seed(np.random.default_rng().integers(1000))  # the global state does not matter
        return draw_sample(runs, patch, Augmentation(), seed, number)

    image, labels = draw(3, 17)
    again, labels_again = draw(3, 17)
    assert torch.equal(image, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(image, draw(3, 18)[0])
    assert not torch.equal(image, draw(4, 17)[0])


def test_runs_are_drawn_by_their_size(monkeypatch):
    small, large = (LabelledImage(np.full((1, depth, 16, 16), depth, np.float32), np.zeros((depth, 16, 16), np.int16))
                    for depth in (1, 9))  # fmt: skip
    drawn = [float(draw_sample((small, large), (8, 8), NOTHING, 0, n)[0].mean()) for n in range(200)]
    assert np.mean(np.isclose(drawn, 9)) == pytest.approx(0.9, abs=0.06)


def test_ignored_pixels_stay_ignored():
    run = LabelledImage(np.zeros((1, 2, 40, 40), np.float32), np.full((2, 40, 40), -1, np.int16))
    assert torch.equal(draw_sample((run,), (16, 16), Augmentation(), 0, 0)[1].unique(), torch.tensor([-1]).short())


def test_gain_and_offset_are_drawn_within_their_bounds():
    image = torch.tensor([[[0.0, 1.0]]])
    options = Augmentation(gain=0.25, offset=0.5, noise=0, blur=0)
    varied = torch.stack([vary_greys(options, image, seeded(seed))[0, 0] for seed in range(200)])
    offset, gain = varied[:, 0], varied[:, 1] - varied[:, 0]
    assert 0.4 < offset.abs().max() <= 0.5
    assert 1 / 1.25 - 1e-5 <= gain.min() < 0.85
    assert 1.18 < gain.max() <= 1.25 + 1e-5


def test_noise_grows_up_to_its_bound():
    options = Augmentation(gain=0, offset=0, noise=0.2, blur=0)
    spreads = [float(vary_greys(options, torch.zeros(1, 64, 64), seeded(seed)).std()) for seed in range(40)]
    assert 0.15 < max(spreads) < 0.21
    assert min(spreads) < 0.05


@pytest.mark.parametrize("shape", [(1, 9, 11), (2, 5, 9, 11)])
def test_blur_keeps_flat_images_and_spreads_a_point_as_a_gaussian(shape):
    flat = torch.full(shape, 3.0)
    assert torch.allclose(blur(flat, 1.0), flat, atol=1e-5)
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    blurred = blur(point, 1.5)[0]
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    assert float(blurred[10, 13] / blurred[10, 10]) == pytest.approx(math.exp(-0.5 * (3 / 1.5) ** 2), rel=1e-3)
    assert torch.allclose(blurred, blurred.T, atol=1e-7)


def test_a_turned_patch_is_read_with_surroundings():
    assert math.sqrt(2) < patches.READ_AROUND
