"""What of a prediction is accepted: its labels, and nothing where the segmentation left out what is no tissue."""

import numpy as np
import pytest

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.widgets.correct.accept import read_accepted_mask
from napari_skipseg.widgets.layers.results import ShownResult

ALL = (slice(0, 8), slice(0, 8))
FRAMED = {"normalization": {"padding": [0.0]}}


def shown(recipe: dict, names: tuple[str, ...] = ("membrane",)) -> ShownResult:
    """A result with tissue in its right half, of which the right quarter is of the class."""
    probability = np.zeros((8, 8), np.float32)
    probability[:, 4:], probability[:, 6:] = 0.1, 0.9
    of_classes = probability if len(names) == 1 else np.stack([probability, probability / 10])
    space = Space("YX" if len(names) == 1 else "CYX")
    return ShownResult(Prediction(of_classes, space, names, recipe=recipe), "YX", {}, "source")


@pytest.mark.parametrize("names", [("membrane",), ("membrane", "vesicle")])
def test_areas_without_tissue_are_not_accepted_as_background(names):
    values = {"membrane": 2, "vesicle": 3}
    _, accepted = read_accepted_mask([shown(FRAMED, names)], ALL, 0.5, values, whole=True)
    assert accepted[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    _, accepted = read_accepted_mask([shown({}, names)], ALL, 0.5, values, whole=True)
    assert accepted[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2]


def test_a_part_without_any_tissue_is_refused():
    with pytest.raises(InputError, match="without tissue"):
        read_accepted_mask([shown(FRAMED)], (slice(0, 8), slice(0, 4)), 0.5, {"membrane": 2}, whole=False)
