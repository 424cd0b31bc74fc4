"""The ablation of short and long skips: real, small trainings."""

import csv
import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_skipseg.cli import app
from napari_skipseg.errors import FileError, InputError, SpecError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.folder import read_description
from napari_skipseg.networks.build import count_parameters
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies import ablation as study
from napari_skipseg.studies.ablation import (
    NEITHER,
    VARIANTS,
    AblationRow,
    ablation_summary,
    iter_ablation,
    plan_ablation,
)
from napari_skipseg.studies.pictures import CurvePanel, draw_curves
from napari_skipseg.training.settings import TrainSettings, settings_to_dict

SPEC = ResidualFCNSpec(width=4, stages=(Stage("simple", 4, 1),), across=Stage("simple", 4, 2))
NAMES = ["small-long-short", "small-short", "small-long"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    sample = make_sample((4, 64, 64))
    write_ome_tiff(folder / "image.tif", sample.stack.data, sample.stack.space)
    tifffile.imwrite(folder / "labels.tif", sample.membrane, metadata={"axes": "ZYX"}, ome=True)
    return TrainSettings(
        "small", (str(folder / "image.tif"),), (str(folder / "labels.tif"),), (ClassLabel("membrane", 1),),
        spec=SPEC, patch=(32, 32), batch=2, steps=20, validate="3", validate_every=10, epoch=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    seen = []
    rows = run_to_end(iter_ablation(settings, folder, "cpu"), seen.append)
    return folder, rows, seen


def rows_of(folder):
    with (folder / "ablation.csv").open(newline="", encoding="utf-8-sig") as handle:
        return list(csv.DictReader(handle))


def weights_of(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("models/*/weights.safetensors")}


def test_each_variant_differs_in_its_skips_alone(settings):
    plan = plan_ablation(settings, (*VARIANTS, NEITHER))
    assert [own.name for own in plan] == [*NAMES, "small-plain"]
    assert [(own.spec.short_skips, own.spec.skip) for own in plan] == [
        (True, "sum"), (True, "none"), (False, "sum"), (False, "none"),
    ]  # fmt: skip
    for own in plan:
        assert replace(own, name="small", spec=SPEC) == settings


def test_what_crosses_the_long_skips_is_the_settings_choice(settings):
    spec = replace(SPEC, level_skips=("sat", "org"), gate_maps=2)
    both, short, long = plan_ablation(replace(settings, spec=spec))
    assert (both.spec.skips, short.spec.skips, long.spec.skips) == (("sat", "org"), ("none", "none"), ("sat", "org"))
    bare = plan_ablation(replace(settings, spec=replace(SPEC, skip="none", short_skips=False)))
    assert [(own.spec.short_skips, own.spec.skip) for own in bare] == [(True, "sum"), (True, "none"), (False, "sum")]


def test_rows_hold_what_the_models_recorded(done, settings):
    folder, rows, _ = done
    assert [row.variant for row in rows] == ["long-short", "short", "long"]
    for row, name in zip(rows, NAMES, strict=True):
        description = read_description(folder / "models" / name)
        held_out = description.training.curves["held-out loss"]
        training = dict(description.training.curves["training loss"])
        assert row.best_held_out_loss == min(value for _, value in held_out)
        assert (row.step, row.best_held_out_loss) in held_out
        assert row.training_loss == training[row.step]
        assert row.held_out_dice == description.card.scores["Dice membrane"]
        assert (row.v_rand, row.v_info) == (description.card.scores["V_rand"], description.card.scores["V_info"])
        assert row.trainable_parameters == count_parameters(description.spec)
        assert row.state == "trained"
        assert row.seconds > 0
        assert all(len(row) == 2 for row in description.training.updates.values())


def test_the_table_holds_the_rows(done):
    folder, rows, _ = done
    for line, row in zip(rows_of(folder), rows, strict=True):
        assert line["variant"] == row.variant
        assert int(line["trainable_parameters"]) == row.trainable_parameters
        assert float(line["best_held_out_loss"]) == row.best_held_out_loss
        assert float(line["seconds"]) == row.seconds


def test_progress_counts_the_steps_of_all_variants(done):
    _, _, seen = done
    assert {progress.total for progress in seen} == {60}
    counts = [progress.done for progress in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 60
    assert seen[-1].message.startswith("only long skips: ")


def test_the_picture_has_a_column_per_variant_with_shared_axes(done):
    folder, _, _ = done
    picture = matplotlib.image.imread(folder / "ablation.png")
    assert picture.shape[:2] == pytest.approx((5.6 * 110, 10.8 * 110), abs=1)
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 50
    curves = read_description(folder / "models" / NAMES[0]).training.curves
    panels = [CurvePanel(title, curves, 10, "trained") for title in ("one", "two")]
    axes = draw_curves(panels).axes
    assert [axis.get_title() for axis in axes] == ["one", "two", "", ""]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[0].get_xlim() == axes[3].get_xlim()
    assert axes[0].lines[1].get_xydata() == pytest.approx(np.array(curves["held-out loss"]))
    assert axes[2].lines[0].get_xydata() == pytest.approx(np.array(curves["held-out Dice"]))


def test_losses_far_above_those_of_training_are_cut_off_and_it_is_said_so():
    training = ((10, 0.8), (20, 0.5))
    calm = CurvePanel("calm", {"training loss": training, "held-out loss": ((20, 1.0),)}, 20, "trained")
    wild = CurvePanel("wild", {"training loss": training, "held-out loss": ((20, 90.0),)}, 20, "trained")
    axis = draw_curves([calm]).axes[0]
    assert (axis.get_ylim(), axis.get_ylabel()) == (pytest.approx((0, 1.05)), "loss")
    axis = draw_curves([calm, wild]).axes[0]
    assert (axis.get_ylim(), axis.get_ylabel()) == (pytest.approx((0, 1.6)), "loss (higher values are cut off)")


def test_losses_below_0_as_dice_is_are_in_the_picture():
    curves = {"training loss": ((10, 0.6), (20, -0.5)), "held-out loss": ((20, -0.6),)}
    bottom, top = draw_curves([CurvePanel("dice", curves, 20, "trained")]).axes[0].get_ylim()
    assert bottom < -0.6
    assert top > 0.6


def test_a_training_that_failed_says_why_in_its_panel():
    texts = draw_curves([CurvePanel("none", {}, None, "failed: The loss is not finite.")]).axes[0].texts
    assert [" ".join(text.get_text().split()) for text in texts] == ["failed: The loss is not finite."]


def test_a_terminal_shows_why_a_variant_failed_only_where_one_did(done):
    _, rows, _ = done
    first = ablation_summary(rows)[0]
    assert first["held-out"] == f"{rows[0].best_held_out_loss:.4f}"
    assert "state" not in first
    failed = ablation_summary((*rows, AblationRow("plain", 7, state="failed: no memory")))
    assert [row["state"] for row in failed] == ["trained"] * 3 + ["failed: no memory"]
    assert failed[3]["held-out"] is None


def test_what_is_trained_is_not_trained_again(done, settings, monkeypatch):
    folder, rows, _ = done

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(study, "iter_train", refuse)
    assert run_to_end(iter_ablation(settings, folder, "cpu")) == rows


def test_stopped_at_any_moment_it_ends_with_the_same_models(done, settings, tmp_path):
    folder, rows, _ = done
    work = iter_ablation(settings, tmp_path, "cpu")
    while next(work).done < 30:
        pass
    work.close()
    left = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert left == ["small-long-short", "small-short.training"]
    assert [row["variant"] for row in rows_of(tmp_path)] == ["long-short"]
    again = run_to_end(iter_ablation(settings, tmp_path, "cpu"))
    assert weights_of(tmp_path) == weights_of(folder)
    assert [row.seconds is None for row in again] == [False, True, False]
    assert [replace(row, seconds=None) for row in again] == [replace(row, seconds=None) for row in rows]


def test_a_variant_that_fails_is_a_row_and_the_others_go_on(done, settings, tmp_path, monkeypatch):
    train = study.iter_train

    def fail_without_long(own, *rest):
        if own.name.endswith("-short") and not own.name.endswith("long-short"):
            raise SpecError("The loss is not finite at step 3: train with a smaller learning rate.")
        return (yield from train(own, *rest))

    monkeypatch.setattr(study, "iter_train", fail_without_long)
    rows = run_to_end(iter_ablation(settings, tmp_path, "cpu"))
    assert [row.state.partition(":")[0] for row in rows] == ["trained", "failed", "trained"]
    assert rows[1].state == "failed: The loss is not finite at step 3: train with a smaller learning rate."
    assert (rows[1].best_held_out_loss, rows[1].seconds) == (None, None)
    assert rows[1].trainable_parameters > 0
    assert replace(rows[2], seconds=None) == replace(done[1][2], seconds=None)
    assert rows_of(tmp_path)[1]["best_held_out_loss"] == ""
    assert (tmp_path / "ablation.png").exists()


def test_a_loss_that_is_not_finite_is_the_state_of_every_row(settings, tmp_path):
    wild = replace(settings, learning_rate=1e30, steps=6, epoch=2, warm_up=0.0)
    rows = run_to_end(iter_ablation(wild, tmp_path, "cpu"))
    assert all(row.state.startswith("failed: The loss is not finite at step") for row in rows)


def test_a_full_disk_ends_the_ablation(settings, tmp_path, monkeypatch):
    def full(*_):
        raise FileError("The checkpoint cannot be written: free some space and resume.")
        yield

    monkeypatch.setattr(study, "iter_train", full)
    with pytest.raises(FileError, match="free some space"):
        run_to_end(iter_ablation(settings, tmp_path, "cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": UNetSpec()}, "only the residual FCN has short skips to take away, and these settings train a unet"),
        ({"validate": ""}, "slices held out: name some with validate"),
        ({"start_from": "em-membrane"}, "leave start_from out"),
        ({"validate": "9"}, "Slice 9 cannot be held out"),
    ],
)
def test_bad_settings_are_one_sentence_before_anything_is_written(settings, tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        run_to_end(iter_ablation(replace(settings, **changes), tmp_path / "out", "cpu"))
    assert not (tmp_path / "out").exists()


def test_unfit_images_are_one_sentence_before_any_training(settings, tmp_path):
    with pytest.raises(InputError, match="No pixel is labelled membrane"):
        run_to_end(iter_ablation(replace(settings, classes=(ClassLabel("membrane", 7),)), tmp_path / "out", "cpu"))
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_mix_with_what_is_there(done, settings):
    folder, _, _ = done
    before = (folder / "ablation.csv").read_bytes()
    with pytest.raises(SpecError, match="contains an ablation with different settings"):
        run_to_end(iter_ablation(replace(settings, seed=1), folder, "cpu"))
    assert (folder / "ablation.csv").read_bytes() == before


def test_the_command_trains_all_four_and_its_models_have_update_maps(settings, tmp_path):
    file, out = tmp_path / "settings.json", tmp_path / "out"
    file.write_text(json.dumps(settings_to_dict(settings)))
    flags = ["--steps", "2", "--epoch", "1", "--seed", "3", "--device", "cpu", "--all", "--json"]
    ended = CliRunner().invoke(app, ["study", "ablation", str(file), str(out), *flags], catch_exceptions=False)
    assert ended.exit_code == 0
    rows = json.loads(ended.stdout)
    assert [(row["variant"], row["step"]) for row in rows] == [
        ("long-short", 2), ("short", 2), ("long", 2), ("plain", 2),
    ]  # fmt: skip
    models = [str(out / "models" / name) for name in (*NAMES, "small-plain")]
    ended = CliRunner().invoke(app, ["study", "updates", *models, str(out)], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "small-plain" in ended.stdout
    assert read_description(out / "models" / "small-long").training.settings["seed"] == 3
