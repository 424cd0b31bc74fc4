"""A trained network as one value: its description and the network itself, read from and written to a folder.

Loads without torch, which is imported when a network is made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as numpy_arrays

from napari_skipseg.devices import free_memory
from napari_skipseg.durable import make_folders, put_files
from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ModelDescription, description_to_json
from napari_skipseg.models.folder import (
    DESCRIPTION_FILE,
    LARGEST_HEADER,
    LICENSE_FILE,
    SAMPLE_FILE,
    SIZES,
    WEIGHTS_FILE,
    read_description,
    read_weights,
    shapes_in,
    unfit_weights,
)
from napari_skipseg.networks.specs import spec_to_dict

if TYPE_CHECKING:
    from torch import Tensor

    from napari_skipseg.networks.network import Network

NEEDED = 10
"""Bytes of memory for each weight while a model is read: the file, its tensors in float32, and the network."""


@dataclass(frozen=True)
class Model:
    """A description and its network, in eval mode, float32, on the CPU."""

    description: ModelDescription
    network: Network

    def iter_weights(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield name and values of each weight and buffer of the network, in the order of their names."""
        for name, tensor in sorted(self.network.state_dict().items()):
            yield name, tensor.numpy()


class CheckedModel(Model):
    """A model in a folder whose weights are known to fit: its network is made when it is first used.

    Making it takes torch, which takes seconds to import, and a compiled network on disk needs neither.

    content: of the weights file.
    """

    def __init__(self, description: ModelDescription, content: bytes) -> None:
        object.__setattr__(self, "description", description)
        object.__setattr__(self, "_content", content)

    @cached_property
    def network(self) -> Network:
        """The network, made from the weights file as it was read."""
        content: bytes = self.__dict__.pop("_content")
        return _network_with(self.description, content)

    def iter_weights(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the same as the network would, without making it."""
        content = self.__dict__.get("_content")
        arrays = None if content is None else _arrays_in(content)
        if arrays is None:
            yield from super().iter_weights()
            return
        for name, values in sorted(arrays.items()):
            yield name, values.astype(np.float32) if values.dtype.kind == "f" else values

    def __repr__(self) -> str:
        return f"CheckedModel({self.description.name!r})"


def _arrays_in(content: bytes) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a weights file; None if numpy has no such type, which torch may have."""
    try:
        arrays: dict[str, NDArray[Any]] = numpy_arrays(content)
        return arrays
    except (SafetensorError, TypeError, KeyError, ValueError, AttributeError):
        return None


def network_facts(description: ModelDescription) -> dict[str, Any]:
    """Return what decides the operations of a model's network, as values that JSON can hold."""
    pixel_head = description.pixel_head
    return {
        "spec": spec_to_dict(description.spec),
        "pixel_head": None if pixel_head is None else asdict(pixel_head),
    }


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
    content = read_content(folder, description, count)
    if shapes_in(content, description) != wanted:
        raise unfit_weights(description)
    return Model(description, _network_with(description, content))


def read_content(folder: Path, description: ModelDescription, count: int) -> bytes:
    """Return the content of the weights file of a model with `count` weights, if its SHA-256 is the described one.

    Raises:
        ModelError: it is not, or the memory does not suffice for the model.
    """
    if (needed := NEEDED * count) > free_memory("cpu"):
        raise ModelError(
            f"The model '{description.name}' needs {needed / 2**30:,.1f} GiB of memory, and less is free: close other "
            "programs, or choose a smaller model."
        )
    return read_weights(folder, description, largest_weights(count))


def _network_with(description: ModelDescription, content: bytes) -> Network:
    """Return the network with the weights in the content of a weights file."""
    from safetensors.torch import load

    from napari_skipseg.networks.build import build

    network = build(description.spec, description.pixel_head)
    try:
        tensors = load(content)
        widened = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        network.load_state_dict(widened)
    except (SafetensorError, RuntimeError) as error:
        raise unfit_weights(description) from error
    return network.eval()


def shapes_of(description: ModelDescription) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of the network that a description describes; no weight is made."""
    from napari_skipseg.networks.build import outline

    shapes = outline(description.spec, description.pixel_head).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in shapes.items()}


def largest_weights(count: int) -> int:
    """Return the most bytes that a file of `count` weights can have."""
    return LARGEST_HEADER + max(SIZES.values()) * count


def write_model(
    folder: Path,
    description: ModelDescription,
    network: Network,
    sample: bytes | None = None,
    started_from: Path | None = None,
) -> Model:
    """Write a new model to `folder`, whole or not at all; return it as it will be read back.

    Weights are stored in half precision, batch-norm statistics in float32. sample: the content of its sample file.
    started_from: the folder of the model that it went on from, whose licence lies beside the new one too.

    Raises:
        ModelError: `folder` is already there (a model is never overwritten) or cannot be written.
    """
    from safetensors.torch import save

    if folder.exists():
        raise ModelError(f"'{folder}' already exists; a model is never overwritten: choose a different name.")
    content = save({name: _stored(name, tensor) for name, tensor in network.state_dict().items()})
    sampled = None if sample is None else hashlib.sha256(sample).hexdigest()
    description = replace(description, weights_sha256=hashlib.sha256(content).hexdigest(), sample_sha256=sampled)
    files = {WEIGHTS_FILE: content, DESCRIPTION_FILE: description_to_json(description).encode()}
    if started_from is not None and (started_from / LICENSE_FILE).is_file():
        files[LICENSE_FILE] = (started_from / LICENSE_FILE).read_bytes()
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
