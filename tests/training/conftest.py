"""A trained model for all tests of fine-tuning; networks run in torch."""

import pytest

from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.settings import AUGMENTATIONS, TrainSettings
from napari_skipseg.training.train import iter_train


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A folder with a tiny model that was trained on the membranes of a synthetic sample."""
    folder = tmp_path_factory.mktemp("models")
    sample = make_sample((4, 96, 96))
    files = {"images": (str(folder / "image.tif"),), "labels": (str(folder / "labels.tif"),)}
    write_ome_tiff(folder / "image.tif", sample.stack.data, Space("ZYX", sample.stack.space.voxel_size, "nm"))
    write_ome_tiff(folder / "labels.tif", sample.membrane, Space("ZYX", sample.stack.space.voxel_size, "nm"))
    settings = TrainSettings(
        "membranes", **files, classes=(ClassLabel("membrane", 1),), validate="3", patch=(64, 64), steps=60,
        spec=UNetSpec(widths=(8, 16)), learning_rate=1e-2, augmentation=AUGMENTATIONS["none"],
    )  # fmt: skip
    run_to_end(iter_train(settings, folder / "models", "cpu"))
    return folder / "models"


@pytest.fixture(autouse=True)
def _in_torch(only_torch):
    """OpenVINO takes seconds to compile what is used once."""
