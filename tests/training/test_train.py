"""From settings to a model folder: a real, small training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from napari_skipseg.api import segment
from napari_skipseg.devices import best_precision
from napari_skipseg.errors import FileError, InputError, ModelError, SpecError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.intensity.signature import signature_distance
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.guards import sign_stack
from napari_skipseg.inference.memory import TileChoice
from napari_skipseg.models.description import Card, ClassLabel
from napari_skipseg.models.folder import is_scored, read_description
from napari_skipseg.models.model import read_model
from napari_skipseg.models.model_library import find_training_of
from napari_skipseg.networks.network import class_probability
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.training import evaluate, train
from napari_skipseg.training.distributed import ONE_PROCESS
from napari_skipseg.training.evaluate import WholeImages, iter_score_held_out
from napari_skipseg.training.finetune.rehearsal import rehearsal_samples_of
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.progress import KeepBest
from napari_skipseg.training.settings import Augmentation, TrainSettings, settings_from_json
from napari_skipseg.training.train import checkpoint_folder, first_weights, iter_train

SPEC = UNetSpec(widths=(8, 16, 32))


def write_sample(folder, sample):
    stack = sample.stack
    write_ome_tiff(folder / "image.tif", stack.data, stack.space)
    tifffile.imwrite(folder / "labels.tif", (1 - sample.membrane) * np.uint8(255), metadata={"axes": "ZYX"}, ome=True)
    return {"images": (str(folder / "image.tif"),), "labels": (str(folder / "labels.tif"),)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"), make_sample((6, 96, 96)))


def settings_of(files, name="small", **options):
    values = {
        "spec": SPEC,
        "patch": (64, 64),
        "steps": 60,
        "learning_rate": 5e-3,
        "validate": "5",
        "validate_every": 30,
        "augmentation": Augmentation(warp_sigma=2),
        "card": Card(summary="finds membranes", terms="synthetic"),
    }
    return TrainSettings(name, classes=(ClassLabel("membrane", 0),), **files, **values | options)


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return run_to_end(iter_train(settings_of(files), folder, "cpu"))


def test_training_lowers_the_loss_and_finds_membranes_in_the_slice_held_out(trained):
    description = read_model(trained).description
    curve = [value for _, value in description.training.curves["training loss"]]
    assert len(curve) == 6
    assert curve[-1] < curve[0] - 0.3
    assert description.card.scores["Dice membrane"] > 0.3
    assert set(description.card.scores) == {"Dice membrane", "V_rand", "V_info"}
    assert description.card.scores_on == "slices 5, held out of training but used to choose the weights"


def test_a_trained_model_says_how_it_came_to_be(trained, files):
    description = read_model(trained).description
    assert description.name == trained.name == "small"
    assert description.spec == SPEC
    assert description.classes == (ClassLabel("membrane", 0),)
    assert (description.voxel_size, description.unit) == ((50, 4, 4), "nm")
    assert description.card.terms == "synthetic"
    assert settings_from_json(TrainSettings, json.dumps(description.training.settings)) == settings_of(files)
    assert description.training.versions["torch"]
    assert description.training.parent is None
    assert (description.training.device, description.training.precision) == (
        "cpu",
        best_precision("cpu", training=True).name,
    )
    assert description.margin % 4 == 0
    assert description.margin > 0


def test_nothing_but_the_model_is_left_behind(trained):
    assert [path.name for path in trained.parent.iterdir()] == ["small"]


def test_without_held_out_slices_the_scores_are_the_parents_and_named_so(trained, files, tmp_path):
    parent = read_model(trained).description
    settings = settings_of(files, "all", start_from=str(trained), steps=1, validate="")
    card = read_model(run_to_end(iter_train(settings, tmp_path, "cpu"))).description.card
    assert parent.card.scores
    assert card.scores == parent.card.scores
    assert card.scores_on == f"{parent.card.scores_on}, by small, from which this one went on with all slices"


def test_a_model_of_that_name_is_not_trained_over(trained, files):
    before = (trained / "model.json").read_bytes()
    with pytest.raises(ModelError, match="never overwritten"):
        next(iter_train(settings_of(files), trained.parent, "cpu"))
    assert (trained / "model.json").read_bytes() == before


def test_training_on_from_a_model_starts_with_its_weights_and_names_it(trained, files, tmp_path):
    parent = shutil.copytree(trained, tmp_path / "small")
    (parent / "LICENSE.txt").write_text("only for research", encoding="utf-8")
    settings = settings_of(files, "tuned", start_from=str(parent), steps=1, learning_rate=1e-9)
    folder = run_to_end(iter_train(settings, tmp_path, "cpu"))
    tuned = read_model(folder)
    assert (folder / "LICENSE.txt").read_text(encoding="utf-8") == "only for research"
    assert tuned.description.training.parent == "small"
    assert tuned.description.training.parent_sha256 == read_description(trained).weights_sha256
    assert tuned.description.weights_sha256 != ""
    for (name, first), second in zip(
        read_model(trained).network.named_parameters(), tuned.network.parameters(), strict=True
    ):
        assert torch.allclose(first, second, atol=1e-3), name


def test_training_on_from_a_model_of_other_classes_keeps_what_both_know(trained, files):
    classes = (*read_description(trained).classes, ClassLabel("other", 255))
    settings = settings_of(files, "both", start_from=str(trained))
    both = first_weights(replace(settings, classes=classes, spec=replace(SPEC, out_channels=3)))
    before = read_model(trained).network
    for name, weights in before.named_parameters():
        if not name.startswith(before.head):
            assert torch.equal(weights, dict(both.named_parameters())[name]), name
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        one, two = (class_probability(network.eval()(image).logits) for network in (before, both))
    assert torch.allclose(one[:, 0], two[:, 0], atol=0.02)
    assert two[:, 1].max() <= 0.02


def test_training_on_from_another_network_is_refused(trained, files, tmp_path):
    settings = settings_of(files, "tuned", start_from=str(trained), spec=replace(SPEC, skip="st"))
    with pytest.raises(SpecError, match="has a different network"):
        run_to_end(iter_train(settings, tmp_path, "cpu"))
    with pytest.raises(ModelError, match="no model called 'nobody'"):
        run_to_end(iter_train(settings_of(files, start_from="nobody"), tmp_path, "cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_was_closed_goes_on_where_it_stopped(files, tmp_path):
    settings = settings_of(files, steps=20, validate_every=20, spec=UNetSpec(widths=(4, 8)))
    straight = run_to_end(iter_train(settings, tmp_path / "straight", "cpu"))
    work = iter_train(settings, tmp_path / "resumed", "cpu")
    while next(work).done < 10:
        pass
    work.close()
    assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["small.training"]
    told = []
    resumed = run_to_end(iter_train(settings, tmp_path / "resumed", "cpu"), told.append)
    steps = [news.done for news in told if news.message.startswith("step ")]
    assert steps == [*range(11, 21), 20]  # the last one is the picture of the last validation
    assert (resumed / "weights.safetensors").read_bytes() == (straight / "weights.safetensors").read_bytes()


def test_a_training_told_to_keep_the_best_writes_its_model(files, tmp_path):
    settings = settings_of(files, steps=50, validate_every=20, spec=UNetSpec(widths=(4, 8)))
    work = iter_train(settings, tmp_path, "cpu")
    while next(work).done < 3:
        pass
    told = work.send(KeepBest())
    assert told.message.startswith("measuring the margin")
    model = read_model(run_to_end(work))
    assert [step for step, _ in model.description.training.curves["held-out loss"]] == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_before_the_first_step_there_is_nothing_to_keep(files, tmp_path):
    work = iter_train(settings_of(files), tmp_path, "cpu")
    next(work)
    with pytest.raises(SpecError, match="has not begun, so there is nothing to keep yet: cancel it, or wait"):
        work.send(KeepBest())
    assert list(tmp_path.iterdir()) == []


def test_one_model_is_trained_by_one_process_at_a_time(files, tmp_path):
    work = iter_train(settings_of(files, spec=UNetSpec(widths=(4, 8))), tmp_path, "cpu")
    next(work)
    with pytest.raises(FileError, match=r"being trained .* already"):
        next(iter_train(settings_of(files, spec=UNetSpec(widths=(4, 8))), tmp_path, "cpu"))
    assert next(work) is not None
    work.close()


def test_without_a_slice_held_out_a_model_has_no_scores(files, tmp_path):
    settings = settings_of(files, steps=1, validate="", spec=UNetSpec(widths=(4, 8)))
    description = read_model(run_to_end(iter_train(settings, tmp_path, "cpu"))).description
    assert description.card.scores == {}
    assert set(description.training.curves) == {"training loss"}


def test_several_classes_and_ignored_pixels(tmp_path):
    sample = make_sample((3, 64, 64))
    labels = sample.membrane.copy()
    labels[:, 20:30, 20:40], labels[:, :8] = 2, 9
    paths = write_sample(tmp_path, sample)
    tifffile.imwrite(paths["labels"][0], labels, metadata={"axes": "ZYX"}, ome=True)
    classes = (ClassLabel("membrane", 1), ClassLabel("mitochondrion", 2))
    settings = TrainSettings(
        "two", **paths, classes=classes, ignore=9, steps=2, patch=(32, 32), validate="2",
        spec=UNetSpec(widths=(4, 8), out_channels=3),
    )  # fmt: skip
    model = read_model(run_to_end(iter_train(settings, tmp_path / "out", "cpu")))
    assert model.description.class_names == ("membrane", "mitochondrion")
    assert {"Dice membrane", "Dice mitochondrion"} <= model.description.card.scores.keys()
    assert model.network(torch.zeros(1, 1, 16, 16)).logits.shape == (1, 3, 16, 16)


def dark_and_bright(seed):
    """An image of noise with dark stripes (class 1) and bright squares (class 2), and its whole truth."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((3, 64, 64), np.uint8)
    for plane in truth:
        plane[:, generator.integers(0, 60, 3)[:, None] + np.arange(4)] = 1
        for y, x in generator.integers(0, 54, (3, 2)):
            plane[y : y + 10, x : x + 10] = 2
    image = np.array([120, 40, 200])[truth] + generator.normal(0, 10, truth.shape)
    return image.clip(0, 255).astype(np.uint8), truth


def test_classes_whose_labels_lie_on_different_images_are_all_learnt(tmp_path):
    names = ("stripe", "square")
    for number, name in enumerate(names):
        image, truth = dark_and_bright(number)
        shown = np.where(truth == number + 1, truth, 0)
        for kind, values in (("image", image), ("labels", shown)):
            tifffile.imwrite(tmp_path / f"{name}-{kind}.tif", values, metadata={"axes": "ZYX"}, ome=True)
    settings = TrainSettings(
        "both",
        tuple(str(tmp_path / f"{name}-image.tif") for name in names),
        tuple(str(tmp_path / f"{name}-labels.tif") for name in names),
        tuple(ClassLabel(name, number + 1) for number, name in enumerate(names)),
        judged=(("stripe",), ("square",)),
        spec=UNetSpec(widths=(8, 16), out_channels=3),
        patch=(48, 48),
        steps=80,
        learning_rate=1e-2,
        validate="2,5",
        augmentation=Augmentation(rotation=0, warp_sigma=0),
    )
    model = read_model(run_to_end(iter_train(settings, tmp_path / "out", "cpu")))
    image, truth = dark_and_bright(9)
    probability = segment(image, model).probability
    for number, name in enumerate(names):
        assert score_overlap(probability[number] > 0.5, truth == number + 1).dice > 0.8
        assert model.description.card.scores[f"Dice {name}"] > 0.8  # of the one image that shows the class
    sample = rehearsal_samples_of(tmp_path / "out" / "both", model.description)
    assert {tuple(row) for row in sample.judged.tolist()} == {(True, False), (False, True)}


def test_a_volume_is_trained_on_in_3d(tmp_path):
    paths = write_sample(tmp_path, make_isotropic_sample((24, 64, 64)))
    settings = settings_of(
        paths,
        steps=3,
        patch=(16, 32, 32),
        spec=UNetSpec(dimensions=3, widths=(4, 8)),
        validate="16-23",
        augmentation=Augmentation(swap_axes=True, warp_sigma=1),
    )
    model = read_model(run_to_end(iter_train(settings, tmp_path / "out", "cpu")))
    assert model.description.spec.dimensions == 3
    assert model.description.voxel_size == (8, 8, 8)
    assert 0 <= model.description.card.scores["Dice membrane"] <= 1
    assert model.network(torch.zeros(1, 1, 5, 9, 7)).logits.shape == (1, 1, 5, 9, 7)


@pytest.mark.parametrize("protocol", ["adadelta-glorot", "rmsprop-he"])
def test_a_protocol_of_the_papers_sets_the_first_weights_and_trains(files, tmp_path, protocol):
    spec = UNetSpec(widths=(4, 8))
    settings = settings_of(files, protocol=protocol, learning_rate=None, spec=spec, steps=4, validate_every=2, epoch=2)
    first, modern = first_weights(settings), first_weights(replace(settings, protocol="modern"))
    assert torch.equal(first.gates[0].select.weight, modern.gates[0].select.weight)
    assert not torch.equal(first.encoder[0][0].weight, modern.encoder[0][0].weight)
    assert not first.encoder[0][0].bias.any()
    record = read_model(run_to_end(iter_train(settings, tmp_path, "cpu"))).description.training
    assert record.settings["protocol"] == protocol
    assert (next(iter(record.updates)), list(record.updates)[-1]) == ("encoder.0.0", "classifier")
    assert all(len(row) == 2 and min(row) > 0 for row in record.updates.values())
    weights = first.gates[0].select.weight.tolist()
    assert record.select_start == {"gates.0.select": tuple(round(weight, 5) for weight in weights)}


def test_a_model_that_is_trained_on_keeps_its_weights_under_every_protocol(trained, files):
    settings = settings_of(files, "tuned", start_from=str(trained), protocol="rmsprop-he")
    parent = read_model(trained).network
    for (name, first), second in zip(parent.named_parameters(), first_weights(settings).parameters(), strict=True):
        assert torch.equal(first, second), name


def test_labels_of_one_class_alone_are_refused_before_training(files, tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((6, 96, 96), np.uint8), metadata={"axes": "ZYX"}, ome=True)
    settings = settings_of({**files, "labels": (str(tmp_path / "one.tif"),)})
    with pytest.raises(InputError, match="training needs background too"):
        run_to_end(iter_train(settings, tmp_path / "out", "cpu"))
    settings = replace(settings, classes=(ClassLabel("membrane", 7),))
    with pytest.raises(InputError, match="No pixel is labelled membrane"):
        run_to_end(iter_train(settings, tmp_path / "out", "cpu"))
    assert not (tmp_path / "out").exists()


def test_an_image_of_several_channels_is_trained_on(tmp_path):
    sample = make_sample((2, 64, 64))
    image = np.stack([sample.stack.data] * 3, axis=1)
    write_ome_tiff(tmp_path / "image.tif", image, Space("ZCYX", (50, 4, 4), "nm"))
    tifffile.imwrite(tmp_path / "labels.tif", sample.membrane, metadata={"axes": "ZYX"}, ome=True)
    paths = {"images": (str(tmp_path / "image.tif"),), "labels": (str(tmp_path / "labels.tif"),)}
    settings = TrainSettings(
        "rgb", **paths, classes=(ClassLabel("membrane", 1),), steps=2, patch=(32, 32),
        spec=UNetSpec(widths=(4, 8), in_channels=3),
    )  # fmt: skip
    model = read_model(run_to_end(iter_train(settings, tmp_path / "out", "cpu")))
    assert model.network(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 1, 16, 16)


TINY = {"spec": UNetSpec(widths=(4, 8)), "steps": 2, "validate": "4-5"}


def stop_at(work, message):
    """Run until a progress says so, and close it there as a signal does."""
    for progress in work:
        if message in progress.message:
            break
    else:
        pytest.fail(f"it never said '{message}'")
    work.close()


@pytest.fixture(scope="module")
def unscored(files, tmp_path_factory):
    """A folder with a model whose training was stopped while it was scored."""
    folder = tmp_path_factory.mktemp("unscored")
    stop_at(iter_train(settings_of(files, **TINY), folder, "cpu"), "held out, 1 of 2: tile")
    return folder


@pytest.fixture
def stopped(unscored, tmp_path):
    return shutil.copytree(unscored, tmp_path / "stopped")


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory):
    return run_to_end(iter_train(settings_of(files, **TINY), tmp_path_factory.mktemp("straight"), "cpu"))


@pytest.mark.parametrize("moment", ["", "held out, 1 of 2: V_rand", "held out, 2 of 2: tile"])
def test_a_training_that_is_stopped_while_scoring_is_a_model_which_the_same_call_only_scores(
    files, straight, stopped, moment
):
    settings, model = settings_of(files, **TINY), stopped / "small"
    written = (model / "weights.safetensors").stat().st_mtime_ns
    if moment:
        stop_at(iter_train(settings, stopped, "cpu"), moment)
    assert read_model(model).description.card.scores == {}
    told = []
    assert run_to_end(iter_train(settings, stopped, "cpu"), told.append) == model
    assert not any(news.message.startswith("step") for news in told)
    assert (model / "weights.safetensors").stat().st_mtime_ns == written
    assert read_description(model) == read_description(straight)
    assert [path.name for path in stopped.iterdir()] == ["small"]


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError(), OSError()]
)
def test_a_scoring_that_fails_leaves_the_model_and_says_how_it_is_scored(files, stopped, monkeypatch, error):
    settings = settings_of(files, **TINY)

    def fail(*_):
        raise error
        yield

    with monkeypatch.context() as patch:
        patch.setattr(train, "iter_score_held_out", fail)
        with pytest.raises(ModelError, match=r"is written to .*small.*could not be scored.*only scores it"):
            run_to_end(iter_train(settings, stopped, "cpu"))
    assert not is_scored(stopped / "small")
    assert run_to_end(iter_train(settings, stopped, "cpu")) == stopped / "small"
    assert read_description(stopped / "small").card.scores["Dice membrane"] >= 0


def test_a_model_without_scores_of_another_training_is_not_taken_for_this_one(files, stopped):
    with pytest.raises(ModelError, match="never overwritten"):
        run_to_end(iter_train(replace(settings_of(files, **TINY), seed=1), stopped, "cpu"))


def test_scores_do_not_depend_on_the_tiles(files, trained, monkeypatch):
    settings = settings_of(files)
    model, data = read_model(trained), read_data(settings)
    found = {}
    for side in (96, 56):
        choice = TileChoice(side, 1, 0, "for the test")
        monkeypatch.setattr(evaluate, "choose_tile", lambda *_, choice=choice: choice)
        whole = WholeImages(model, torch.device("cpu"), "f32")
        told = []
        work = iter_score_held_out(whole, data.validation, ("membrane",), 2)
        found[side] = run_to_end(work, told.append)
        tiles = [news.message.rpartition("tile ")[2] for news in told if "tile" in news.message]
        assert tiles == [f"{number} of {len(tiles)}" for number in range(1, len(tiles) + 1)]
        assert (len(tiles) == 1) == (side == 96)  # how many else depends on the margin, and that on the processor
    assert found[56] == pytest.approx(found[96], abs=2e-3)


def test_cells_of_a_slice_too_large_are_scored_in_its_middle_and_the_card_says_so(files, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LARGEST_SCORED", 64)
    seen = []
    real = evaluate.iter_score_slices
    monkeypatch.setattr(evaluate, "iter_score_slices", lambda cell, truth: seen.append(cell.shape) or real(cell, truth))
    card = read_description(run_to_end(iter_train(settings_of(files, **TINY), tmp_path, "cpu"))).card
    assert seen == [(64, 64)] * 2
    assert "V_rand and V_info on the middle" in card.scores_on


def test_memory_that_is_short_while_scoring_halves_the_tile(files, trained, monkeypatch):
    model, data = read_model(trained), read_data(settings_of(files))
    whole = WholeImages(model, torch.device("cpu"), "f32")
    straight = run_to_end(iter_score_held_out(whole, data.validation, ("membrane",), 2))
    run = TorchBackend.run

    def short(self, images):
        if images.shape[-1] > 80:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return run(self, images)

    monkeypatch.setattr(TorchBackend, "run", short)
    choice = TileChoice(96, 1, 0, "for the test")
    monkeypatch.setattr(evaluate, "choose_tile", lambda *_: choice)
    whole = WholeImages(model, torch.device("cpu"), "f32")
    assert run_to_end(iter_score_held_out(whole, data.validation, ("membrane",), 2)) == pytest.approx(
        straight, abs=2e-3
    )


def test_a_model_keeps_what_its_training_images_look_like(trained, files):
    description = read_model(trained).description
    (signature,) = description.signatures
    sample = make_sample((3, 96, 96), 5).stack
    alike = sign_stack(sample, {"Y": 96, "X": 96}, measure(sample))
    noise = Stack(np.random.default_rng(0).normal(0, 1, (3, 96, 96)), Space("ZYX"))
    strange = sign_stack(noise, {"Y": 96, "X": 96}, measure(noise))
    assert signature_distance(alike, [signature])[0] < 1 < signature_distance(strange, [signature])[0]
    assert description.certainty is None or 0 <= description.certainty <= 1


def test_while_it_trains_a_model_and_its_start_are_in_use(tmp_path):
    start, scratch = tmp_path / "start", tmp_path / "new.training"
    start.mkdir()
    with checkpoint_folder(scratch, ONE_PROCESS, start):
        assert (find_training_of(start), find_training_of(tmp_path / "new")) == ("new", "new")
        assert find_training_of(tmp_path / "other") is None
    assert not scratch.exists()
    assert find_training_of(start) is None


def test_a_training_that_fails_leaves_its_checkpoint_and_no_note_of_its_start(tmp_path):
    def fail():
        with checkpoint_folder(tmp_path / "new.training", ONE_PROCESS, tmp_path):
            (tmp_path / "new.training" / "checkpoint.safetensors").write_bytes(b"kept")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [file.name for file in (tmp_path / "new.training").iterdir()] == ["checkpoint.safetensors"]
