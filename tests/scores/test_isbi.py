"""V_rand and V_info after border thinning are those of the definition, on anything."""

import json
import math
from dataclasses import asdict

import literal_isbi as literal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, spatial
from skimage.metrics import adapted_rand_error
from skimage.segmentation import watershed

from napari_skipseg.errors import InputError
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores import table
from napari_skipseg.scores.isbi import (
    THRESHOLDS,
    combine_slices,
    iter_score_isbi,
    iter_score_slices,
    membrane_to_cell,
    probability_from_image,
    score_isbi,
    thin,
)

SMALL_SLICES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def blobs(seed, shape, sigma=2.0):
    """Smooth noise stretched to [0, 1]."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (noise - noise.min()) / np.ptp(noise)


def voronoi(seed, size, cells, width):
    """Cells (True) between membranes about `width` pixels wide."""
    points = np.random.default_rng(seed).uniform(0, size, (cells, 2))
    grid = np.stack(np.mgrid[:size, :size], axis=-1)
    near = spatial.cKDTree(points).query(grid, k=2)[0]
    return near[..., 1] - near[..., 0] > width


def literal_labels(cells):
    state = literal.flood(cells.tolist())
    labels = np.zeros(cells.shape, int)
    for pixel, value in state.items():
        assert value != literal.QUEUED
        labels[pixel] = 0 if value == literal.DAM else value
    return labels


def assert_same_scores(probability, truth):
    """V_rand and its parts are equal bit for bit; V_info, a sum of logarithms, to 1e-13."""
    scores = score_isbi(probability, truth)
    expected = literal.score_stack(
        np.atleast_3d(probability.T).T.tolist(), np.atleast_3d(np.asarray(truth).T).T.tolist()
    )
    rand, info = [mean[0] for mean in expected], [mean[1] for mean in expected]
    assert scores.v_rand_by_threshold == tuple(mean[0] for mean in rand)
    assert scores.v_info_by_threshold == pytest.approx([mean[0] for mean in info], abs=1e-13, rel=0)
    best = scores.thresholds.index(scores.v_rand_threshold)
    assert (scores.v_rand, scores.v_rand_split, scores.v_rand_merge) == max(rand, key=lambda mean: mean[0])
    assert scores.v_rand == rand[best][0]
    best = scores.thresholds.index(scores.v_info_threshold)
    found = (scores.v_info, scores.v_info_split, scores.v_info_merge)
    assert found == pytest.approx(info[best], abs=1e-13, rel=0)
    assert scores.v_info == pytest.approx(max(mean[0] for mean in info), abs=1e-13, rel=0)


def test_thresholds_are_those_of_a_java_loop():
    assert list(THRESHOLDS) == literal.java_thresholds()
    assert len(THRESHOLDS) == 11
    assert THRESHOLDS[3] == 0.30000000000000004
    assert THRESHOLDS[-1] == 0.9999999999999999


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.5, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_thinned_blobs_are_those_of_the_literal_flood(seed, threshold):
    probability = blobs(seed, (61, 47))
    assert np.array_equal(thin(probability, threshold), literal_labels(probability > threshold))


@pytest.mark.parametrize("width", [1, 2, 3.5, 6, 9])
def test_thinned_voronoi_cells_are_those_of_the_literal_flood(width):
    cells = voronoi(int(width * 10), 96, 40, width)
    assert np.array_equal(thin(cells), literal_labels(cells))


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5, 0.7])
def test_thinned_noise_is_that_of_the_literal_flood(density):
    cells = np.random.default_rng(1).random((64, 80)) < density
    assert np.array_equal(thin(cells), literal_labels(cells))


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, SMALL_SLICES))
def test_any_small_slice_is_thinned_as_by_the_literal_flood(cells):
    assert np.array_equal(thin(cells), literal_labels(cells))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_small_stack_scores_as_the_definition_says(data):
    shape = (data.draw(st.integers(1, 2)), *data.draw(SMALL_SLICES))
    levels = st.sampled_from([0.0, *THRESHOLDS, 0.05, 0.35, 0.999, 1.0])
    probability = data.draw(arrays(np.float64, shape, elements=levels))
    truth = data.draw(arrays(np.bool_, shape).filter(np.any))
    assert_same_scores(probability, truth)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stack_of_blobs_scores_as_the_definition_says(dtype):
    truth = np.stack([voronoi(seed, 40, 12, 2) for seed in range(2)])
    probability = (0.6 * ndimage.gaussian_filter(truth.astype(float), (0, 1, 1))
                   + 0.4 * blobs(5, truth.shape)).astype(dtype)  # fmt: skip
    assert_same_scores(probability, truth)


def test_cells_that_touch_the_border_score_as_the_definition_says():
    truth = np.ones((20, 24), bool)
    truth[:, 11] = False
    probability = truth * 0.7
    probability[3:5, 11] = 0.65
    assert_same_scores(probability, truth)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_prediction_is_one_segment_at_every_threshold(value):
    truth = voronoi(3, 30, 8, 2)
    probability = np.full(truth.shape, value)
    assert np.all(thin(probability, 0.5) == 1)
    assert_same_scores(probability, truth)
    scores = score_isbi(probability, truth)
    assert scores.v_rand_split == 1
    assert scores.v_info == 0


def test_a_membrane_two_pixels_wide_becomes_a_dam_one_pixel_wide():
    cells = np.array([[1, 1, 0, 0, 0, 1, 1]] * 3, bool)
    assert thin(cells).tolist() == [[1, 1, 1, 0, 2, 2, 2]] * 3
    cells = np.array([[1, 1, 0, 0, 1, 1]] * 3, bool)
    assert set(thin(cells)[:, [0, 1, 4, 5]].flat) == {1, 2}
    assert np.array_equal(thin(cells), literal_labels(cells))
    assert np.all(np.count_nonzero(thin(cells) == 0, axis=1) == 1)


def test_segments_are_numbered_by_column_first():
    cells = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    labels = thin(cells)
    assert labels[2, 0] == 1
    assert labels[0, 2] == 2
    assert labels.dtype == np.int32


def test_slices_of_a_stack_are_thinned_on_their_own():
    cells = np.stack([voronoi(seed, 32, 9, 3) for seed in range(3)])
    assert np.array_equal(thin(cells), np.stack([thin(part) for part in cells]))


def test_two_cells_seen_as_one_have_the_scores_computed_by_hand():
    truth = np.array([[1, 1, 0, 1, 1]], bool)
    scores = score_isbi(np.ones((1, 5)), truth)
    # p = 1/2, 1/2; Q_T = Q_ST = 1/2, Q_S = 1
    assert scores.v_rand == pytest.approx(2 / 3, abs=1e-15)
    assert scores.v_rand_split == 1
    assert scores.v_rand_merge == 0.5
    assert (scores.v_info, scores.v_info_split, scores.v_info_merge) == (0, 0, 0)


def test_a_dam_inside_a_cell_is_a_singleton_as_computed_by_hand():
    truth = np.ones((1, 5), bool)
    truth[0, 4] = False
    probability = np.array([[1.0, 0.0, 1.0, 1.0, 1.0]])
    # the seen pixel 1 is a dam: S = {0}, dam, {2, 3}; n = 4, Q_T = 1, Q_ST = Q_S = (1 + 4 + 1)/16
    assert thin(probability).tolist() == [[1, 0, 2, 2, 2]]
    scores = score_isbi(probability, truth)
    assert scores.v_rand == pytest.approx(2 * (6 / 16) / (6 / 16 + 1), abs=1e-15)
    assert scores.v_rand_merge == 1
    assert scores.v_rand_split == 6 / 16
    assert scores.v_info == 0  # the truth is one segment, the proposal is not


def test_information_of_a_split_cell_is_as_computed_by_hand():
    truth = np.array([[1, 1, 1, 0, 1, 1]], bool)
    probability = np.array([[1, 0, 1, 0, 1, 1]], float)
    # T = {0, 1, 2}, {4, 5}; S = {0}, dam 1, {2}, {4, 5}: S refines T
    entropy_truth = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    entropy_proposal = -(3 * 0.2 * math.log(0.2) + 0.4 * math.log(0.4))
    scores = score_isbi(probability, truth)
    assert scores.v_info == pytest.approx(2 * entropy_truth / (entropy_truth + entropy_proposal), abs=1e-15)
    assert scores.v_info_merge == pytest.approx(1, abs=1e-15)
    assert scores.v_info_split == pytest.approx(entropy_truth / entropy_proposal, abs=1e-15)


def test_the_truth_itself_scores_one_at_every_threshold():
    truth = np.stack([voronoi(seed, 64, 20, 3) for seed in range(2)])
    scores = score_isbi(truth, truth)
    assert scores.v_rand_by_threshold == (1.0,) * 11
    assert scores.v_info_by_threshold == pytest.approx([1.0] * 11, abs=1e-14)
    assert (scores.v_rand, scores.v_rand_threshold) == (1.0, 0.0)


def test_one_cell_predicted_as_one_cell_scores_one():
    truth = np.zeros((6, 6), bool)
    truth[1:5, 1:5] = True
    scores = score_isbi(truth, truth)
    assert (scores.v_rand, scores.v_info) == (1, 1)


def test_a_binary_prediction_scores_the_same_at_every_threshold():
    truth = voronoi(1, 64, 20, 3)
    scores = score_isbi(voronoi(1, 64, 20, 5), truth)
    assert len(set(scores.v_rand_by_threshold)) == 1
    assert len(set(scores.v_info_by_threshold)) == 1
    assert score_isbi(voronoi(1, 64, 20, 5).astype(np.uint8), truth) == scores


def test_slices_are_averaged_before_the_best_threshold_is_taken():
    truth = np.array([[[1, 1, 0, 1, 1]]] * 2, bool)
    # the membrane shows at t < 0.3 in one slice, at 0.7 <= t < 0.9 in the other
    probability = np.array([[[0.3, 0.3, 0.0, 0.3, 0.3]], [[0.9, 0.9, 0.65, 0.9, 0.9]]])
    scores = score_isbi(probability, truth)
    assert score_isbi(probability[0], truth[0]).v_rand == 1
    assert score_isbi(probability[1], truth[1]).v_rand == 1
    assert scores.v_rand == (1 + 2 / 3) / 2
    assert scores.v_rand_threshold == 0.0
    assert scores.v_info == 0.5


def test_scores_of_slices_are_those_at_the_threshold_of_the_stack():
    truth = np.stack([voronoi(seed, 40, 12, 2) for seed in range(3)])
    probability = 0.5 * truth + 0.5 * blobs(5, truth.shape)
    scores = score_isbi(probability, truth)
    rand, info = THRESHOLDS.index(scores.v_rand_threshold), THRESHOLDS.index(scores.v_info_threshold)
    alone = [score_isbi(part, cells) for part, cells in zip(probability, truth, strict=True)]
    assert [part.score for part in scores.rand_by_slice] == [each.v_rand_by_threshold[rand] for each in alone]
    assert [part.score for part in scores.information_by_slice] == [each.v_info_by_threshold[info] for each in alone]
    for part in ("score", "split", "merge"):
        mean = math.fsum(getattr(each, part) for each in scores.rand_by_slice) / 3
        assert mean == getattr(scores, "v_rand" if part == "score" else f"v_rand_{part}")


def test_slices_of_several_files_score_like_one_stack():
    truth = np.stack([voronoi(seed, 32, 9, 2) for seed in range(3)])
    probability = blobs(5, truth.shape)
    lists = [run_to_end(iter_score_slices(probability[part], truth[part])) for part in (slice(0, 1), slice(1, 3))]
    assert combine_slices(lists[0] + lists[1]) == score_isbi(probability, truth)


def test_slices_without_a_true_cell_are_left_out():
    truth = np.stack([voronoi(1, 40, 9, 3), np.zeros((40, 40), bool)])
    probability = np.stack([blobs(1, (40, 40)), blobs(2, (40, 40))])
    both, first = score_isbi(probability, truth), score_isbi(probability[0], truth[0])
    assert both == first
    assert both.n_slices == 1
    swapped = score_isbi(probability[::-1], truth[::-1])
    assert (swapped.slices, swapped.rand_by_slice) == ((1,), both.rand_by_slice)


def test_independent_segments_share_no_information_and_never_less():
    truth = np.array([[1, 1, 1, 0, 1, 1, 1]] * 3, bool)
    truth[1, :] = False
    cells = np.ones_like(truth)
    cells[:, [1, 5]] = False
    for proposal in (cells, ~cells, np.roll(cells, 1, axis=1)):
        scores = score_isbi(proposal, truth)
        assert 0 <= scores.v_info <= 1
        assert 0 <= scores.v_info_split <= 1
        assert 0 <= scores.v_info_merge <= 1
    assert_same_scores(cells, truth)


def test_the_values_of_a_truth_do_not_matter():
    truth = voronoi(1, 40, 9, 3)
    probability = blobs(1, (40, 40))
    assert score_isbi(probability, truth * np.uint8(255)) == score_isbi(probability, truth * np.float32(0.5))


def test_float32_is_compared_as_java_does_and_integers_as_fractions():
    truth = np.array([[1, 1, 0, 1, 1]], bool)
    image = np.array([[255, 255, 51, 255, 255]], np.uint8)
    exact = probability_from_image(image)
    assert exact.dtype == np.float64
    assert score_isbi(exact, truth).v_rand_by_threshold[2] == 1  # 51/255 > 0.2 is false
    assert score_isbi(exact.astype(np.float32), truth).v_rand_by_threshold[2] < 1  # 0.2f > 0.2 is true in Java


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16])
def test_integer_images_are_scaled_by_the_maximum_of_their_type(dtype):
    top = np.iinfo(dtype).max
    assert probability_from_image(np.array([0, top // 2, top], dtype)).tolist() == [0, (top // 2) / top, 1]


def test_masks_and_floats_become_probabilities():
    assert probability_from_image(np.array([True, False])).tolist() == [1, 0]
    floats = np.array([0.25, 0.5], np.float32)
    assert probability_from_image(floats) is floats
    assert membrane_to_cell(floats).tolist() == [0.75, 0.5]
    with pytest.raises(InputError, match="negative"):
        probability_from_image(np.array([-1, 3], np.int16))
    with pytest.raises(InputError, match="complex"):
        probability_from_image(np.array([1j]))


def test_progress_is_told_after_every_slice():
    truth = np.stack([voronoi(seed, 16, 4, 2) for seed in range(3)])
    assert [(step.done, step.total) for step in iter_score_isbi(truth, truth)] == [(1, 3), (2, 3), (3, 3)]


def test_scores_go_into_json_as_they_are():
    truth = voronoi(1, 16, 4, 2)
    scores = score_isbi(truth, truth)
    written = json.loads(json.dumps(asdict(scores)))
    assert written["v_rand"] == 1
    assert written["thresholds"] == list(THRESHOLDS)


def test_a_machine_without_a_place_for_compiled_code_scores_all_the_same(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(table, "njit", njit)
    assert table.compiled(len)([1, 2]) == 2


def test_skimage_agrees_where_it_can():
    truth = voronoi(7, 200, 60, 4)
    probability = np.clip(0.5 * truth + 0.5 * blobs(3, truth.shape), 0, 1)
    scores = score_isbi(probability, truth)
    above = probability > scores.v_rand_threshold
    four = ndimage.generate_binary_structure(2, 1)
    markers, true_cells = ndimage.label(above, four)[0], ndimage.label(truth, four)[0]
    thinned = watershed(~above, markers, connectivity=1, watershed_line=True)
    error = adapted_rand_error(true_cells, thinned)[0]
    assert scores.v_rand == pytest.approx(1 - error, abs=5e-3)


@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        (np.zeros((4, 4)), np.ones((4, 5)), "shape"),
        (np.full((4, 4), np.nan), np.ones((4, 4)), "NaN"),
        (np.full((4, 4), 1.5), np.ones((4, 4)), "scale it"),
        (np.full((4, 4), -0.1), np.ones((4, 4)), "scale it"),
        (np.full((4, 4), np.inf), np.ones((4, 4)), "scale it"),
        (np.full((4, 4), 255, np.uint8), np.ones((4, 4)), "scale it"),
        (np.zeros((4, 4)), np.zeros((4, 4)), "no cell"),
        (np.zeros((4, 4)), np.full((4, 4), np.nan), "truth contains NaN"),
        (np.zeros((4, 4)), np.full((4, 4), "a"), "truth contains values"),
        (np.zeros(4), np.ones(4), "1 axes"),
        (np.zeros((0, 4, 4)), np.ones((0, 4, 4)), "empty"),
        (np.zeros((4, 4), complex), np.ones((4, 4)), "complex"),
    ],
)
def test_bad_input_is_refused_with_a_cure(probability, truth, message):
    with pytest.raises(InputError, match=message):
        score_isbi(probability, truth)


@pytest.fixture(scope="module")
def em_cells(data_folder):
    tifffile = pytest.importorskip("tifffile")
    return tifffile.imread(data_folder / "isbi2012" / "train-labels-00-24.tif", key=range(20, 25)) > 0


@pytest.mark.data
def test_real_cells_thinned_are_those_of_the_literal_flood(em_cells):
    cells = em_cells[0, :256, :256]
    assert np.array_equal(thin(cells), literal_labels(cells))


@pytest.mark.data
def test_real_truth_scores_one_and_worse_predictions_less(em_cells):
    rng = np.random.default_rng(0)
    thicker = np.stack([ndimage.binary_erosion(part, iterations=2) for part in em_cells])
    blurred = ndimage.gaussian_filter(em_cells.astype(np.float32), (0, 3, 3))
    noisy = np.clip(blurred + 0.5 * ndimage.gaussian_filter(rng.normal(size=blurred.shape), (0, 2, 2)), 0, 1)
    perfect, eroded, soft, worse = (score_isbi(p, em_cells) for p in (em_cells, thicker, blurred, noisy))
    assert perfect.v_rand == 1
    assert perfect.v_info == pytest.approx(1, abs=1e-14)
    assert 0.97 < eroded.v_rand < 1
    assert 0.95 < soft.v_rand < 1
    assert worse.v_rand < soft.v_rand
    assert worse.v_info < soft.v_info


@pytest.mark.data
def test_real_predictions_score_as_the_definition_says(em_cells):
    truth = em_cells[:2, 200:296, 100:196]
    probability = ndimage.gaussian_filter(truth.astype(np.float32), (0, 2, 2))
    assert_same_scores(probability, truth)


@pytest.mark.data
def test_real_grey_values_taken_for_probabilities_score_as_the_definition_says(data_folder, em_cells):
    tifffile = pytest.importorskip("tifffile")
    raw = tifffile.imread(data_folder / "isbi2012" / "train-volume-00-24.tif", key=20)
    place = slice(100, 228), slice(200, 328)
    assert_same_scores(probability_from_image(raw[place]), em_cells[0][place])
    smooth = ndimage.gaussian_filter(raw.astype(np.float32) / np.float32(255), 2)
    assert_same_scores(smooth[place], em_cells[0][place])
