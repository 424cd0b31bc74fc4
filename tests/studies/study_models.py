"""Tiny models and an image to study."""

import numpy as np
import torch

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import DI2INSpec, ResidualFCNSpec, Stage, TiramisuSpec, UNetSpec, VNetSpec

NETWORKS = {
    "unet": UNetSpec(widths=(3, 4, 5)),
    "residual-fcn": ResidualFCNSpec(width=2, stages=(Stage("simple", 3, 1),), across=Stage("simple", 4, 2)),
    "vnet": VNetSpec(widths=(2, 3, 4), convolutions=(1, 1, 1), kernel=3),
    "tiramisu": TiramisuSpec(width=3, growth=2, layers=(2, 2), bottom_layers=2),
    "di2in": DI2INSpec(dimensions=2, widths=(2, 4)),
}


def make(spec, name="tiny"):
    torch.manual_seed(1)
    description = ModelDescription(name, spec, (ClassLabel("membrane", 0),), 4, "")
    return Model(description, build(spec).eval())


def write(folder, spec):
    model = make(spec, folder.name)
    return write_model(folder, model.description, model.network)


def grey_stack(*shape, axes="ZYX"):
    """Grey values that differ from slice to slice, with a voxel size."""
    values = np.random.default_rng(3).integers(0, 200, shape).astype(np.uint8)
    return Stack(values, Space(axes, (50.0, 4.0, 4.0), "nm", (1000.0, 0.0, 8.0)), "cells")
