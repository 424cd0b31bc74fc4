from .api import (
    export_objects,
    find_objects,
    finetune,
    load_model,
    run_batch,
    run_recipe,
    segment,
    segment_to_folder,
    suggest,
)
from .batch.run import iter_batch
from .batch.settings import BatchSettings
from .corrections.between_slices import carry_shapes
from .errors import ImageWarning, SkipsegError
from .exports.options import ExportOptions
from .images.files import read_stack, write_ome_tiff
from .images.space import Space
from .images.stack import Stack
from .images.synthetic.sample import make_sample
from .inference.options import SegmentOptions
from .inference.predict import iter_predict
from .inference.prediction import Prediction
from .inference.run_spec import RunSpec
from .inference.saving import save_prediction
from .models.catalog import find_models
from .models.exchange.import_any import iter_import_any
from .models.exchange.network_files import export_onnx
from .models.exchange.package import export_package
from .networks.build import build
from .networks.specs import DI2INSpec, ResidualFCNSpec, TiramisuSpec, UNetSpec, VNetSpec
from .objects.classes import ClassImage
from .objects.find_in_blocks import iter_find_objects
from .objects.measure import measure_objects
from .objects.options import ObjectOptions
from .progress import Progress, run_to_end
from .scores.instances import score_instances, score_matching
from .scores.isbi import score_isbi
from .scores.overlap import score_overlap
from .training.finetune.labels import Corrected
from .training.finetune.run import iter_finetune
from .training.settings import FinetuneSettings, TrainSettings
from .training.train import iter_train

__all__ = [
    "BatchSettings",
    "ClassImage",
    "Corrected",
    "DI2INSpec",
    "ExportOptions",
    "FinetuneSettings",
    "ImageWarning",
    "ObjectOptions",
    "Prediction",
    "Progress",
    "ResidualFCNSpec",
    "RunSpec",
    "SegmentOptions",
    "SkipsegError",
    "Space",
    "Stack",
    "TiramisuSpec",
    "TrainSettings",
    "UNetSpec",
    "VNetSpec",
    "build",
    "carry_shapes",
    "export_objects",
    "export_onnx",
    "export_package",
    "find_models",
    "find_objects",
    "finetune",
    "iter_batch",
    "iter_find_objects",
    "iter_finetune",
    "iter_import_any",
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
    "suggest",
    "write_ome_tiff",
]

__version__: str
