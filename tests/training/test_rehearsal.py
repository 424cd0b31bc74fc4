"""A model's own sample: written with it, read back checked, mixed into what it is fine-tuned on."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_skipseg.errors import ModelError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import BUILT_IN, describe_model
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.folder import SAMPLE_FILE
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training.finetune.blocks import BlockTable, CountedLabel, LabelledBlock
from napari_skipseg.training.finetune.crops import CorrectionCrops, Crop
from napari_skipseg.training.finetune.labels import plan_classes
from napari_skipseg.training.finetune.patches import PatchSampler
from napari_skipseg.training.finetune.rehearsal import (
    MOST_BYTES,
    RehearsalSamples,
    join_samples,
    rehearsal_samples_of,
    sample_from_bytes,
    sample_of_corrections,
    sample_of_training,
    sample_to_bytes,
)
from napari_skipseg.training.patches import LabelledImage, TrainingData
from napari_skipseg.training.settings import AUGMENTATIONS, FinetuneSettings

SPEC = UNetSpec(widths=(4, 8))
DESCRIPTION = ModelDescription("old", SPEC, (ClassLabel("membrane", 0),), 4, "")
PLAN = plan_classes(FinetuneSettings("new", ("a",), ("b",), (ClassLabel("nucleus", 2),), model="old"), DESCRIPTION)
RNG = np.random.default_rng(0)


def labelled(depth, side):
    return LabelledImage(
        RNG.normal(size=(1, depth, side, side)).astype(np.float32),
        RNG.integers(0, 2, (depth, side, side)).astype(np.int16),
    )


def sample_of(depth, side, held_out=1):
    data = TrainingData(
        (labelled(depth, side),), (labelled(held_out, side),) if held_out else (), Stack(np.zeros((2, 2)), Space("YX"))
    )
    return sample_of_training(data, 1, 2, 0)


def corrections_of(target):
    image = RNG.normal(size=(1, *target.shape)).astype(np.float16)
    held = np.full_like(target, -1)
    held[:128], target[:128] = target[:128], -1
    corners = [(y, x) for y in range(0, 512, 128) for x in range(0, 512, 128)]
    blocks = tuple(
        LabelledBlock(0, 0, ((0, 1), (y, y + 128), (x, x + 128)), (100, 100), is_held_out=y == 0) for y, x in corners
    )
    crop = Crop(0, 0, ((0, 1), (0, 512), (0, 512)), image, target, held, np.zeros(target.shape, bool))
    table = BlockTable(blocks, (CountedLabel(0), CountedLabel(2)))
    return CorrectionCrops((crop,), table, dict.fromkeys(blocks, 0))


def test_a_sample_fits_into_ten_megabytes_and_comes_back_from_its_bytes():
    sample = sample_of(8, 520, held_out=2)
    content = sample_to_bytes(sample)
    assert 0.9 * MOST_BYTES < len(content) <= MOST_BYTES
    read = sample_from_bytes(content, DESCRIPTION)
    assert all(np.array_equal(getattr(read, name), value) for name, value in vars(sample).items())
    assert 0.15 < sample.held_out.mean() < 0.25
    assert sample.judged.all()
    assert not sample.synthetic.any()


def test_images_smaller_than_a_patch_are_mirrored_and_nothing_is_known_of_what_is_added():
    sample = sample_of(3, 96)
    assert sample.images.shape == (4, 1, 256, 256)
    assert (sample.targets[:, 96:] == -1).all()
    assert np.array_equal(sample.images[:, :, 96:192, :96], sample.images[:, :, 95::-1, :96])


def test_corrections_are_sampled_with_the_classes_that_they_judge():
    target = RNG.choice(np.array([-1, 0, 2], np.int8), (512, 512))
    sample = sample_of_corrections(corrections_of(target), PLAN, 2, 0)
    assert 2 <= sample.held_out.sum() <= 4
    assert sample.judged.tolist() == [[False, True]] * len(sample)
    assert all((patch >= 0).any() for patch in sample.targets)
    assert set(np.unique(sample.targets)) == {-1, 0, 2}


def test_the_new_sample_holds_old_and_new_patches():
    old, new = (
        sample_of(8, 520, held_out=2),
        sample_of_corrections(corrections_of(np.zeros((512, 512), np.int8)), PLAN, 2, 0),
    )
    joint = join_samples(old, new, 0)
    assert len(joint) == len(old)
    assert joint.judged.sum(axis=0).tolist() == [len(old) - len(new), len(new)]
    assert len(sample_to_bytes(joint)) <= MOST_BYTES
    assert join_samples(None, new, 0) is new


def test_a_sample_lies_in_the_models_folder_and_a_damaged_one_is_refused(tmp_path):
    sample = sample_of(3, 96)
    content = sample_to_bytes(sample)
    model = write_model(tmp_path / "m", DESCRIPTION, build(SPEC), content)
    assert model.description.sample_sha256 == hashlib.sha256(content).hexdigest()
    assert len(rehearsal_samples_of(tmp_path / "m", model.description)) == 4
    (tmp_path / "m" / SAMPLE_FILE).write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"The sample of model 'old' is not the one its model\.json names"):
        rehearsal_samples_of(tmp_path / "m", model.description)
    (tmp_path / "m" / SAMPLE_FILE).unlink()
    with pytest.raises(ModelError, match=r"has no readable sample\.safetensors"):
        rehearsal_samples_of(tmp_path / "m", model.description)


def test_a_sample_that_is_none_or_of_another_model_is_refused():
    with pytest.raises(ModelError, match="is damaged: copy the whole folder again"):
        sample_from_bytes(b"nonsense", DESCRIPTION)
    other = replace(DESCRIPTION, spec=UNetSpec(widths=(4, 8), in_channels=3))
    with pytest.raises(ModelError, match="does not fit it"):
        sample_from_bytes(sample_to_bytes(sample_of(3, 96)), other)


def test_a_built_in_model_has_synthetic_patches_and_one_of_the_user_without_a_sample_none(tmp_path):
    folder = BUILT_IN / "em-membrane"
    sample = rehearsal_samples_of(folder, describe_model("em-membrane"))
    assert sample.images.shape == (8, 1, 256, 256)
    assert sample.synthetic.all()
    assert sample.held_out.sum() == 2
    assert 0.1 < (sample.targets == 1).mean() < 0.4
    assert rehearsal_samples_of(tmp_path / "em-membrane", describe_model("em-membrane")) is None


def patches_of(sample, remembers=True):
    target = np.where(RNG.random((512, 512)) < 0.01, 2, 0).astype(np.int8)
    return PatchSampler(corrections_of(target), PLAN, sample, (64, 64), AUGMENTATIONS["none"], 0, remembers)


def test_some_patches_are_remembered_ones_and_the_rest_lie_around_corrections():
    batch = patches_of(sample_of(3, 300)).draw(range(40))
    own = batch.judged[:, 0]
    assert own.sum() == 10
    assert torch.equal(batch.judged[:, 1], ~own)
    assert torch.equal(batch.distilled, torch.stack([~own, torch.zeros(40, dtype=torch.bool)], 1))
    assert (batch.targets[~own] == 2).flatten(1).any(dim=1).float().mean() > 0.5
    assert not (batch.targets[own] == 2).any()


def test_of_synthetic_patches_only_the_old_networks_answers_are_learnt():
    sample = sample_of(3, 300)
    batch = patches_of(replace(sample, synthetic=np.ones(len(sample), bool))).draw(range(4))
    assert (batch.targets[0] == -1).all()
    assert batch.judged[0].tolist() == [False, False]
    assert batch.distilled[0].tolist() == [True, False]


def test_without_remembering_nothing_is_recalled():
    batch = patches_of(None, remembers=False).draw(range(8))
    assert not batch.distilled.any()
    assert batch.judged[:, 1].all()


def test_a_patch_is_a_function_of_seed_and_number():
    first, again = patches_of(None), patches_of(None)
    again = replace(again, corrections=first.corrections)
    assert torch.equal(first.draw(range(3)).images[2], again.draw(range(2, 3)).images[0])


def test_numbers_name_patches():
    sample = sample_of(3, 300)
    assert np.array_equal(sample.of(np.array([2, 0])).images, sample.images[[2, 0]])
    assert isinstance(sample.of(sample.held_out), RehearsalSamples)
