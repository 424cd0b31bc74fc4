"""Segment EM and volumetric stacks with networks built on skip connections.

    import napari_skipseg as skipseg

    model = skipseg.load_model("em-membrane")
    prediction = skipseg.segment("stack.tif", model)
    skipseg.save_prediction(prediction, "results", "stack", threshold=0.5)

Importing the package imports neither torch nor any GUI; the names below are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from napari_skipseg.api import find_objects, finetune, load_model, run_batch, run_recipe, segment, segment_to_folder
    from napari_skipseg.batch.run import iter_batch
    from napari_skipseg.batch.settings import BatchSettings
    from napari_skipseg.errors import ImageWarning, SkipsegError
    from napari_skipseg.images.files import read_stack, write_ome_tiff
    from napari_skipseg.images.stack import Stack
    from napari_skipseg.images.synthetic.sample import make_sample
    from napari_skipseg.inference.options import SegmentOptions
    from napari_skipseg.inference.predict import iter_predict
    from napari_skipseg.inference.prediction import Prediction
    from napari_skipseg.inference.saving import save_prediction
    from napari_skipseg.models.catalog import find_models
    from napari_skipseg.networks.build import build
    from napari_skipseg.networks.specs import DI2INSpec, ResidualFCNSpec, TiramisuSpec, UNetSpec, VNetSpec
    from napari_skipseg.objects.find_in_blocks import iter_find_objects
    from napari_skipseg.objects.measure import measure_objects
    from napari_skipseg.objects.options import ObjectOptions
    from napari_skipseg.progress import Progress, run_to_end
    from napari_skipseg.scores.instances import score_instances
    from napari_skipseg.scores.isbi import score_isbi
    from napari_skipseg.scores.matching import score_matching
    from napari_skipseg.scores.overlap import score_overlap
    from napari_skipseg.training.finetune.labels import Corrected
    from napari_skipseg.training.finetune.run import iter_finetune
    from napari_skipseg.training.settings import FinetuneSettings, TrainSettings
    from napari_skipseg.training.train import iter_train

_HOMES = {
    "load_model": "api",
    "segment": "api",
    "segment_to_folder": "api",
    "run_recipe": "api",
    "run_batch": "api",
    "BatchSettings": "batch.settings",
    "iter_batch": "batch.run",
    "finetune": "api",
    "find_objects": "api",
    "ObjectOptions": "objects.options",
    "iter_find_objects": "objects.find_in_blocks",
    "measure_objects": "objects.measure",
    "SkipsegError": "errors",
    "ImageWarning": "errors",
    "read_stack": "images.files",
    "write_ome_tiff": "images.files",
    "Stack": "images.stack",
    "make_sample": "images.synthetic.sample",
    "SegmentOptions": "inference.options",
    "Prediction": "inference.prediction",
    "iter_predict": "inference.predict",
    "save_prediction": "inference.saving",
    "find_models": "models.catalog",
    "build": "networks.build",
    "VNetSpec": "networks.specs",
    "TiramisuSpec": "networks.specs",
    "DI2INSpec": "networks.specs",
    "ResidualFCNSpec": "networks.specs",
    "UNetSpec": "networks.specs",
    "Progress": "progress",
    "run_to_end": "progress",
    "score_isbi": "scores.isbi",
    "score_overlap": "scores.overlap",
    "iter_finetune": "training.finetune.run",
    "Corrected": "training.finetune.labels",
    "FinetuneSettings": "training.settings",
    "TrainSettings": "training.settings",
    "iter_train": "training.train",
    "score_instances": "scores.instances",
    "score_matching": "scores.matching",
}

__all__ = [
    "BatchSettings",
    "Corrected",
    "DI2INSpec",
    "FinetuneSettings",
    "ImageWarning",
    "ObjectOptions",
    "Prediction",
    "Progress",
    "ResidualFCNSpec",
    "SegmentOptions",
    "SkipsegError",
    "Stack",
    "TiramisuSpec",
    "TrainSettings",
    "UNetSpec",
    "VNetSpec",
    "build",
    "find_models",
    "find_objects",
    "finetune",
    "iter_batch",
    "iter_find_objects",
    "iter_finetune",
    "iter_predict",
    "iter_train",
    "load_model",
    "make_sample",
    "measure_objects",
    "read_stack",
    "run_batch",
    "run_recipe",
    "run_to_end",
    "save_prediction",
    "score_instances",
    "score_isbi",
    "score_matching",
    "score_overlap",
    "segment",
    "segment_to_folder",
    "write_ome_tiff",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version("napari-skipseg")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
