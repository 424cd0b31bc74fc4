"""A model's network as a file that others run: ONNX or TorchScript, from standardised grey values to probabilities."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_skipseg.durable import make_folders, write_durably
from napari_skipseg.errors import FileError, ModelError
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.exchange.extra import needed
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.models.transfer import add_ending
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.specs import ImportedSpec

OPSET = 17
"""The version of ONNX's operators: old enough for most programs, new enough for all of our layers."""
INPUT, OUTPUT = "input", "output"
"""Names of the tensors in the files."""
TOLERANCE = 1e-3
"""Largest difference of a probability between a file and the network that it was written from."""
_EXAMPLE = 2
"""Sides of the tensor with which a network is traced, in strides."""

ImageBatch = NDArray[np.float32]


class _ProbabilityNetwork(nn.Module):
    """A network that returns probabilities alone: (N, in_channels, *space) -> (N, classes, *space)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.eval()  # torch's exporter gives the parts of a network the mode of the whole

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of each class."""
        output = self.network(image)
        return self.network.probability(output.logits)


def compute_probability(model: Model, pixels: ImageBatch) -> ImageBatch:
    """Return the probabilities (N, classes, *space) of `pixels` (N, C, *space) in standard units, in float32."""
    with torch.inference_mode():
        found: ImageBatch = _ProbabilityNetwork(model.network)(torch.from_numpy(pixels)).numpy()
    return found


def onnx_bytes(model: Model) -> bytes:
    """Return the network of `model` as the content of an ONNX file, with the normalisation left to the caller.

    Its input is "input" (N, C, *space) in standard units, its output "output" (N, classes, *space), probabilities. N
    and the lengths of space are free; these are multiples of the model's stride. The file says so in its metadata.

    Raises:
        ModelError: torch cannot write it, or the package onnx is not installed.
    """
    content = io.BytesIO()
    needed("onnx")
    axes = {0: "batch"} | dict(enumerate("zyx"[-model.description.spec.dimensions :], start=2))
    with _quiet(), _named("ONNX", model):
        torch.onnx.export(
            _ProbabilityNetwork(model.network),
            (_example(model),),
            content,  # type: ignore[arg-type]  # this exporter writes into a buffer too
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs two more packages, and fixes sizes that are computed in Python
        )
    written = needed("onnx").load_from_string(content.getvalue())
    for key, value in _facts(model).items():
        written.metadata_props.add(key=key, value=value)
    found: bytes = written.SerializeToString()
    return found


def torchscript_bytes(model: Model) -> bytes:
    """Return the network of `model` as the content of a TorchScript file; input and output are those of `onnx_bytes`.

    Raises:
        ModelError: torch cannot write it.
    """
    content = io.BytesIO()
    with _quiet(), torch.no_grad(), _named("TorchScript", model):
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _ProbabilityNetwork(model.network), _example(model), check_trace=False
        )
        torch.jit.save(traced, content)
    return content.getvalue()


def run_onnx(content: bytes, pixels: ImageBatch) -> ImageBatch:
    """Return the first output of an ONNX file for `pixels`, computed with onnxruntime on the CPU.

    Raises:
        ModelError: onnxruntime is not installed.
    """
    session = needed("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    found: ImageBatch = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return found


def run_torchscript(content: bytes, pixels: ImageBatch) -> ImageBatch:
    """Return the output of a TorchScript file of ours for `pixels`, on the CPU."""
    with _quiet(), torch.inference_mode():
        network = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
        found: ImageBatch = network(torch.from_numpy(pixels)).numpy()
    return found


def check_agrees(found: ImageBatch, wanted: ImageBatch, what: str) -> None:
    """Check that two outputs are the same within `TOLERANCE`.

    Raises:
        ModelError: they differ more; `what` was found.
    """
    differs = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
    if not differs <= TOLERANCE:
        raise ModelError(f"{what} differs from the model by {differs:.3g}, and is not written: please report this.")


def check_ours(description: ModelDescription) -> None:
    """Refuse to export a network that was imported: its own package is the original.

    Raises:
        ModelError: it was.
    """
    if isinstance(description.spec, ImportedSpec):
        raise ModelError(f"'{description.name}' was imported from a package: share that package instead.")


def new_file(folder: Path, out: str | PathLike[str], ending: str) -> Path:
    """Return the file that a model is exported to: `out`, or in the folder `out` one that is called like the model.

    ending: added to `out` if it has none.

    Raises:
        FileError: it is there already.
    """
    place = Path(out)
    file = place / f"{folder.name}{ending}" if place.is_dir() else add_ending(place, ending)
    if file.exists():
        raise FileError(f"'{file}' already exists, and is not overwritten: give another name.")
    return file


def export_onnx(folder: Path, out: str | PathLike[str]) -> Path:
    """Write the network of the model in `folder` to an ONNX file, and return that.

    onnxruntime has to compute what torch computes. out: the file, or a folder, in which it is called like the model.

    Raises:
        ModelError: the extra is not installed, or the probabilities differ by more than `TOLERANCE`.
        FileError: the file is there already, or cannot be written.
    """
    file, model = new_file(folder, out, ".onnx"), read_model(folder)
    check_ours(model.description)
    content = onnx_bytes(model)
    spec, stride = model.description.spec, model.network.stride
    sides = (2 * stride, *(3 * stride,) * (spec.dimensions - 1))  # other sizes than that of the example
    pixels = np.random.default_rng(0).normal(size=(1, spec.in_channels, *sides)).astype(np.float32)
    check_agrees(run_onnx(content, pixels), compute_probability(model, pixels), "The ONNX file")
    try:
        make_folders(file.parent)
        write_durably(file, content)
    except OSError as error:
        raise FileError(f"'{file}' cannot be written: {error.strerror}.") from error
    return file


def _example(model: Model) -> Tensor:
    spec = model.description.spec
    return torch.zeros(1, spec.in_channels, *(_EXAMPLE * model.network.stride,) * spec.dimensions)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's warnings: of the tracer, as sizes are multiples of the stride, which takes one path for all of
    them; and that TorchScript will have a successor, which others cannot read yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _named(form: str, model: Model) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        name = model.description.name
        raise ModelError(f"Model '{name}' cannot be written as {form}: {str(error).splitlines()[0]}") from error


def _facts(model: Model) -> dict[str, str]:
    """Return what a program must know besides the tensors."""
    description = model.description
    return {
        "model": description.name,
        "classes": json.dumps(description.class_names),
        "normalization": "(value - mean) / deviation, of all grey values of the image",
        "stride": str(model.network.stride),
        "margin": str(description.margin),
        "voxel_size_zyx": json.dumps(description.voxel_size),
        "unit": description.unit,
        "license": description.card.license or description.card.terms,
    }
