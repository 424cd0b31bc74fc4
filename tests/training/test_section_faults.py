"""Faults of sections: on the sections they befall and nowhere else, by seed, and never in the labels."""

import numpy as np
import pytest
import torch

from napari_skipseg.errors import SpecError
from napari_skipseg.training.augment import spoil_sections
from napari_skipseg.training.patches import LabelledImage, draw_sample
from napari_skipseg.training.settings import AUGMENTATIONS, Augmentation

FAULTS = ("missing", "shifted", "low_contrast")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sections(depth=40, side=32, channels=2):
    return torch.randn(channels, depth, side, side, generator=seeded(1)) + 0.3


def changed(before, after):
    """Return the numbers of the sections that differ."""
    return [z for z in range(before.shape[1]) if not torch.equal(before[:, z], after[:, z])]


def test_no_fault_changes_nothing_and_draws_nothing():
    generator = seeded()
    image = sections()
    assert torch.equal(spoil_sections(Augmentation(), image, generator), image)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_befalls_its_share_of_the_sections(fault):
    image = sections(depth=2000, side=8, channels=1)
    spoiled = spoil_sections(Augmentation(**{fault: 0.25}), image, seeded())
    assert 430 < len(changed(image, spoiled)) < 570
    everywhere = spoil_sections(Augmentation(**{fault: 1.0}), image, seeded())
    assert len(changed(image, everywhere)) > 1980  # a shift may be one of no voxel


def test_a_missing_section_is_constant_at_the_darkest_value_or_the_mean():
    image = sections()
    spoiled = spoil_sections(Augmentation(missing=0.5), image, seeded())
    lost = changed(image, spoiled)
    dark, mean = image.flatten(1).amin(1), image.flatten(1).mean(1)
    kinds = set()
    for z in lost:
        value = spoiled[:, z, 0, 0]
        assert torch.equal(spoiled[:, z], value[:, None, None].expand_as(spoiled[:, z]))
        kinds.add("dark" if torch.equal(value, dark) else "mean" if torch.allclose(value, mean) else "other")
    assert kinds == {"dark", "mean"}


def test_a_shifted_section_is_the_same_section_mirrored_at_the_border():
    image = sections(depth=60)
    spoiled = spoil_sections(Augmentation(shifted=0.5, shift=4), image, seeded())
    found = set()
    for z in changed(image, spoiled):
        padded = np.pad(image[:, z].numpy(), ((0, 0), (4, 4), (4, 4)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2))  # (C, 9, 9, 32, 32)
        places = np.argwhere((windows == spoiled[:, z].numpy()[:, None, None]).all((0, 3, 4)))
        assert len(places) == 1
        found.add(tuple(places[0]))
    assert len(found) > 15
    assert {0, 8} <= {place for pair in found for place in pair}


def test_a_shift_may_be_larger_than_the_section():
    image = sections(depth=20, side=3)
    spoiled = spoil_sections(Augmentation(shifted=1, shift=100), image, seeded())
    for z in range(20):
        assert set(spoiled[0, z].flatten().tolist()) <= set(image[0, z].flatten().tolist())


def test_a_faint_section_keeps_its_mean_and_a_tenth_to_half_of_its_contrast():
    image = sections(depth=200, side=16)
    spoiled = spoil_sections(Augmentation(low_contrast=1), image, seeded())
    mean = image.mean((2, 3), keepdim=True)
    assert torch.allclose(spoiled.mean((2, 3), keepdim=True), mean, atol=1e-5)
    shares = ((spoiled - mean) * (image - mean)).sum((2, 3)) / ((image - mean) ** 2).sum((2, 3))
    assert torch.allclose(spoiled, mean + shares[..., None, None] * (image - mean), atol=1e-4)
    assert torch.allclose(shares[0], shares[1], atol=1e-4)
    assert 0.1 - 1e-3 <= shares.min() < 0.15
    assert 0.45 < shares.max() <= 0.5 + 1e-3


def test_a_2d_sample_can_only_be_faint():
    image = sections()[:, 0]
    assert torch.equal(spoil_sections(Augmentation(missing=1, shifted=1), image, seeded()), image)
    faint = spoil_sections(Augmentation(low_contrast=1), image, seeded())
    assert faint.shape == image.shape
    assert 0.1 <= float(faint[0].std() / image[0].std()) <= 0.5


@pytest.mark.parametrize("patch", [(24, 24), (6, 24, 24)])
def test_faults_follow_seed_and_number_and_leave_labels_and_sound_samples_alone(patch):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 9, 48, 48)).astype(np.float32)
    run = LabelledImage(image, generator.integers(-1, 3, (9, 48, 48), np.int16))
    faulty = Augmentation(missing=0.2, shifted=0.3, low_contrast=0.5)
    differing = 0
    for number in range(8):
        image, labels = draw_sample((run,), patch, faulty, 5, number)
        again, _ = draw_sample((run,), patch, faulty, 5, number)
        sound, same_labels = draw_sample((run,), patch, Augmentation(), 5, number)
        assert torch.equal(image, again)
        assert torch.equal(labels, same_labels)
        differing += not torch.equal(image, sound)
    assert differing >= 2


@pytest.mark.parametrize("options", [{"missing": -0.1}, {"shifted": 1.1}, {"low_contrast": float("nan")}])
def test_what_is_no_probability_is_refused(options):
    with pytest.raises(SpecError, match="probabilities from 0 to 1"):
        Augmentation(**options)
    with pytest.raises(SpecError, match="shift of 0 or more"):
        Augmentation(shift=-1)


def test_no_named_augmentation_has_faults():
    assert all(getattr(options, fault) == 0 for options in AUGMENTATIONS.values() for fault in FAULTS)
