"""A trained network as one value: its description and the network itself, read from and written to a folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from napari_skipseg.devices import free_memory
from napari_skipseg.durable import make_folders, put_files
from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ModelDescription, description_to_json
from napari_skipseg.models.folder import (
    DESCRIPTION_FILE,
    LARGEST_HEADER,
    SAMPLE_FILE,
    SIZES,
    WEIGHTS_FILE,
    read_description,
    read_weights,
    shapes_in,
    unfit_weights,
)
from napari_skipseg.networks.build import build, outline
from napari_skipseg.networks.network import Network

NEEDED = 10
"""Bytes of memory for each weight while a model is read: the file, its tensors in float32, and the network."""


@dataclass(frozen=True)
class Model:
    """A description and its network, in eval mode, float32, on the CPU."""

    description: ModelDescription
    network: Network


def read_model(folder: Path) -> Model:
    """Return the model in `folder`.

    Raises:
        ModelError: the folder is no model, its hash is wrong, its weights do not fit its network, or the memory does
            not suffice.
    """
    description = read_description(folder)
    # A stranger's folder may describe a network that no memory holds: sizes are checked before anything of that size
    # is read or made.
    wanted = shapes_of(description)
    count = sum(math.prod(shape) for shape in wanted.values())
    if (needed := NEEDED * count) > free_memory("cpu"):
        raise ModelError(
            f"The model '{description.name}' needs {needed / 2**30:,.1f} GiB of memory, and less is free: close other "
            "programs, or choose a smaller model."
        )
    content = read_weights(folder, description, largest_weights(wanted))
    if shapes_in(content, description) != wanted:
        raise unfit_weights(description)
    network = build(description.spec, description.pixel_head)
    try:
        tensors = load(content)
        widened = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        network.load_state_dict(widened)
    except (SafetensorError, RuntimeError) as error:
        raise unfit_weights(description) from error
    return Model(description, network.eval())


def shapes_of(description: ModelDescription) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of the network that a description describes; no weight is made."""
    shapes = outline(description.spec, description.pixel_head).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in shapes.items()}


def largest_weights(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the most bytes that a file of weights of these shapes can have."""
    return LARGEST_HEADER + max(SIZES.values()) * sum(math.prod(shape) for shape in shapes.values())


def write_model(folder: Path, description: ModelDescription, network: Network, sample: bytes | None = None) -> Model:
    """Write a new model to `folder`, whole or not at all; return it as it will be read back.

    Weights are stored in half precision, batch-norm statistics in float32. sample: the content of its sample file.

    Raises:
        ModelError: `folder` is already there (a model is never overwritten) or cannot be written.
    """
    if folder.exists():
        raise ModelError(f"'{folder}' already exists; a model is never overwritten: choose a different name.")
    content = save({name: _stored(name, tensor) for name, tensor in network.state_dict().items()})
    sampled = None if sample is None else hashlib.sha256(sample).hexdigest()
    description = replace(description, weights_sha256=hashlib.sha256(content).hexdigest(), sample_sha256=sampled)
    files = {WEIGHTS_FILE: content, DESCRIPTION_FILE: description_to_json(description).encode()}
    try:
        make_folders(folder.parent)
        put_files(folder, files if sample is None else {SAMPLE_FILE: sample, **files})
    except OSError as error:
        raise ModelError(f"The model cannot be written to '{folder}': {error.strerror}.") from error
    return read_model(folder)


def as_stored(network: Network) -> Network:
    """Return `network` with its weights rounded as `write_model` stores them: its scores are those of the file."""
    state = network.state_dict()
    network.load_state_dict({name: _stored(name, tensor).to(tensor.dtype) for name, tensor in state.items()})
    return network


def _stored(name: str, tensor: Tensor) -> Tensor:
    keep = not tensor.is_floating_point() or name.endswith(("running_mean", "running_var"))
    return (tensor if keep else tensor.half()).detach().cpu().contiguous()
