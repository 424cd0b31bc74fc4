"""Quick fine-tuning to new classes: what a pixel head learns from strokes, and what stays as it was."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_finetuning import MITO, finetuned, scores, settings_of

from napari_skipseg.api import segment
from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.description import ClassLabel, card_facts
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.head import add_pixel_heads, grow_classes, sources_of
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune import estimate, labelled_pixels, pixel_classifier
from napari_skipseg.training.finetune.estimate import iter_plan_finetuning
from napari_skipseg.training.finetune.labelled_pixels import LabelledPixels, iter_read_pixels
from napari_skipseg.training.finetune.labels import Corrected, plan_classes
from napari_skipseg.training.finetune.pixel_classifier import fit_class, fit_pixel_heads, has_pixel_heads
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.progress import ValidationPicture

CPU = Compute(torch.device("cpu"))
VESICLE = ClassLabel("vesicle", 3)


@pytest.fixture(autouse=True)
def _models(library, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(library))


def texture(depth=2, side=192, seed=0):
    """Return an image of two textures of the same mean and deviation, one finer, and its truth (1 and 2)."""
    generator = np.random.default_rng(seed)
    truth = np.ones((depth, side, side), np.uint8)
    truth[:, side // 4 : 3 * side // 4, side // 4 : side // 2] = 2
    fine = generator.normal(0, 1, truth.shape)
    coarse = np.stack([np.kron(generator.normal(0, 1, (side // 4, side // 4)), np.ones((4, 4))) for _ in range(depth)])
    values = 120 + 30 * np.where(truth == 2, fine, coarse)
    return Stack(values.clip(0, 255).astype(np.uint8), Space("ZYX", (50, 4, 4), "nm"), name="texture"), truth


def stroked(truth, count=6, seed=1):
    """Return short strokes in each label of each slice."""
    generator = np.random.default_rng(seed)
    labels = np.zeros_like(truth)
    for plane, drawn in zip(truth, labels, strict=True):
        for value in np.unique(plane):
            for y, x in generator.permutation(np.argwhere(plane == value))[:count]:
                part = (slice(y, y + 5), slice(x, x + 25))
                drawn[part][plane[part] == value] = value
    return labels


def corrected_of(stack, labels):
    return Corrected(stack, labels, stack.name)


def quick(folder, corrected, name="new", **options):
    return finetuned(folder, settings_of(name, reach="quick", **options), corrected)


@pytest.fixture(scope="module")
def taught(library, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(library))
        stack, truth = texture()
        return quick(tmp_path_factory.mktemp("taught"), corrected_of(stack, stroked(truth)))


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_a_texture_is_learnt_from_strokes_that_no_grey_value_tells_apart(taught):
    stack, truth = texture(seed=7)
    prediction = segment(stack, str(taught.folder))
    found = np.asarray(prediction.probability[1]) > prediction.thresholds[1]
    values = np.asarray(stack.data).astype(float)
    by_grey = max(dice(values > level, truth == 2) for level in range(0, 255, 15))
    assert dice(found, truth == 2) > 0.65 > by_grey + 0.3
    assert 0.5 < found.sum() / (truth == 2).sum() < 2
    known = scores(taught.report, "held-out corrections", "mitochondrion")
    assert known["FNR"][1] < 0.4
    assert known["FPR"][1] < 0.3


def test_the_old_classes_stay_what_they_were_to_the_bit(taught, library):
    old, new = read_model(library / "membranes").network, read_model(taught.folder).network
    image = torch.randn(1, 1, 72, 80)
    size = [slice(None), slice(0, 1)]
    with torch.inference_mode():
        before, after = old.run(image), new.run(image)
        assert torch.equal(new.probability(after.logits)[tuple(size)], old.probability(before.logits))
    state = new.state_dict()
    assert all(torch.equal(tensor, state[f"body.{name}"]) for name, tensor in old.state_dict().items())
    assert "own sample" not in {row.on for row in taught.report.rows}


def test_the_model_says_which_classes_have_a_pixel_head(taught):
    model = read_model(taught.folder).description
    assert model.class_names == ("membrane", "mitochondrion")
    assert model.pixel_classes == ("mitochondrion",)
    assert card_facts(model)["Pixel head"] == "mitochondrion"
    assert model.spec.out_channels == 1
    assert model.margin > 0
    assert model.training.curves == {}


def test_tiles_agree_with_the_whole_image(taught):
    stack, _ = texture(side=256)
    whole, tiled = (
        np.asarray(segment(stack, str(taught.folder), tile=tile, attention=False).probability) for tile in (256, 160)
    )
    assert ((whole > 0.5) != (tiled > 0.5)).mean() < 2e-3


def test_a_second_class_leaves_the_first_pixel_head_as_it_is(taught, tmp_path, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(taught.folder.parent))
    stack, truth = texture(seed=3)
    labels = stroked(np.where(truth == 2, 3, 1).astype(np.uint8))
    settings = replace(settings_of("two", reach="quick", classes=(VESICLE,)), model="new")
    made = finetuned(tmp_path, settings, corrected_of(stack, labels))
    old, new = read_model(taught.folder).network, read_model(made.folder).network
    assert sources_of(new) == (0, None, None)
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before, after = (each.probability(each.run(image).logits) for each in (old, new))
    assert torch.equal(after[:, :2], before)
    assert after[:, 2].std() > 0


def test_normal_goes_on_from_a_model_with_a_pixel_head(taught, tmp_path, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(taught.folder.parent))
    stack, truth = texture(seed=3)
    settings = replace(settings_of("deeper", reach="normal", steps=2, patch=(32, 32)), model="new")
    made = finetuned(tmp_path, settings, corrected_of(stack, stroked(truth)))
    model = read_model(made.folder).description
    assert model.class_names == ("membrane", "mitochondrion")
    assert model.pixel_head.sources == (0, None)
    prediction = segment(stack, str(made.folder))
    assert dice(np.asarray(prediction.probability[1]) > prediction.thresholds[1], truth == 2) > 0.6


def test_own_classes_are_corrected_in_the_last_level_and_others_with_a_pixel_head(taught, library):
    own, head = (read_model(folder) for folder in (library / "membranes", taught.folder))

    def decided(model, reach, *classes):
        settings = settings_of(reach=reach, classes=tuple(ClassLabel(name, 2 + n) for n, name in enumerate(classes)))
        return has_pixel_heads(settings, plan_classes(settings, model.description), model.network)

    assert decided(own, "quick", "mitochondrion")
    assert decided(own, "quick", "mitochondrion", "vesicle")
    assert decided(head, "quick", "mitochondrion")
    assert not decided(own, "quick", "membrane")
    assert not decided(own, "quick", "membrane", "mitochondrion")
    assert not decided(own, "normal", "mitochondrion")


def test_without_remembering_only_the_taught_class_is_left(tmp_path):
    stack, truth = texture()
    made = quick(tmp_path, corrected_of(stack, stroked(truth)), remember=False)
    model = read_model(made.folder).description
    assert model.class_names == model.pixel_classes == ("mitochondrion",)
    assert np.asarray(segment(stack, str(made.folder)).probability).shape == stack.shape


def test_the_time_that_is_told_grows_with_how_busy_the_processor_is(monkeypatch):
    stack, truth = texture()
    settings, corrected = settings_of(reach="quick"), corrected_of(stack, stroked(truth))
    threads, told = torch.get_num_threads(), []
    for seconds in (0.1, 0.3):
        monkeypatch.setattr(estimate, "_time_forward", lambda *_, took=seconds: estimate._Forward(took, 0.1 * threads))
        told.append(run_to_end(iter_plan_finetuning(settings, (corrected,), "cpu")).seconds)
    assert told[1] == pytest.approx(3 * told[0])


def test_the_lesson_tells_a_time(taught):
    stack, truth = texture()
    told = run_to_end(iter_plan_finetuning(settings_of(reach="quick"), (corrected_of(stack, stroked(truth)),), "cpu"))
    assert 0 < told.seconds < 60


def test_the_same_strokes_give_the_same_model_and_scores_and_a_picture_of_it(taught, tmp_path):
    stack, truth = texture()
    seen = []
    work = iter_finetune(settings_of(reach="quick"), (corrected_of(stack, stroked(truth)),), tmp_path, "cpu")
    again = run_to_end(work, seen.append)
    weights = [read_model(each.folder).description.weights_sha256 for each in (taught, again)]
    assert weights[0] == weights[1]
    assert again.report == taught.report
    (picture,) = [each for each in seen if isinstance(each, ValidationPicture)]
    assert picture.is_final
    assert {-1, 2} <= set(np.unique(picture.target)) <= {-1, 0, 2}
    labelled = picture.target >= 0
    right = (picture.probability > 0.5) == (picture.target == 2)
    assert right[labelled].mean() > 0.8


@pytest.mark.parametrize(("value", "told"), [(1, "No voxel is labelled mitochondrion"), (2, "paint some background")])
def test_strokes_of_one_label_are_refused_in_a_sentence(tmp_path, value, told):
    stack, truth = texture()
    with pytest.raises(InputError, match=told):
        quick(tmp_path, corrected_of(stack, np.where(stroked(truth) == value, value, 0).astype(np.uint8)))


def test_a_class_on_a_single_pixel_is_refused_in_a_sentence(tmp_path):
    stack, truth = texture()
    labels = np.minimum(stroked(truth), 1)
    labels[0, 100, 60] = 2
    with pytest.raises(InputError, match="lie in one place"):
        quick(tmp_path, corrected_of(stack, labels))


def test_a_class_on_two_pixels_and_contradictory_strokes_give_a_model(tmp_path):
    stack, truth = texture()
    labels = np.minimum(stroked(truth), 1)
    labels[0, 20, 60] = labels[1, 150, 150] = 2
    assert quick(tmp_path, corrected_of(stack, labels), "two-pixels").folder.is_dir()
    random = np.where(stroked(truth) > 0, np.random.default_rng(0).integers(1, 3, truth.shape), 0).astype(np.uint8)
    made = quick(tmp_path, corrected_of(stack, random))
    probability = np.asarray(segment(stack, str(made.folder)).probability[1])
    assert 0.3 < probability.mean() < 0.7, "a coin"
    assert not made.report.is_better


def test_a_voxel_size_five_times_off_is_said_and_the_model_is_for_the_images_own(tmp_path, library):
    stack, truth = texture()
    far = replace(stack, space=Space("ZYX", (50, 20, 20), "nm"))
    made = quick(tmp_path, corrected_of(far, stroked(truth)))
    model = read_model(made.folder).description
    assert model.voxel_size[-2:] == (20, 20)
    assert "20" in model.card.data
    prediction = segment(far, str(made.folder))
    assert dice(np.asarray(prediction.probability[1]) > prediction.thresholds[1], truth == 2) > 0.6


def test_a_model_whose_scoring_was_stopped_is_only_scored(taught, tmp_path):
    stack, truth = texture()
    labels = (corrected_of(stack, stroked(truth)),)
    work = iter_finetune(settings_of("new", reach="quick"), labels, tmp_path, "cpu")
    while "scoring new" not in next(work).message:
        pass
    work.close()
    written = (tmp_path / "new" / "weights.safetensors").stat().st_mtime_ns
    assert read_model(tmp_path / "new").description.card.scores == {}
    assert quick(tmp_path, *labels).report == taught.report
    assert (tmp_path / "new" / "weights.safetensors").stat().st_mtime_ns == written


def test_the_card_the_table_and_the_report_have_the_same_scores(taught):
    model = read_model(taught.folder).description
    rows = {row.score: row for row in taught.report.rows}
    scored = {f"{name} mitochondrion": rows[name].new for name in ("Dice", "precision")}
    assert model.card.scores == scored
    for name in ("Dice", "precision"):
        low, high = rows[name].limits
        assert low <= rows[name].new <= high
        assert f"{name} {low:.2f} to {high:.2f}" in model.card.scores_on
    strokes = re.search(r"\d+ strokes of it and \d+ of the background", model.card.scores_on).group()
    assert strokes in taught.report.reason
    assert "the model itself learnt from them too" in model.card.scores_on
    assert model.thresholds == (0.5, *model.thresholds[1:])


def test_four_classes_with_three_strokes_each(tmp_path):
    stack, _ = texture()
    values = np.asarray(stack.data).copy()
    truth = np.ones_like(values)
    for value in range(2, 6):
        truth[:, 40 * (value - 2) + 4 : 40 * (value - 2) + 36, 40:160] = value
        values[truth == value] = 40 * value + np.random.default_rng(value).normal(0, 8, (truth == value).sum())
    image = Stack(values, Space("ZYX", (50, 4, 4), "nm"), name="four")
    classes = tuple(ClassLabel(f"kind {value}", value) for value in range(2, 6))
    made = quick(tmp_path, corrected_of(image, stroked(truth, count=3)), classes=classes)
    prediction = segment(image, str(made.folder))
    assert prediction.class_names == ("membrane", *(each.name for each in classes))
    for value in range(2, 6):
        assert dice(np.asarray(prediction.probability[value - 1]) > 0.5, truth == value) > 0.6


def test_normal_takes_several_classes_with_few_strokes_and_contradictory_ones(tmp_path):
    stack, truth = texture()
    labels = np.where(stroked(truth) > 0, np.random.default_rng(0).integers(1, 5, truth.shape), 0).astype(np.uint8)
    classes = tuple(ClassLabel(f"kind {value}", value) for value in range(2, 5))
    settings = settings_of(reach="normal", steps=2, patch=(32, 32), classes=classes)
    made = finetuned(tmp_path, settings, corrected_of(stack, labels))
    probability = np.asarray(segment(stack, str(made.folder)).probability)
    assert probability.shape[0] == 4
    assert np.isfinite(probability).all()
    assert not made.report.is_better


def test_a_volume_is_learnt_in_3d():
    generator = np.random.default_rng(0)
    truth = np.zeros((32, 48, 48), np.int8)
    truth[8:24, 8:40, 8:24] = 1
    image = np.where(
        truth, generator.normal(0, 1, truth.shape), np.kron(generator.normal(0, 1, (8, 12, 12)), np.ones((4, 4, 4)))
    )
    labels = np.full_like(truth, -1)
    labels[::8, ::6] = truth[::8, ::6]
    network = add_pixel_heads(build(UNetSpec(3, widths=(4, 8))).eval(), (0,), (1,), classes=2)

    class Crop:
        pass

    crop = Crop()
    crop.image, crop.target = image[None].astype(np.float16), labels * 2
    crop.target[labels < 0] = -1
    crop.held_out, crop.accepted = np.full_like(crop.target, -1), np.zeros(crop.target.shape, bool)
    fit_pixel_heads(network, (1,), run_to_end(iter_read_pixels(network, (crop,), 0, CPU)))
    with torch.inference_mode():
        found = network.probability(network(torch.from_numpy(image[None, None]).float()).logits)[0, 1].numpy() > 0.5
    assert dice(found, truth == 1) > 0.7


def pixels(columns, strokes, groups=((0,),)):
    columns = np.asarray(columns, np.float32)
    flat = np.zeros(columns.shape[1], np.float32), np.ones(columns.shape[1], np.float32)
    nothing = np.zeros(len(columns), int)
    return LabelledPixels(columns, nothing, np.asarray(strokes), nothing > 0, columns, (flat[0],), (flat[1],), groups)


def test_noise_is_told_with_no_certainty_and_what_is_sure_is_sure():
    generator = np.random.default_rng(0)
    positive = np.arange(400) % 2 == 0
    strokes = np.arange(400) // 10 * 2 + positive
    noise = fit_class(pixels(generator.normal(size=(400, 20)), strokes), positive)
    clear = fit_class(pixels(generator.normal(size=(400, 20)) + 4 * positive[:, None], strokes), positive)
    assert noise.loss > 0.6
    assert clear.loss < 0.1
    assert np.linalg.norm(noise.weights) < 0.2 * np.linalg.norm(clear.weights)


def test_a_feature_that_differs_by_stroke_alone_is_not_trusted():
    """Each stroke has a value of its own: a pixel in the middle of a known stroke is easy, a new stroke is not."""
    generator = np.random.default_rng(0)
    positive = np.repeat(np.arange(10) % 2 == 0, 50)
    strokes = np.repeat(np.arange(10), 50)
    own = np.repeat(np.eye(10), 50, axis=0) + generator.normal(0, 0.05, (500, 10))
    assert fit_class(pixels(own, strokes), positive).loss > 0.6


def test_background_that_no_stroke_shows_is_not_called_the_class(monkeypatch):
    generator = np.random.default_rng(0)
    positive = np.arange(400) % 2 == 0
    strokes = np.arange(400) // 10 * 2 + positive
    places = {"class": (3, 0), "painted": (-3, 0), "never painted": (3, -4)}
    kinds = np.array(list(places.values()))[np.repeat([0, 1, 2], [300, 1500, 1200])]
    labelled = kinds[np.where(positive, 0, 300)] + generator.normal(size=(400, 2))
    around = (kinds + generator.normal(size=kinds.shape)).astype(np.float32)
    image = replace(pixels(labelled, strokes), around=around)
    assert fit_class(image, positive).marked < 0.25, "a tenth is the class"
    monkeypatch.setattr(pixel_classifier, "UNPAINTED", 0.0)
    assert fit_class(image, positive).marked > 0.4


def test_an_accepted_slice_is_many_strokes_and_a_stroke_is_one():
    labels = np.full((128, 128), -1, np.int8)
    labels[60:66, 10:100] = 1  # over the grid's lines
    labels[70:76, 10:40] = 0
    assert len(np.unique(labelled_pixels.number_strokes(labels, 64))) == 3
    assert len(np.unique(labelled_pixels.number_strokes(np.zeros((128, 128), np.int8), 64))) == 4


def test_rare_labels_are_among_the_tiles_that_are_read(monkeypatch):
    monkeypatch.setattr(labelled_pixels, "MOST_TILES", 4)
    labels = np.zeros((512, 512), np.int8)
    labels[500, 500] = 1
    tiles = labelled_pixels._draw_tiles([labels], 64, np.random.default_rng(0))
    assert len(tiles) == 4
    assert (0, (slice(448, 512), slice(448, 512))) in tiles


def test_tiles_whose_windows_overlap_are_computed_together():
    def tile(y, x):
        return slice(y, y + 128), slice(x, x + 128)

    near, far = [tile(0, 0), tile(0, 256), tile(128, 128)], tile(1664, 1664)
    tiles = [(0, near[0]), (1, near[0]), (0, near[1]), (0, near[2]), (0, far)]
    joined = labelled_pixels.join_tiles(tiles, [(2048, 2048), (128, 128)], 64)
    found = [(number, window, sorted(tiles, key=str)) for number, window, tiles in joined]
    assert found == [
        (0, (slice(0, 256), slice(0, 384)), sorted(near, key=str)),
        (1, near[0], [near[0]]),
        (0, far, [far]),
    ]


def test_growing_a_network_with_pixel_heads_starts_their_classes_anew(taught):
    network = read_model(taught.folder).network
    grown = grow_classes(network, (0, 1), channels=4)
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        old, new = (each.probability(each(image).logits) for each in (network, grown))
    assert new.shape[1] == 3
    assert torch.allclose(new[:, 0], old[:, 0], atol=0.02)
    assert torch.equal(new[:, 1], new[:, 2])
    assert MITO
