"""Whether a network finds more in an image or in its negative, and whether it is sure of it."""

from dataclasses import replace

import numpy as np
import pytest
from identity import make_model

from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.certainty import (
    Certainty,
    certainty_of,
    describe_verdict,
    join_certainties,
    judge_contrast,
    judge_probes,
)

CLEAR, FAINT, NOTHING = Certainty(0.4, 0.2), Certainty(0.2, 0.02), Certainty(0.001, 0.0005)


def test_the_most_probable_class_counts():
    probability = np.array([[[0.95, 0.2, 0.05, 0.5]], [[0.02, 0.92, 0.05, 0.2]]], np.float32)
    found = certainty_of(probability)
    assert (found.possible, found.certain) == (0.75, 0.5)
    assert found.ratio == pytest.approx(2 / 3)


def test_patches_together_are_their_mean():
    assert join_certainties([Certainty(0.4, 0.2), Certainty(0.2, 0.0)]) == Certainty(
        pytest.approx(0.3), pytest.approx(0.1)
    )


@pytest.mark.parametrize("trained", [0.5, None])
def test_an_image_whose_negative_is_much_clearer_is_inverted(trained):
    assert judge_contrast([FAINT] * 4, [CLEAR] * 4, trained) == "inverted"


def test_an_image_that_is_clear_itself_is_not():
    assert judge_contrast([CLEAR] * 4, [FAINT] * 4, 0.5) == ""
    assert judge_contrast([CLEAR] * 4, [CLEAR] * 4, 0.5) == ""


def test_one_patch_among_four_decides_nothing():
    assert judge_contrast([CLEAR, CLEAR, CLEAR, FAINT], [FAINT, FAINT, FAINT, Certainty(0.9, 0.9)], 0.5) == ""


def test_a_negative_of_which_the_network_is_unsure_too_is_no_offer():
    assert judge_contrast([Certainty(0.3, 0.01)] * 4, [Certainty(0.3, 0.05)] * 4, 0.5) == "unsure"


def test_a_network_is_unsure_compared_with_its_training():
    assert judge_contrast([FAINT] * 4, [FAINT] * 4, 0.5) == "unsure"
    assert judge_contrast([FAINT] * 4, [FAINT] * 4, 0.15) == ""
    assert judge_contrast([FAINT] * 4, [FAINT] * 4, None) == ""


def test_an_unsure_network_that_is_surer_of_the_negative_doubts_the_contrast():
    upright, negative = Certainty(0.45, 0.11), Certainty(0.25, 0.1)
    assert judge_contrast([upright] * 4, [negative] * 4, 0.5) == "perhaps inverted"
    assert judge_contrast([negative] * 4, [upright] * 4, 0.5) == ""
    assert judge_contrast([upright] * 4, [Certainty(0.45, 0.12)] * 4, 0.5) == "unsure"


def test_a_negative_that_is_farther_from_the_training_is_no_offer():
    far, upright = (lambda: False), Certainty(0.45, 0.11)
    assert judge_contrast([FAINT] * 4, [CLEAR] * 4, 0.15, far) == ""
    assert judge_contrast([FAINT] * 4, [CLEAR] * 4, 0.5, far) == "unsure"
    assert judge_contrast([upright] * 4, [Certainty(0.25, 0.1)] * 4, 0.5, far) == "unsure"


@pytest.mark.parametrize("verdict", ["inverted", "perhaps inverted"])
def test_both_doubts_of_the_contrast_name_the_flag(verdict):
    description = make_model().description
    assert "--invert" in describe_verdict(verdict, description, inverted=False)
    assert "without inverting" in describe_verdict(verdict, description, inverted=True)


def test_where_hardly_anything_is_found_nothing_is_said():
    assert judge_contrast([NOTHING] * 4, [NOTHING] * 4, 0.5) == ""


class Recorded:
    """Finds what is above 0 in a patch, for sure, and notes each patch."""

    def __init__(self):
        self.patches = []

    def run(self, images):
        self.patches.append(images)
        return TileOutput((images > 0.5) * 0.97, ())


@pytest.mark.parametrize(("sign", "runs", "verdict"), [(1, 1, ""), (-1, 8, "inverted")])
def test_one_patch_is_enough_if_the_network_is_sure_of_it(sign, runs, verdict):
    backend = Recorded()
    probes = np.where(np.arange(4 * 64 * 64).reshape(4, 1, 64, 64) % 3, np.float32(0), np.float32(sign))
    description = replace(make_model(margin=4).description, certainty=0.5)
    assert judge_probes(backend, probes, description) == verdict
    assert len(backend.patches) == runs
