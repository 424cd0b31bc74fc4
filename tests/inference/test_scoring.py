"""Files and folders score as their arrays do; what does not fit together is refused in one sentence."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.instances import MaskError, score_instances
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.scoring.files import ScoreOptions, find_pairs, iter_score_pairs, score_folders
from napari_skipseg.scoring.pairs import pair_files


def em(seed, shape=(3, 24, 32)):
    """Cells (255) between membranes (0), and a noisy probability of cell, uint8."""
    truth = np.full(shape, 255, np.uint8)
    truth[..., ::8, :] = 0
    truth[..., :, ::8] = 0
    noise = np.random.default_rng(seed).normal(0, 70, shape)
    return np.clip(truth * 0.6 + 50 + noise, 0, 255).astype(np.uint8), truth


def png(path: Path, image):
    path.write_bytes(imagecodecs.png_encode(image))


def score_pair(prediction, truth, options=None):
    options = options or ScoreOptions()
    return run_to_end(iter_score_pairs(find_pairs(prediction, truth, options), options))


@pytest.fixture
def stack(tmp_path):
    """Files of a probability of cell and of its truth, and their values."""
    cell, truth = em(0)
    tifffile.imwrite(tmp_path / "cell.tif", cell, photometric="minisblack")
    tifffile.imwrite(tmp_path / "truth.tif", truth, photometric="minisblack")
    return tmp_path / "cell.tif", tmp_path / "truth.tif", cell, truth


@pytest.fixture
def folders(tmp_path):
    """Predictions as our own runs leave them, truths as TIFF and PNG of two sizes; and the values by name."""
    predictions, truths, values = tmp_path / "predicted", tmp_path / "true", {}
    predictions.mkdir()
    truths.mkdir()
    for seed, (name, shape) in enumerate({"a": (24, 32), "b": (40, 40)}.items()):
        cell, truth = em(seed, shape)
        tifffile.imwrite(predictions / f"{name}_probability.tif", cell)
        tifffile.imwrite(predictions / f"{name}_binary.tif", (cell > 127).astype(np.uint8))
        tifffile.imwrite(predictions / f"{name}_attention_1.tif", cell)
        values[name] = cell, truth
    (predictions / "notes.txt").write_text("nothing to score")
    tifffile.imwrite(truths / "a.tif", values["a"][1])
    png(truths / "b.png", values["b"][1])
    return predictions, truths, values


def test_a_stack_is_scored_slice_by_slice_and_pooled(stack):
    prediction_file, truth_file, cell, truth = stack
    (summary,) = score_pair(prediction_file, truth_file)
    dice = [score_overlap(cell[z] > 127.5, truth[z]).dice for z in range(3)]
    assert list(summary.images) == ["slice 0", "slice 1", "slice 2"]
    assert [image["dice"] for image in summary.images.values()] == dice
    assert summary.mean["dice"] == pytest.approx(np.mean(dice), abs=1e-15)
    assert summary.deviation["dice"] == pytest.approx(np.std(dice, ddof=1), abs=1e-15)
    assert summary.pooled["dice"] == score_overlap(cell > 127.5, truth).dice


def test_isbi_slices_are_shown_at_the_best_threshold(stack):
    prediction_file, truth_file, cell, truth = stack
    (summary,) = score_pair(prediction_file, truth_file, ScoreOptions("isbi"))
    expected = score_isbi(cell / 255, truth)
    assert [image["v_rand"] for image in summary.images.values()] == [rand.score for rand in expected.rand_by_slice]
    assert summary.mean["v_rand"] == pytest.approx(expected.v_rand, abs=1e-15)
    assert summary.pooled["v_rand_threshold"] == expected.v_rand_threshold
    assert summary.pooled["v_info"] == expected.v_info


def test_a_mask_of_0_and_1_scores_with_isbi_as_one_of_0_and_255(stack, tmp_path):
    _, truth_file, _, truth = stack
    cell = np.where(np.random.default_rng(1).random(truth.shape) < 0.05, truth == 0, truth > 0)  # 5 % are wrong
    tifffile.imwrite(tmp_path / "mask.tif", cell.astype(np.uint8), photometric="minisblack")
    (summary,) = score_pair(tmp_path / "mask.tif", truth_file, ScoreOptions("isbi"))
    scores = summary.pooled
    assert scores["v_rand"] == score_isbi(cell, truth).v_rand
    assert scores["v_rand_threshold"] == 0
    tifffile.imwrite(tmp_path / "membrane.tif", (~cell).astype(np.uint8), photometric="minisblack")
    (summary,) = score_pair(tmp_path / "membrane.tif", truth_file, ScoreOptions("isbi", membrane=True))
    assert summary.pooled == scores


def test_folders_are_paired_by_name_and_scored_file_by_file(folders):
    predictions, truths, values = folders
    (summary,) = score_folders(predictions, truths)
    dice = [score_overlap(cell > 127.5, truth).dice for cell, truth in values.values()]
    assert {name: image["dice"] for name, image in summary.images.items()} == {"a.tif": dice[0], "b.png": dice[1]}
    assert summary.mean["dice"] == pytest.approx(np.mean(dice), abs=1e-15)
    hits = sum(np.count_nonzero((cell > 127.5) & (truth > 0)) for cell, truth in values.values())
    assert summary.pooled["true_positives"] == hits


def test_isbi_slices_of_all_files_share_their_threshold(folders, tmp_path):
    predictions, truths, values = folders
    (summary,) = score_folders(predictions, truths, ScoreOptions("isbi"))
    parts = [score_isbi(cell / 255, truth) for cell, truth in values.values()]
    means = np.mean([part.v_rand_by_threshold for part in parts], axis=0)
    assert list(summary.images) == ["a.tif", "b.png"]
    assert summary.pooled["v_rand"] == pytest.approx(means.max(), abs=1e-15)
    assert summary.pooled["n_slices"] == 2


def test_slices_of_stacks_in_folders_are_named_by_file_and_number(tmp_path):
    for folder, number in (("p", 0), ("t", 1)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", em(0, (2, 16, 16))[number], photometric="minisblack")
    (summary,) = score_folders(tmp_path / "p", tmp_path / "t", ScoreOptions("isbi"))
    assert list(summary.images) == ["a.tif slice 0", "a.tif slice 1", "b.tif slice 0", "b.tif slice 1"]
    (summary,) = score_folders(tmp_path / "p", tmp_path / "t")
    assert list(summary.images) == ["a.tif", "b.tif"]


def test_classes_are_scored_one_by_one(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (2, 12, 12)).astype(np.uint8)
    truth = np.where(np.random.default_rng(1).random(labels.shape) < 0.2, 0, labels).astype(np.uint8)
    tifffile.imwrite(tmp_path / "p.tif", labels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "t.tif", truth, photometric="minisblack")
    options = ScoreOptions(classes={"nucleus": 2, "membrane": 1})
    nucleus, membrane = score_pair(tmp_path / "p.tif", tmp_path / "t.tif", options)
    assert (nucleus.class_name, membrane.class_name) == ("nucleus", "membrane")
    assert nucleus.pooled["dice"] == score_overlap(labels == 2, truth == 2).dice
    assert membrane.images["slice 1"]["dice"] == score_overlap(labels[1] == 1, truth[1] == 1).dice


@pytest.mark.parametrize(("numbers", "is_said"), [(20, True), (1, False), (3, False)])
def test_one_class_of_a_truth_of_numbered_objects_is_doubted(tmp_path, numbers, is_said):
    truth = np.zeros((40, 40), np.uint16)
    truth[::2, 1:] = 1 + (np.arange(20) % numbers)[:, None]
    tifffile.imwrite(tmp_path / "p.tif", (truth > 0).astype(np.uint8))
    tifffile.imwrite(tmp_path / "t.tif", truth)
    (found,) = score_pair(tmp_path / "p.tif", tmp_path / "t.tif", ScoreOptions(classes={"mitochondrion": 1}))
    assert any("has 20 values besides 0" in note and "leave out --class" in note for note in found.notes) == is_said


def test_a_file_of_ours_knows_its_own_numbers_of_classes(tmp_path):
    truth = np.array([[0, 0, 9, 9], [0, 7, 7, 9]], np.uint8)
    ours = np.array([[1, 1, 0, 0], [1, 0, 2, 0]], np.uint8)
    size = ((1.0, 1.0, 1.0), "pixel")
    recipe = {"classes": ["membrane", "nucleus"], "layer": "labels"}
    write_ome_tiff(tmp_path / "p_binary.tif", ours, Space("YX", *size), description=recipe)
    tifffile.imwrite(tmp_path / "t.tif", truth)
    membrane, nucleus = score_pair(
        tmp_path / "p_binary.tif", tmp_path / "t.tif", ScoreOptions(classes={"membrane": 0, "nucleus": 7})
    )
    assert membrane.pooled["dice"] == 1
    assert nucleus.pooled["recall"] == 0.5
    write_ome_tiff(tmp_path / "p.tif", ours, Space("YX", *size), description={"classes": ["membrane", "nucleus"]})
    with pytest.raises(InputError, match="contains no labels"):
        score_pair(tmp_path / "p.tif", tmp_path / "t.tif", ScoreOptions(classes={"membrane": 0}))


def test_instances_of_a_stack_are_those_of_the_volume_and_of_each_slice(tmp_path):
    truth = np.zeros((3, 8, 8), np.uint16)
    truth[:2, :4], truth[:2, 5:] = 300, 400
    predicted = truth.astype(np.uint32) * 100
    predicted[1, :4] = 5
    tifffile.imwrite(tmp_path / "p.tif", predicted, photometric="minisblack")
    tifffile.imwrite(tmp_path / "t.tif", truth, photometric="minisblack")
    (summary,) = score_pair(tmp_path / "p.tif", tmp_path / "t.tif", ScoreOptions("instances"))
    assert summary.pooled["adapted_rand_error"] == score_instances(predicted, truth).adapted_rand_error > 0
    assert {name: image["adapted_rand_error"] for name, image in summary.images.items()} == {"slice 0": 0, "slice 1": 0}


def test_folders_of_instances_pool_without_mixing_their_labels(folders):
    predictions, truths, values = folders
    for name in values:
        labels = np.repeat(np.arange(1, 5, dtype=np.uint8), 40).reshape(8, 20)
        tifffile.imwrite(predictions / f"{name}_binary.tif", labels)
        (truths / "b.png").unlink(missing_ok=True)
        tifffile.imwrite(truths / f"{name}.tif", labels)
    (summary,) = score_folders(predictions, truths, ScoreOptions("instances"))
    assert summary.pooled["adapted_rand_error"] == 0
    assert summary.pooled["variation_of_information"] == 0
    assert summary.pooled["pixels"] == 320


def test_our_own_two_files_are_told_apart_by_what_is_measured(folders):
    predictions, truths, _ = folders
    assert find_pairs(predictions, truths, ScoreOptions())[0].prediction.name == "a_probability.tif"
    labels = find_pairs(predictions, truths, ScoreOptions(classes={"cell": 1}))
    assert [pair.prediction.name for pair in labels] == ["a_binary.tif", "b_binary.tif"]
    (predictions / "a_binary.tif").unlink()
    assert find_pairs(predictions, truths, ScoreOptions("instances"))[0].prediction.name == "a_probability.tif"


def test_a_name_is_whole_even_where_it_ends_like_ours(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "t").mkdir()
    for folder in "pt":
        tifffile.imwrite(tmp_path / folder / "cells_binary.ome.tif", em(0, (16, 16))[1])
    ((name, prediction, _),) = pair_files(tmp_path / "p", tmp_path / "t")
    assert (name, prediction.name) == ("cells_binary.ome.tif", "cells_binary.ome.tif")


def test_all_that_a_run_writes_is_paired_with_the_truth_beside_the_image(folders):
    predictions, truths, _ = folders
    labels = np.repeat(np.arange(1, 5, dtype=np.uint8), 8).reshape(4, 8)
    for name, form in (("a", ".tif"), ("b", ".ome.zarr"), ("c", ".ome.zarr")):
        recipe = {"inputs": [{"file": str(truths / f"{name}.tif")}]}
        (truths / f"{name}.png").unlink(missing_ok=True)
        tifffile.imwrite(truths / f"{name}.tif", 200 + labels)  # the image
        tifffile.imwrite(truths / f"{name}_true_cells.tif", labels)
        for kind in ("probability", "binary", "objects", "uncertainty", "attention_1"):
            (predictions / f"{name}_{kind}.tif").unlink(missing_ok=True)
            if form == ".tif":
                write_ome_tiff(predictions / f"{name}_{kind}{form}", labels, Space("YX"), description=recipe)
            else:
                layout = Layout(labels.shape, Space("YX"), "uint8", description=recipe)
                write_ome_zarr(predictions / f"{name}_{kind}{form}", labels, layout)
    for options, kind in (
        (ScoreOptions(), "probability"),
        (ScoreOptions("instances"), "objects"),
        (ScoreOptions(classes={"cell": 1}), "binary"),
    ):
        pairs = find_pairs(predictions, truths, options)
        assert [pair.prediction.name for pair in pairs] == [f"a_{kind}.tif", f"b_{kind}.ome.zarr", f"c_{kind}.ome.zarr"]
        assert [pair.truth.name for pair in pairs] == [f"{name}_true_cells.tif" for name in "abc"]
    (summary,) = score_folders(predictions, truths, ScoreOptions("instances"))
    assert summary.pooled["adapted_rand_error"] == 0


@pytest.mark.parametrize(
    ("truths_of_a", "said"),
    [(("a_membranes", "a_mitochondria"), "could both be the truth of '.*a_"), (("a_2",), "has no truth")],
)
def test_of_other_names_of_truths_only_a_single_word_is_taken(folders, truths_of_a, said):
    predictions, truths, values = folders
    for name in truths_of_a:
        tifffile.imwrite(truths / f"{name}.tif", values["a"][1])
    (truths / "a.tif").unlink()
    with pytest.raises(InputError, match=said):
        find_pairs(predictions, truths, ScoreOptions())


def leave_unpaired(kind, predictions, truths):
    if kind == "prediction":
        tifffile.imwrite(predictions / "c.tif", np.zeros((8, 8), np.uint8))
    elif kind == "truth":
        png(truths / "c.png", np.zeros((8, 8), np.uint8))
    elif kind == "two predictions":
        tifffile.imwrite(predictions / "a.tif", np.zeros((8, 8), np.uint8))
    elif kind == "two truths":
        png(truths / "a.png", np.zeros((8, 8), np.uint8))
    elif kind == "no image":
        for file in truths.iterdir():
            file.unlink()
    elif kind == "damaged":
        (truths / "b.png").write_bytes(b"\x89PNG and then nothing")
    elif kind == "other size":
        png(truths / "b.png", np.zeros((8, 8), np.uint8))
    elif kind == "colours":
        png(truths / "b.png", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("prediction", "c.tif' has no truth"),
        ("truth", "c.png' has no prediction"),
        ("two predictions", "a.tif and a_probability.tif .* could both be 'a'"),
        ("two truths", "a.png and a.tif"),
        ("no image", "contains no TIFF"),
        ("damaged", "b.png' is no PNG"),
        ("other size", "shape"),
        ("colours", "YXC"),
    ],
)
def test_folders_that_do_not_fit_together_are_refused(folders, kind, message):
    predictions, truths, _ = folders
    leave_unpaired(kind, predictions, truths)
    with pytest.raises(SkipsegError, match=message):
        score_folders(predictions, truths)


def test_a_file_and_a_folder_do_not_pair(folders, tmp_path):
    predictions, truths, _ = folders
    with pytest.raises(InputError, match="a file and a folder"):
        pair_files(predictions, truths / "a.tif")
    with pytest.raises(FileError, match="does not exist"):
        pair_files(predictions, tmp_path / "nowhere")


def test_truths_without_anything_to_score_are_refused(stack, tmp_path):
    prediction_file, _, _, truth = stack
    tifffile.imwrite(tmp_path / "empty.tif", truth * 0, photometric="minisblack")
    with pytest.raises(InputError, match="no labelled object"):
        score_pair(prediction_file, tmp_path / "empty.tif", ScoreOptions("instances"))
    with pytest.raises(InputError, match="0 everywhere"):
        score_pair(prediction_file, tmp_path / "empty.tif", ScoreOptions("isbi"))


@pytest.mark.parametrize(
    "options",
    [
        {"measure": "isbi", "classes": {"a": 1}},
        {"measure": "instances", "classes": {"a": 1}},
        {"membrane": True, "classes": {"a": 1}},
        {"measure": "instances", "membrane": True},
    ],
)
def test_options_that_exclude_each_other_are_refused(options):
    with pytest.raises(InputError, match="leave out"):
        ScoreOptions(**options)


def test_a_truth_that_is_a_mask_tells_no_objects_apart(tmp_path):
    truth, found = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[2:8, 2:8] = truth[10:18, 10:18] = 255
    found[2:8, 2:8], found[10:18, 10:18] = 1, 2
    for name, values in (("truth", truth), ("found", found)):
        png(tmp_path / f"{name}.png", values)
    pairs = pair_files(tmp_path / "found.png", tmp_path / "truth.png")
    with pytest.raises(MaskError, match="a mask of one label: give instances"):
        run_to_end(iter_score_pairs(pairs, ScoreOptions("instances")))
    (summary,) = run_to_end(iter_score_pairs(pairs, ScoreOptions()))
    assert summary.pooled["dice"] == 1


def test_a_stack_saved_without_its_axes_takes_those_of_its_partner(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (4, 16, 16)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "plain.tif", labels, photometric="rgb", planarconfig="separate")
    write_ome_tiff(tmp_path / "known.tif", labels, Space("ZYX", (1.0, 1.0, 1.0), "nm"))
    for found, true in (("known", "plain"), ("plain", "known")):
        pairs = pair_files(tmp_path / f"{found}.tif", tmp_path / f"{true}.tif")
        (summary,) = run_to_end(iter_score_pairs(pairs, ScoreOptions("instances")))
        assert (summary.pooled["adapted_rand_error"], len(summary.images)) == (0, 4)
    with pytest.raises(InputError, match="has axes CYX"):
        run_to_end(iter_score_pairs(pair_files(tmp_path / "plain.tif", tmp_path / "plain.tif"), ScoreOptions()))


@pytest.fixture
def opposite(tmp_path):
    """A probability of membrane, a truth that is 255 on membranes, and the same truth that is 255 in cells."""
    cell, truth = em(0)
    files = tmp_path / "membrane.tif", tmp_path / "on_membranes.tif", tmp_path / "in_cells.tif"
    for file, values in zip(files, (255 - cell, 255 - truth, truth), strict=True):
        tifffile.imwrite(file, values, photometric="minisblack")
    return files


@pytest.mark.parametrize("measure", ["isbi", "overlap"])
def test_a_truth_of_membranes_scores_the_same_whichever_way_round_it_is(opposite, measure):
    prediction, on_membranes, in_cells = opposite
    options = ScoreOptions(measure, membrane=True)
    (usual,), (turned,) = score_pair(prediction, in_cells, options), score_pair(prediction, on_membranes, options)
    assert dict(turned.pooled) == dict(usual.pooled)
    assert usual.notes == ()
    assert [word in turned.notes[0] for word in ("on_membranes.tif", "above 0 on membranes")] == [True, True]


def test_what_the_user_says_of_a_truth_is_taken_without_a_note(opposite):
    prediction, on_membranes, _ = opposite
    (told,) = score_pair(prediction, on_membranes, ScoreOptions(membrane=True, foreground="membranes"))
    (judged,) = score_pair(prediction, on_membranes, ScoreOptions(membrane=True))
    assert (told.notes, dict(told.pooled)) == ((), dict(judged.pooled))
    (wrong,) = score_pair(prediction, on_membranes, ScoreOptions(membrane=True, foreground="cells"))
    assert wrong.pooled["dice"] < judged.pooled["dice"]


def test_a_truth_that_may_be_either_is_scored_with_a_note(tmp_path, stack):
    prediction, *_ = stack
    noise = (np.random.default_rng(0).random((3, 24, 32)) < 0.5).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise, photometric="minisblack")
    (summary,) = score_pair(prediction, tmp_path / "noise.tif", ScoreOptions(membrane=True))
    assert "not clear" in summary.notes[0]


@pytest.mark.parametrize("value", [0, 255], ids=["all membrane", "all cell"])
def test_isbi_scores_that_a_constant_image_reaches_are_refused(stack, tmp_path, value):
    _, truth_file, _, truth = stack
    tifffile.imwrite(tmp_path / "constant.tif", np.full_like(truth, value), photometric="minisblack")
    with pytest.raises(InputError, match="without any membrane reaches"):
        score_pair(tmp_path / "constant.tif", truth_file, ScoreOptions("isbi"))


def test_isbi_scores_of_the_wrong_polarity_are_refused_instead_of_perfect(opposite):
    prediction, on_membranes, _ = opposite
    with pytest.raises(InputError, match="--truth-foreground"):
        score_pair(prediction, on_membranes, ScoreOptions("isbi", membrane=True, foreground="cells"))


# --- what the numbers stand for --------------------------------------------------------------------------------------


def write(path, values):
    tifffile.imwrite(path, values, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


@pytest.mark.parametrize("measure", ["isbi", "overlap"])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 255), (254, 255), (-1, 0)])
def test_of_two_values_without_a_0_the_larger_marks(opposite, tmp_path, measure, low, high):
    prediction, on_membranes, _ = opposite
    truth = np.where(tifffile.imread(on_membranes) > 0, high, low).astype("int16")
    options = ScoreOptions(measure, membrane=True)
    (other,) = score_pair(prediction, write(tmp_path / "other.tif", truth), options)
    assert dict(other.pooled) == dict(score_pair(prediction, on_membranes, options)[0].pooled)
    assert f"contains {low} and {high}" in other.notes[0]


@pytest.mark.parametrize("measure", ["isbi", "overlap"])
def test_a_truth_with_nan_is_refused(stack, tmp_path, measure):
    prediction, _, _, truth = stack
    holes = np.where(np.arange(32) < 3, np.nan, truth).astype("float32")
    with pytest.raises(InputError, match=r"truth .* contains NaN"):
        score_pair(prediction, write(tmp_path / "holes.tif", holes), ScoreOptions(measure))


@pytest.mark.parametrize("measure", ["isbi", "overlap"])
@pytest.mark.parametrize(("dtype", "high"), [("bool", 1), ("uint8", 100), ("uint16", 255), ("int32", 255), ("f4", 255)])
def test_a_mask_is_one_whatever_its_values_are(stack, tmp_path, measure, dtype, high):
    _, truth_file, cell, _ = stack
    masks = {name: np.where(cell > 127, value, 0) for name, value in (("usual", 255), ("other", high))}
    usual = write(tmp_path / "usual.tif", masks["usual"].astype("uint8"))
    other = write(tmp_path / "other.tif", masks["other"].astype(dtype))
    options = ScoreOptions(measure)
    found = [dict(score_pair(path, truth_file, options)[0].pooled) for path in (usual, other)]
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32"])
def test_8_bits_within_more_are_probabilities_of_8_bits(stack, tmp_path, dtype):
    prediction, truth_file, cell, _ = stack
    (summary,) = score_pair(write(tmp_path / "wide.tif", cell.astype(dtype)), truth_file)
    assert dict(summary.pooled) == dict(score_pair(prediction, truth_file)[0].pooled)
    assert "no value above 255" in summary.notes[0]


@pytest.mark.parametrize("measure", ["isbi", "overlap"])
@pytest.mark.parametrize("change", [lambda p: p * 100, lambda p: p - 0.5, lambda p: np.where(p > 0.9, np.nan, p)])
def test_fractions_that_are_no_probabilities_are_refused(stack, tmp_path, measure, change):
    _, truth_file, cell, _ = stack
    odd = write(tmp_path / "odd.tif", change(cell / 255).astype("float32"))
    with pytest.raises(InputError, match=r"runs from|contains NaN"):
        score_pair(odd, truth_file, ScoreOptions(measure, membrane=True))


@pytest.mark.parametrize("membrane", [True, False])
def test_a_prediction_of_the_other_polarity_is_noted(stack, tmp_path, membrane):
    _, truth_file, _, truth = stack
    noise = np.random.default_rng(0).integers(0, 60, truth.shape)
    of_cells = np.clip(truth * 0.6 + noise, 0, 255).astype("uint8")
    files = [write(tmp_path / f"{k}.tif", values) for k, values in enumerate((of_cells, 255 - of_cells))]
    options = ScoreOptions("isbi", membrane=membrane)
    notes = [score_pair(path, truth_file, options)[0].notes for path in files]
    assert notes[int(membrane)] == ()
    assert "--membrane" in notes[int(not membrane)][0]


@pytest.mark.parametrize("options", [ScoreOptions("instances"), ScoreOptions(classes={"a": 1})])
def test_grey_values_are_no_labels(stack, tmp_path, options):
    prediction, _, _, truth = stack
    labels = write(tmp_path / "labels.tif", (truth > 0).astype("uint8") * np.arange(1, 4, dtype="uint8")[:, None, None])
    with pytest.raises(InputError, match=r"prediction .* contains grey values"):
        score_pair(prediction, labels, options)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, 128, float("nan")])
def test_a_threshold_beyond_a_probability_is_refused(threshold):
    with pytest.raises(InputError, match="between 0 and 1"):
        ScoreOptions(threshold=threshold)


def test_voxels_of_different_sizes_are_noted(tmp_path):
    cell, truth = em(0)
    write_ome_tiff(tmp_path / "cell.tif", cell, Space("ZYX", (50, 4, 4), "nm"))
    for name, size, unit, differs in (
        ("same", (0.05, 0.004, 0.004), "µm", False),
        ("rounded", (50, 4.01, 4.01), "nm", False),
        ("unknown", (1, 1, 1), "pixel", False),
        ("other", (50, 8, 8), "nm", True),
        ("thick", (4, 4, 4), "nm", True),
    ):
        write_ome_tiff(tmp_path / f"{name}.tif", truth, Space("ZYX", size, unit))
        (summary,) = score_pair(tmp_path / "cell.tif", tmp_path / f"{name}.tif")
        assert any("check that both show the same image" in note for note in summary.notes) == differs, name


def test_names_that_differ_by_capital_letters_are_pairs_unless_one_is_exact(tmp_path):
    predictions, truths = tmp_path / "predicted", tmp_path / "true"
    for folder, names in ((predictions, ("IMG_1_probability.tif", "Abc.tif")), (truths, ("img_1.PNG", "abc.tif"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    pairs = pair_files(predictions, truths)
    assert [(pair.prediction.name, pair.truth.name) for pair in pairs] == [
        ("Abc.tif", "abc.tif"),
        ("IMG_1_probability.tif", "img_1.PNG"),
    ]
    (predictions / "abc.tif").touch()
    if len(list(predictions.iterdir())) == 3:
        with pytest.raises(InputError, match=r"has no truth|could both be"):
            pair_files(predictions, truths)


@pytest.mark.parametrize("measure", ["overlap", "isbi"])
@pytest.mark.parametrize("result", ["probability", "binary"])
@pytest.mark.parametrize("value", [0, 255])
def test_a_frame_without_tissue_changes_no_score(tmp_path, measure, result, value):
    cell, truth = em(1)
    truth = truth if value else 255 - truth  # above 0 in cells, or on membranes; 0 in the frame either way
    membrane = np.clip(1 - cell / np.float32(255), 1 / 255, 1)
    recipe = {"operation": "segment", "classes": ["membrane"], "normalization": {"padding": [0]}, "objects": None}
    found = []
    for name, frame in (("plain", 0), ("framed", 40)):
        around = ((0, 0), (frame, frame), (frame, frame))
        prediction = Prediction(np.pad(membrane, around), Space("ZYX"), ("membrane",), recipe=recipe)
        save_prediction(prediction, tmp_path / name, "em", dtype="float32")
        tifffile.imwrite(tmp_path / f"{name}.tif", np.pad(truth, around), photometric="minisblack")
        (summary,) = score_pair(tmp_path / name / f"em_{result}.tif", tmp_path / f"{name}.tif", ScoreOptions(measure))
        found.append(summary.pooled)
        assert any("do not count" in note for note in summary.notes) == bool(frame)
    assert found[0] == found[1]


def test_labels_alone_do_not_show_a_frame_and_a_note_says_so(tmp_path):
    cell, truth = em(1)
    recipe = {"operation": "segment", "classes": ["membrane"], "normalization": {"padding": [0]}, "objects": None}
    save_prediction(Prediction(1 - cell / np.float32(255), Space("ZYX"), ("membrane",), recipe=recipe), tmp_path, "em")
    (tmp_path / "em_probability.tif").unlink()
    tifffile.imwrite(tmp_path / "truth.tif", truth, photometric="minisblack")
    (summary,) = score_pair(tmp_path / "em_binary.tif", tmp_path / "truth.tif")
    assert any("score the probability" in note for note in summary.notes)


def test_a_probability_of_several_classes_is_scored_by_its_labels(tmp_path):
    cell, truth = em(1)
    several = np.stack([cell, 255 - cell]) / np.float32(255)
    recipe = {"classes": ["cell", "membrane"]}
    save_prediction(Prediction(several, Space("CZYX"), ("cell", "membrane"), recipe=recipe), tmp_path, "em")
    tifffile.imwrite(tmp_path / "truth.tif", truth, photometric="minisblack")
    with pytest.raises(InputError, match="_binary"):
        score_pair(tmp_path / "em_probability.tif", tmp_path / "truth.tif")
