"""What is kept of the images that a model was trained on, and of those of its parents."""

from dataclasses import replace

import numpy as np
import pytest

from napari_skipseg.images.intensity.signature import sign_image
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.models.description import ClassLabel, ModelDescription, description_from_json, description_to_json
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training.seen import MOST_SIGNATURES, with_signature

IMAGE = make_sample((2, 128, 160)).stack.data[None].astype(np.float16)
NEW = ModelDescription("new", UNetSpec(widths=(4, 8)), (ClassLabel("membrane", 1),), margin=8, weights_sha256="")
SIGNATURE = sign_image([IMAGE[:, 0], IMAGE[:, 1]])


class Sure:
    """Finds half of the voxels possible, and a share of these certain."""

    name, precision = "sure", "f32"

    def __init__(self, share):
        self.share = share

    def run(self, images):
        assert images.dtype == np.float32
        probability = np.zeros_like(images)
        rows = probability.reshape(len(images), -1, images.shape[-1])
        rows[:, ::2] = np.where(np.arange(images.shape[-1]) % 10 < 10 * self.share, 0.95, 0.5)
        return TileOutput(probability, ())


def test_a_first_model_knows_its_own_images_and_how_sure_it_is():
    seen = with_signature(NEW, [IMAGE], Sure(0.4), None, 0)
    assert len(seen.signatures) == 1
    assert seen.certainty == pytest.approx(0.4, abs=0.05)


def test_what_the_parent_was_trained_on_stays_known():
    parent = replace(NEW, signatures=(SIGNATURE,), certainty=0.3)
    seen = with_signature(NEW, [IMAGE], Sure(0.4), parent, 0)
    assert seen.signatures[0] == SIGNATURE
    assert len(seen.signatures) == 2
    assert seen.certainty == 0.3


def test_of_a_parent_without_signatures_nothing_is_claimed():
    assert with_signature(NEW, [IMAGE], Sure(0.4), NEW, 0).signatures == ()


def test_the_latest_signatures_are_kept():
    parent = replace(NEW, signatures=(SIGNATURE,) * MOST_SIGNATURES)
    assert len(with_signature(NEW, [IMAGE], Sure(0.4), parent, 0).signatures) == MOST_SIGNATURES


def test_regions_too_small_to_tell_leave_what_was_known():
    parent = replace(NEW, signatures=(SIGNATURE,), certainty=0.3)
    tiny = with_signature(NEW, [IMAGE[:, 0, :20, :20]], Sure(0.4), parent, 0)
    assert (tiny.signatures, tiny.certainty) == (parent.signatures, 0.3)


def test_a_description_comes_back_from_json():
    seen = with_signature(NEW, [IMAGE], Sure(0.4), None, 0)
    assert description_from_json(description_to_json(seen), "here") == seen


def test_a_volume_of_a_3d_network_is_signed_slice_by_slice():
    spec = UNetSpec(widths=(4, 8), dimensions=3)
    seen = with_signature(replace(NEW, spec=spec), [make_sample((16, 96, 96)).stack.data[None]], Sure(0.4), None, 0)
    assert len(seen.signatures) == 1
    assert seen.certainty is not None
