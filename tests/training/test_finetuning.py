"""From a model and corrections to a new model: what moves, what is remembered, what is told, and what is left."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from napari_skipseg.errors import InputError, ModelError, SpecError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.description import ClassLabel, ModelDescription, card_facts
from napari_skipseg.models.folder import SAMPLE_FILE
from napari_skipseg.models.model import read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import ImageFindings, run_to_end
from napari_skipseg.training.finetune import run, task
from napari_skipseg.training.finetune.blocks import BlockTable, CountedLabel, LabelledBlock, iter_find_labelled_blocks
from napari_skipseg.training.finetune.crops import iter_read_crops
from napari_skipseg.training.finetune.estimate import iter_plan_finetuning
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected, plan_classes
from napari_skipseg.training.finetune.rehearsal import rehearsal_samples_of
from napari_skipseg.training.finetune.report import (
    CORRECTIONS,
    OWN_SAMPLE,
    STROKES,
    HeldOut,
    MeasuredScores,
    collect_scoring_data,
    compare,
    count_held_out,
)
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.finetune.stroke_scores import CalledPixels
from napari_skipseg.training.finetune.task import UNPAINTED_WEIGHTS
from napari_skipseg.training.progress import ComparisonReport, KeepBest, ScoreRow, TrainingProgress, ValidationPicture
from napari_skipseg.training.settings import AUGMENTATIONS, STEPS, FinetuneSettings, settings_from_json

MITO = (ClassLabel("mitochondrion", 2),)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _models(library, monkeypatch):
    """The library, and a short start of new classes and few prepared patches, which most of the time would go to."""
    monkeypatch.setenv(MODELS_VARIABLE, str(library))
    monkeypatch.setitem(STEPS, "quick", 8)
    monkeypatch.setattr(task, "KEPT_FEATURES", 24)


def squares(depth=2, side=128):
    """Return an image with bright squares, and dense labels of them: background 1, squares 2."""
    labels = np.ones((depth, side, side), np.uint8)
    for z, y, x in np.ndindex(depth, side // 32, side // 32):
        if (z + y + x) % 2:
            labels[z, 32 * y + 8 : 32 * y + 24, 32 * x + 8 : 32 * x + 24] = 2
    image = RNG.normal(100, 10, labels.shape) + 60 * (labels == 2)
    return Corrected(Stack(image.astype(np.uint8), Space("ZYX", (50, 4, 4), "nm"), name="squares"), labels, "squares")


def settings_of(name="new", **options):
    values = {
        "reach": "full",
        "steps": 30,
        "learning_rate": 1e-2,
        "patch": (64, 64),
        "augmentation": AUGMENTATIONS["none"],
        "classes": MITO,
        "precision": "f32",
    }
    return FinetuneSettings(name, ("squares.tif",), ("labels.tif",), **values | options, model="membranes")


def finetuned(folder, settings, *corrected):
    return run_to_end(iter_finetune(settings, corrected or (squares(),), folder, "cpu"))


def predict(folder, stack):
    """Return the probabilities (Z, classes, Y, X) that a model finds in a stack."""
    image = torch.from_numpy(measure(stack).apply(stack.read((slice(None),) * 3)))[:, None]
    network = read_model(folder).network
    with torch.inference_mode():
        return network.probability(network(image).logits).numpy()


def scores(report, on, class_name):
    return {row.score: (row.old, row.new) for row in report.rows if (row.on, row.class_name) == (on, class_name)}


@pytest.fixture(scope="module")
def result(library, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(library))
        return finetuned(tmp_path_factory.mktemp("new"), settings_of(steps=80, learning_rate=4e-3))


def test_a_new_class_is_found_on_what_was_held_out(result):
    held = scores(result.report, CORRECTIONS, "mitochondrion")
    assert held["Dice"][0] is None
    assert held["Dice"][1] > 0.8
    assert held["FNR"][1] < 0.3
    assert result.report.is_unsure  # two places say little, however high the score
    assert "mitochondrion" in result.report.reason


def test_both_models_are_scored_on_the_old_ones_own_sample(result):
    own = scores(result.report, OWN_SAMPLE, "membrane")
    assert own.keys() == {"Dice", "FPR", "FNR"}
    assert own["Dice"][0] > 0.5
    assert own["Dice"][1] > own["Dice"][0] - 0.05


def test_the_new_model_says_how_it_came_to_be(result, library):
    model, parent = read_model(result.folder).description, read_model(library / "membranes").description
    assert model.class_names == ("membrane", "mitochondrion")
    assert model.classes[1] == ClassLabel("mitochondrion", 2)
    assert (model.voxel_size, model.unit) == (parent.voxel_size, parent.unit)
    record = model.training
    assert (record.parent, record.parent_sha256) == ("membranes", parent.weights_sha256)
    assert parent.weights_sha256 in card_facts(model)["Started from"]
    assert settings_from_json(FinetuneSettings, json.dumps(record.settings)) == settings_of(
        steps=80, learning_rate=4e-3
    )
    assert (record.report["is_better"], record.report["is_unsure"]) == (False, True)
    assert set(record.curves) == {"training loss", "held-out loss", "held-out Dice"}
    assert model.card.scores["Dice mitochondrion"] > 0.8
    assert "squares.tif" in model.card.data
    assert model.margin > 0
    assert not list(result.folder.parent.glob("*.training"))


def test_the_new_models_own_sample_holds_old_and_new_patches(result, library):
    description = read_model(result.folder).description
    content = (result.folder / SAMPLE_FILE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == description.sample_sha256
    assert (library / "membranes" / SAMPLE_FILE).exists()
    sample = rehearsal_samples_of(result.folder, description)
    assert sample.judged.any(axis=0).all()
    assert not sample.judged.all(axis=1).any()


def changed(before, after):
    return {name for name, tensor in before.items() if not torch.allclose(tensor, after[name], atol=2e-3)}


@pytest.mark.parametrize("reach", ["quick", "normal", "full"])
def test_only_what_the_reach_allows_moves(library, tmp_path, reach):
    options = {"classes": (ClassLabel("membrane", 2),)} if reach == "quick" else {}  # a new one has a pixel head
    result = finetuned(tmp_path, settings_of(reach=reach, steps=8, learning_rate=2e-2, patch=(32, 32), **options))
    parent, new = read_model(library / "membranes").network, read_model(result.folder).network
    before, after = parent.state_dict(), new.state_dict()
    del before["classifier.weight"], before["classifier.bias"]
    moved = {name.split(".")[0] for name in changed(before, after)}
    parts = parent.parts.last if reach == "quick" else parent.parts.decoder
    assert moved - {"encoder"} <= {part.split(".")[0] for part in parts}
    assert ("encoder" in moved) == (reach == "full")
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)


def test_batch_norm_statistics_follow_where_asked(library, tmp_path):
    result = finetuned(tmp_path, settings_of(batch_norm="updated", steps=4))
    before = read_model(library / "membranes").network.state_dict()
    after = read_model(result.folder).network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if "running_mean" in name)


def test_quick_trains_the_last_level_on_features_computed_once(library, tmp_path):
    result = finetuned(tmp_path, settings_of(reach="quick", steps=60, batch=4, classes=()))
    before, after = scores(result.report, CORRECTIONS, "membrane")["Dice"]
    assert after > before + 0.2
    assert read_model(result.folder).description.margin == read_model(library / "membranes").description.margin


def test_without_remembering_classes_that_the_labels_do_not_judge_are_dropped(tmp_path):
    result = finetuned(tmp_path, settings_of(remember=False, steps=4))
    model = read_model(result.folder).description
    assert (model.class_names, model.spec.out_channels) == (("mitochondrion",), 1)
    assert {row.on for row in result.report.rows} == {CORRECTIONS}


def test_strokes_of_the_models_own_class_are_enough(tmp_path):
    corrected = squares(side=192)
    strokes = np.where(RNG.random(corrected.labels.shape) < 0.02, corrected.labels, 0).astype(np.uint8)
    result = finetuned(tmp_path, settings_of(classes=(), steps=60), Corrected(corrected.stack, strokes, "squares"))
    held = scores(result.report, CORRECTIONS, "membrane")
    assert held["Dice"][1] > 0.8 > held["Dice"][0]
    assert "V_rand" not in held  # nothing whole to flood
    assert read_model(result.folder).network.spec.out_channels == 1


def test_quick_leaves_what_nobody_painted_as_it_was(library, tmp_path, monkeypatch):
    sample = make_sample((2, 96, 96), seed=5)
    labels = np.zeros(sample.stack.shape, np.uint8)
    labels[0, 8:88:16, 10:80] = 1  # lines that say "background", over membranes too
    labels[1, 40:44, 10:80] = 2
    corrected = Corrected(sample.stack, labels, "lines")
    probability = {}
    for name, weight in (("held", UNPAINTED_WEIGHTS["quick"]), ("loose", 0.0)):
        monkeypatch.setitem(UNPAINTED_WEIGHTS, "quick", weight)
        settings = settings_of(name, reach="quick", classes=(), remember=True)
        made = finetuned(tmp_path, settings, corrected)
        probability[name] = predict(made.folder, sample.stack)[:, 0]
    before = predict(library / "membranes", sample.stack)[:, 0]
    moved = {name: np.abs(each - before)[labels == 0].mean() for name, each in probability.items()}
    assert moved["held"] < 0.8 * moved["loose"]


def test_strokes_are_scored_apart_from_what_was_accepted(library, tmp_path):
    sample = make_sample((4, 160, 160), seed=5)
    found = predict(library / "membranes", sample.stack)[:, 0] > 0.5
    strokes = np.where(found != sample.membrane, sample.membrane + np.uint8(1), 0).astype(np.uint8)
    strokes[:2] = 0
    labels = np.where(strokes > 0, strokes, 0)
    labels[:2] = found[:2] + np.uint8(1)
    result = finetuned(tmp_path, settings_of(classes=(), steps=60), Corrected(sample.stack, labels, "half", strokes))
    held = {on: scores(result.report, on, "membrane")["Dice"] for on in (CORRECTIONS, STROKES)}
    assert held[STROKES][0] < 0.01  # where it was painted, the old model was wrong
    assert held[STROKES][1] > 0.2
    assert held[CORRECTIONS][0] > 0.7


def test_membranes_of_whole_slices_are_scored_by_v_rand(library, tmp_path):
    sample = make_sample((3, 160, 160), seed=1)
    corrected = Corrected(sample.stack, sample.membrane + np.uint8(1), "sample")
    result = finetuned(tmp_path, settings_of(classes=(), steps=2, validate="2"), corrected)
    old, new = scores(result.report, CORRECTIONS, "membrane")["V_rand"]
    assert 0 < old <= 1
    assert 0 < new <= 1


def test_a_volume_is_fine_tuned_in_3d(tmp_path, monkeypatch):
    sample = make_isotropic_sample((24, 64, 64))
    spec = UNetSpec(dimensions=3, widths=(4, 8))
    parent = ModelDescription("membranes", spec, (ClassLabel("membrane", 1),), 8, "", (8.0, 8.0, 8.0), "nm")
    write_model(tmp_path / "models" / "membranes", parent, build(spec))
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    corrected = Corrected(sample.stack, sample.mitochondria + np.uint8(1), "sample")
    result = finetuned(tmp_path, settings_of(steps=2, patch=(16, 32, 32)), corrected)
    assert read_model(result.folder).network.spec.dimensions == 3
    assert scores(result.report, CORRECTIONS, "mitochondrion").keys() == {"Dice", "FPR", "FNR"}


def test_progress_tells_curves_and_a_picture_and_keep_ends_it(tmp_path):
    work = iter_finetune(settings_of(steps=120), (squares(),), tmp_path, "cpu")
    told, command = [], None
    while True:
        try:
            told.append(work.send(command))
        except StopIteration as stop:
            result = stop.value
            break
        command = KeepBest() if isinstance(told[-1], ValidationPicture) else None
    pictures = [each for each in told if isinstance(each, ValidationPicture)]
    assert [each.is_final for each in pictures] == [False, True]
    assert pictures[0].image.shape == pictures[0].probability.shape == pictures[0].target.shape
    assert {"held-out loss", "held-out Dice"} <= {
        name for each in told if isinstance(each, TrainingProgress) for name in each.values
    }
    curve = read_model(result.folder).description.training.curves["held-out loss"]
    assert curve[-1][0] < 120


def test_keep_before_the_first_step_is_refused(tmp_path):
    work = iter_finetune(settings_of(), (squares(),), tmp_path, "cpu")
    next(work)
    with pytest.raises(SpecError, match="nothing to keep yet"):
        work.send(KeepBest())


def test_a_fine_tuning_that_was_closed_goes_on_where_it_stopped(tmp_path):
    settings, corrected = settings_of(steps=12), (squares(),)
    straight = run_to_end(iter_finetune(settings, corrected, tmp_path / "straight", "cpu"))
    work = iter_finetune(settings, corrected, tmp_path / "resumed", "cpu")
    steps = 0
    while steps < 5:
        steps = max(steps, getattr(next(work), "step", 0))
    work.close()
    assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["new.training"]
    with pytest.raises(SpecError, match="belongs to other settings"):
        run_to_end(iter_finetune(replace(settings, seed=3), corrected, tmp_path / "resumed", "cpu"))
    resumed = run_to_end(iter_finetune(settings, corrected, tmp_path / "resumed", "cpu"))
    for name in ("weights.safetensors", "sample.safetensors"):
        assert (resumed.folder / name).read_bytes() == (straight.folder / name).read_bytes()
    assert resumed.report == straight.report


def test_a_checkpoint_of_other_corrections_is_refused_or_thrown_away(tmp_path):
    settings, first = settings_of(steps=12), squares()
    other = Corrected(first.stack, np.where(first.labels == 2, 1, 2).astype(np.uint8), first.name)
    work = iter_finetune(settings, (first,), tmp_path, "cpu")
    while not isinstance(told := next(work), TrainingProgress) or told.step < 6:
        pass
    work.close()
    with pytest.raises(SpecError, match="belongs to other settings"):
        run_to_end(iter_finetune(settings, (other,), tmp_path, "cpu"))
    steps = [
        each.step
        for each in iter_finetune(settings, (other,), tmp_path, "cpu", afresh=True)
        if isinstance(each, TrainingProgress)
    ]
    assert steps[0] == 1
    assert not list(tmp_path.glob("*.training"))


def test_minutes_end_a_fine_tuning(tmp_path):
    result = finetuned(tmp_path, settings_of(steps=0, minutes=0.03))
    assert read_model(result.folder).description.training.curves["held-out loss"]


def test_a_model_of_that_name_is_not_written_over_and_the_old_one_stays(library, tmp_path):
    before = {path.name: path.read_bytes() for path in (library / "membranes").iterdir()}
    finetuned(tmp_path, settings_of(steps=1))
    with pytest.raises(ModelError, match="never overwritten"):
        next(iter_finetune(settings_of(steps=1), (squares(),), tmp_path, "cpu"))
    assert {path.name: path.read_bytes() for path in (library / "membranes").iterdir()} == before
    with pytest.raises(ModelError, match="'em-membrane' is a built-in model; a model is never overwritten"):
        next(iter_finetune(settings_of("em-membrane"), (squares(),), tmp_path, "cpu"))


def test_what_cannot_be_learnt_from_leaves_nothing_behind(tmp_path):
    empty = squares()
    empty.labels[:] = 0
    with pytest.raises(InputError, match="No voxel is labelled"):
        finetuned(tmp_path, settings_of(), empty)
    with pytest.raises(SpecError, match="A 2D network needs a patch of 2 lengths"):
        finetuned(tmp_path, settings_of(patch=(16, 32, 32)))
    with pytest.raises(ModelError, match="no model called 'gone'"):
        finetuned(tmp_path, replace(settings_of(), model="gone"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reach", ["quick", "normal"])
def test_the_summary_tells_numbers_and_time_before_it_starts(reach):
    summary = run_to_end(iter_plan_finetuning(settings_of(reach=reach), (squares(),), "cpu"))
    assert summary.is_in_turn == (reach == "quick")
    assert (summary.held_out["mitochondrion"] > 0) != summary.is_in_turn
    assert summary.pixels["mitochondrion"] > summary.held_out["mitochondrion"]
    assert summary.slices == 2
    assert 0 < summary.seconds < 600
    in_minutes = settings_of(reach=reach, steps=0, minutes=2, classes=() if reach == "quick" else MITO)
    timed = run_to_end(iter_plan_finetuning(in_minutes, (squares(),), "cpu"))
    assert 120 < timed.seconds < 150


def test_a_deep_reach_ends_after_minutes_unless_steps_or_other_minutes_are_named():
    assert settings_of(steps=0, reach="normal").time_limit == 2
    assert settings_of(steps=0, reach="normal", minutes=0.5).time_limit == 0.5
    assert settings_of(steps=7, reach="normal").time_limit == 0
    assert settings_of(steps=0, reach="quick").time_limit == 0


def row(on, score, old, new, class_name="membrane"):
    return {(on, class_name, score): old} if old is not None else {}, {(on, class_name, score): new}


NOTHING = MeasuredScores({}, {})
PLENTY = HeldOut(40, {"membrane": 20, "mitochondrion": 20}, True)
CLASSES = ClassPlan((ClassLabel("membrane", 1), *MITO), (0,), (False, True), {2: 2})
PLAN = plan_classes(
    settings_of(), type("Parent", (), {"classes": (ClassLabel("membrane", 1),), "class_names": ("membrane",)})
)


@pytest.mark.parametrize(
    ("found", "is_better", "reason"),
    [
        ([row(CORRECTIONS, "Dice", 0.7, 0.8)], True, "Dice membrane 0.700 → 0.800"),
        ([row(CORRECTIONS, "Dice", 0.8, 0.8004)], False, "no better on the held-out corrections"),
        ([row(CORRECTIONS, "Dice", None, 0.1, "mitochondrion")], False, "does not find mitochondrion yet"),
        (
            [row(CORRECTIONS, "Dice", 0.7, 0.9), row(OWN_SAMPLE, "V_rand", 0.95, 0.9)],
            False,
            "V_rand of membrane fell from 0.950 to 0.900",
        ),
    ],
)
def test_a_report_says_in_a_sentence_whether_the_new_model_is_better(found, is_better, reason):
    old = {key: value for first, _ in found for key, value in first.items()}
    new = {key: value for _, second in found for key, value in second.items()}
    report = compare(MeasuredScores(old, {}), MeasuredScores(new, {}), PLAN, PLENTY)
    assert isinstance(report, ComparisonReport)
    assert not report.is_unsure
    assert report.is_better is is_better
    assert reason in report.reason
    assert all(isinstance(each, ScoreRow) for each in report.rows)


def on_strokes(found, wrong, marked, accepted=None):
    """Return scores of membranes from strokes, each with the share of it that is called so, class and background."""
    called, positive, names = [], [], []
    for number, share in enumerate([*found, *wrong]):
        called.append(np.arange(10) < round(share * 10))
        positive.append(np.full(10, number < len(found)))
        names.append(np.full(10, number))
    pixels = CalledPixels(*(np.concatenate(each) for each in (called, positive, names)))
    scores = {(CORRECTIONS, "membrane", "Dice"): 0.9 if accepted is None else accepted}
    scores |= {} if accepted is None else {(STROKES, "membrane", "Dice"): 0.9}
    return MeasuredScores(scores, {"membrane": marked}, {"membrane": pixels})


@pytest.mark.parametrize(
    ("old", "new", "is_better", "is_unsure", "reason"),
    [
        # 0.9 on the strokes, but a quarter of the image is marked: Quick says the same of it
        (NOTHING, on_strokes([1.0] * 20, [0.1] * 20, 0.25), False, True, "not enough to tell how good it is"),
        (NOTHING, on_strokes([1.0] * 20, [0.0] * 60, 0.1), True, False, "finds 100 % (86 % to 100 %)"),
        (NOTHING, on_strokes([0.2] * 20, [0.0] * 60, 0.1), False, False, "not enough yet"),
        (
            on_strokes([0.2] * 20, [0.1] * 20, 0.2),
            on_strokes([0.9] * 20, [0.0] * 20, 0.2),
            True,
            False,
            "better: of 20 strokes of it and 20 of the background that were held out it finds 90 % of membrane (the "
            "old model 20 %) and wrongly marks 0 % (the old model 10 %)",
        ),
        (on_strokes([0.9] * 20, [0.0] * 20, 0.2), on_strokes([0.9] * 20, [0.0] * 20, 0.2), False, False, "no better"),
        (
            on_strokes([0.8] * 2, [0.1] * 2, 0.2),
            on_strokes([0.9] * 2, [0.1] * 2, 0.2),
            False,
            True,
            "Not enough to tell whether the new model is better",
        ),
        (
            on_strokes([0.2] * 20, [0.1] * 20, 0.2, accepted=0.98),
            on_strokes([0.9] * 20, [0.0] * 20, 0.2, accepted=0.9),
            False,
            False,
            "gives up what you accepted: on all corrections together Dice of membrane fell from 0.980 to 0.900",
        ),
    ],
)
def test_strokes_are_judged_for_the_image_whatever_the_reach(old, new, is_better, is_unsure, reason):
    report = compare(old, new, PLAN, PLENTY)
    assert reason in report.reason
    assert (report.is_better, report.is_unsure) == (is_better, is_unsure)
    rows = {row.score: row for row in report.rows if row.on == CORRECTIONS}
    if old is NOTHING:  # corrections of a known class lie on its errors and say nothing of the image
        assert rows["FNR"].new == pytest.approx(1 - new.called["membrane"].rates()[0])
    assert (rows["Dice"].limits is not None) is (old is NOTHING)


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (HeldOut(2, {"mitochondrion": 2}, False), "Only 2 held-out places"),
        (HeldOut(40, {"mitochondrion": 1}, False), "Only 1 held-out place with mitochondrion"),
    ],
)
def test_a_high_score_on_few_places_is_not_called_better(held_out, said):
    key = (CORRECTIONS, "mitochondrion", "Dice")
    report = compare(NOTHING, MeasuredScores({key: 0.967}, {"membrane": 0.2, "mitochondrion": 0.41}), PLAN, held_out)
    assert (report.is_better, report.is_unsure) == (False, True)
    assert report.reason.startswith(said)
    assert "not enough to tell" in report.reason
    assert "mitochondrion 0.967 (the old model finds none" in report.reason
    assert "mitochondrion 41 %" in report.reason
    assert "membrane" not in report.reason


@pytest.mark.parametrize("new", [0.2, 0.0])
def test_few_places_are_enough_to_see_that_a_class_is_not_found(new):
    few = HeldOut(2, {"mitochondrion": 2}, False)
    found = MeasuredScores({(CORRECTIONS, "mitochondrion", "Dice"): new}, {})
    report = compare(NOTHING, found, PLAN, few, "quick")
    assert (report.is_better, report.is_unsure) == (False, False)
    assert "Normal or Full" in report.reason
    assert "--reach normal" in report.reason
    assert "Normal" not in compare(NOTHING, found, PLAN, few, "normal").reason


def test_what_is_forgotten_bit_by_bit_is_seen_against_the_first_model():
    key = (OWN_SAMPLE, "membrane", "V_rand")
    rows = []
    for old, new in ((0.98, 0.968), (0.968, 0.955)):
        found = {key: new, (CORRECTIONS, "membrane", "Dice"): 0.9}
        stored = {"rows": [asdict(row) for row in rows]}
        report = compare(
            MeasuredScores({key: old, (CORRECTIONS, "membrane", "Dice"): 0.5}, {}),
            MeasuredScores(found, {}),
            PLAN,
            PLENTY,
            "quick",
            stored,
        )
        rows = report.rows
    assert rows[0].first == 0.98
    assert not report.is_better
    assert "0.980" in report.reason
    assert "0.955" in report.reason


def places(*sides_and_counts):
    """Return a table with held-out blocks: (side, counts of background and class) each."""
    boxes = [((0, 1), (0, side), (0, side)) for side, _ in sides_and_counts]
    blocks = (LabelledBlock(0, 0, box, counts, True) for box, (_, counts) in zip(boxes, sides_and_counts, strict=True))
    return BlockTable(tuple(blocks), (CountedLabel(0), CountedLabel(1)))


@pytest.mark.parametrize(
    ("table", "is_enough"),
    [
        (places(*[(32, (40, 40))] * 2), False),
        (places(*[(32, (40, 40))] * 19), False),
        (places(*[(32, (40, 40))] * 20), True),
        (places(*[(32, (40, 0))] * 19, (32, (40, 40))), False),
        (places(*[(128, (8000, 8000))] * 2), True),
        (places(*[(128, (400, 400))] * 2), False),
    ],
)
def test_strokes_in_twenty_places_are_enough_to_tell_or_a_few_that_are_labelled_all_over(table, is_enough):
    plan = ClassPlan(MITO, (), (True,), {2: 1})
    found = count_held_out(table, plan)
    assert found.is_enough is is_enough
    assert found.blocks == len(table.held_out)


BRIEF = {"reach": "normal", "steps": 2}


def stop_at(work, message):
    """Run until a progress says so, and close it there as a signal does."""
    for progress in work:
        if message in progress.message:
            break
    else:
        pytest.fail(f"it never said '{message}'")
    work.close()


@pytest.fixture(scope="module")
def unscored(library, tmp_path_factory):
    """A folder with a model whose fine-tuning was stopped while the models were scored, and its corrections."""
    folder, corrected = tmp_path_factory.mktemp("unscored"), squares()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(library))
        stop_at(iter_finetune(settings_of(**BRIEF), (corrected,), folder, "cpu"), "scoring membranes: place 2 of")
    return folder, corrected


@pytest.fixture
def stopped(unscored, tmp_path):
    folder, corrected = unscored
    return shutil.copytree(folder, tmp_path / "stopped"), corrected


@pytest.mark.parametrize("moment", ["", "scoring new: place 2 of"])
def test_a_fine_tuning_that_is_stopped_while_scoring_is_a_model_which_the_same_call_only_scores(stopped, moment):
    settings, (folder, corrected) = settings_of(**BRIEF), stopped
    written = (folder / "new" / "weights.safetensors").stat().st_mtime_ns
    if moment:
        stop_at(iter_finetune(settings, (corrected,), folder, "cpu"), moment)
    model = read_model(folder / "new").description
    assert (model.card.scores, model.training.report) == ({}, {})
    told = []
    result = run_to_end(iter_finetune(settings, (corrected,), folder, "cpu"), told.append)
    assert not any(news.message.startswith("step") for news in told)
    assert (folder / "new" / "weights.safetensors").stat().st_mtime_ns == written
    assert read_model(folder / "new").description.training.report["reason"] == result.report.reason
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_model_without_scores_learnt_from_other_corrections_is_not_taken_for_this_one(stopped):
    folder, first = stopped
    other = Corrected(first.stack, np.where(first.labels == 2, 1, 2).astype(np.uint8), first.name)
    with pytest.raises(ModelError, match="never overwritten"):
        run_to_end(iter_finetune(settings_of(**BRIEF), (other,), folder, "cpu", afresh=True))


def test_a_scoring_that_fails_leaves_the_model_and_says_how_it_is_scored(stopped, monkeypatch):
    folder, corrected = stopped

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(run, "compare", fail)
        with pytest.raises(ModelError, match=r"is written to .*illegal memory access.*the same command only scores it"):
            finetuned(folder, settings_of(**BRIEF), corrected)
    assert finetuned(folder, settings_of(**BRIEF), corrected).report.rows


def test_every_phase_says_how_much_of_it_is_done(tmp_path):
    told = []
    run_to_end(iter_finetune(settings_of(steps=2, reach="normal"), (squares(),), tmp_path, "cpu"), told.append)
    for phase in ("warming up the new classes: step", "scoring membranes: place", "scoring new: place"):
        counts = [(news.done, news.total) for news in told if news.message.startswith(phase)]
        assert len(counts) > 2, phase
        assert counts == sorted(counts)
        assert {total for _, total in counts} == {counts[0][1]}


def test_each_place_is_predicted_once_for_all_that_it_is_compared_with(monkeypatch):
    corrected = squares()
    accepted = corrected.labels.copy()
    strokes = np.where(np.arange(corrected.labels.shape[2]) % 2 == 0, corrected.labels, 0).astype(np.uint8)
    both = (Corrected(corrected.stack, accepted, "half", strokes),)
    table = run_to_end(iter_find_labelled_blocks(settings_of(), both, CLASSES, 2))
    read = run_to_end(iter_read_crops(both, table, CLASSES, (64, 64), 0))
    scoring = collect_scoring_data(read, CLASSES, None, 8, 4)
    assert len(scoring.patches) == len(read.table.held_out)
    for patch in scoring.patches:
        on_all, on_strokes = (each.target for each in patch.comparisons)
        assert 0 < (on_strokes >= 0).sum() < (on_all >= 0).sum()


def test_the_picture_shows_the_sample_with_the_labels_and_not_the_first_of_the_batch(tmp_path):
    corrected = squares()
    corrected.labels[:, :, :64] = np.minimum(corrected.labels[:, :, :64], 1)  # no square on the left
    work = iter_finetune(settings_of(steps=2), (corrected,), tmp_path, "cpu")
    picture = next(news for news in work if isinstance(news, ValidationPicture))
    assert (picture.target == 2).sum() > 100
    bright = picture.image[picture.target == 2].mean() - picture.image[picture.target == 0].mean()
    assert bright > 1  # it is the image of these labels


def test_a_model_taught_at_another_voxel_size_is_for_that_size_and_says_so(library, tmp_path):
    coarse = squares()
    coarse = Corrected(
        replace(coarse.stack, space=replace(coarse.stack.space, voxel_size=(50, 5, 5))), coarse.labels, coarse.name
    )
    settings = settings_of(reach="quick", steps=2)
    found = []
    summary = run_to_end(iter_plan_finetuning(settings, (coarse,), "cpu"))
    result = run_to_end(
        iter_finetune(settings, (coarse,), tmp_path, "cpu"),
        lambda news: found.extend(news.findings if isinstance(news, ImageFindings) else ()),
    )
    model = read_model(result.folder).description
    assert (model.voxel_size, model.unit) == ((50, 5, 5), "nm")
    for told in (found, summary.notes, [model.card.data]):
        assert any("5 × 5 nm" in each and "membranes is for 4 × 4 nm" in each for each in told)
