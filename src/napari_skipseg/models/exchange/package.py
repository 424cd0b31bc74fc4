"""A model as a bioimage.io package: a zip with its description (format 0.5), networks, test tensors and our own files.

Others run the ONNX or TorchScript file. We read `model.json` and `weights.safetensors` back, which lie in it unchanged
as attachments: no number passes through another format. Patches of the training images are left out.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from napari_skipseg.durable import make_folders, replacing_durably
from napari_skipseg.errors import FileError, ModelError
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.models.description import ModelDescription, card_facts, description_to_json, license_mark
from napari_skipseg.models.exchange.extra import needed
from napari_skipseg.models.exchange.network_files import (
    OPSET,
    ImageBatch,
    check_agrees,
    check_ours,
    compute_probability,
    new_file,
    onnx_bytes,
    run_onnx,
    run_torchscript,
    torchscript_bytes,
)
from napari_skipseg.models.folder import DESCRIPTION_FILE, LICENSE_FILE, WEIGHTS_FILE, read_description, read_weights
from napari_skipseg.models.model import Model, read_model

_NETWORKS = {
    "unet": ("U-Net: Ronneberger et al. 2015", "10.1007/978-3-319-24574-4_28"),
    "residual-fcn": ("Residual FCN: Drozdzal et al. 2016", "10.1007/978-3-319-46976-8_19"),
    "vnet": ("V-Net: Milletari et al. 2016", "10.1109/3DV.2016.79"),
    "tiramisu": ("FC-DenseNet: Jégou et al. 2017", "10.1109/CVPRW.2017.156"),
    "di2in": ("DI2IN: Yang et al. 2017", "10.1007/978-3-319-59050-9_50"),
}
_GATES = ("SAT: Asgari Taghanaki et al. 2019", "10.1007/978-3-030-32692-0_48")
_SAT = {"st", "at", "sat"}
_DOI = re.compile(r"([^;()]*?),?\s*doi:\s*(10\.\d{4,9}/[^\s;,)]+)")


def cite_model(description: ModelDescription) -> list[dict[str, str]]:
    """Return the citations of a model, each with a text and a DOI; the same DOI comes once."""
    spec, card = description.spec, description.card
    found = [_NETWORKS[spec.network]] if spec.network in _NETWORKS else []
    if _SAT.intersection(spec.skips):
        found.append(_GATES)
    for text, doi in _DOI.findall(f"{card.data} ; {card.terms}"):
        found.append((f"Data: {text.strip() or doi}", doi.rstrip(".")))
    return [{"text": text, "doi": doi} for doi, text in {doi: text for text, doi in reversed(found)}.items()][::-1]


RDF_FILE = "rdf.yaml"
PACKAGE_FORMAT = "0.5.12"
"""The version of the description, the first that takes a licence file in place of a name."""
CONFIG_KEY = "napari_skipseg"
"""The key of our part of the description's `config`."""
EPS = 1e-6
"""What bioimage.io adds to the deviation; half a millionth of a grey value's deviation for us."""
_LEAST_TEST = 64
"""Least side of the test image, which is synthetic."""
_NAME = re.compile(r"[^A-Za-z0-9_+\- ()]+")
_LENGTHS = {"nm": "nanometer", "µm": "micrometer", "um": "micrometer", "mm": "millimeter"}
"""Units of bioimage.io by ours; an image in pixels has none."""


def export_package(folder: Path, out: str | PathLike[str], authors: Sequence[str] = ()) -> Path:
    """Write the model in `folder` as a bioimage.io package, a zip, and return that.

    out: the file, or a folder, in which it is called like the model. authors: names of those who made the model, for
    its description.

    Raises:
        ModelError: the model is damaged, the extra is not installed, a network file computes different probabilities,
            or the model was imported from somebody else's package.
        FileError: the file is there already, or cannot be written.
    """
    file = new_file(folder, out, ".bioimageio.zip")
    files = package_files(folder, authors)
    try:
        make_folders(file.parent)
        with replacing_durably(file) as handle, zipfile.ZipFile(handle, "w") as archive:
            for name, content in files.items():
                is_text = name.endswith((".yaml", ".md", ".json", ".txt", ".npy"))  # weights do not shrink
                kind = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
                archive.writestr(name, content, compress_type=kind)
    except OSError as error:
        raise FileError(f"'{file}' cannot be written: {error.strerror}.") from error
    return file


def package_files(folder: Path, authors: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the files of a package by name; its description comes first.

    Raises:
        ModelError: as `export_package`.
    """
    description = replace(read_description(folder), sample_sha256=None)
    check_ours(description)
    model = Model(description, read_model(folder).network)
    tests = _test_tensors(model)
    files = {
        "weights.onnx": onnx_bytes(model),
        "weights.pt": torchscript_bytes(model),
        "test_input.npy": _npy(tests[0]),
        "test_output.npy": _npy(tests[1]),
        "cover.png": _cover(*tests),
        "README.md": _readme(description).encode(),
        DESCRIPTION_FILE: description_to_json(description).encode(),
        WEIGHTS_FILE: read_weights(folder, description),
    }
    own = folder / LICENSE_FILE
    text = own.read_bytes() if own.is_file() else _license_text(description)
    if text:
        files[LICENSE_FILE] = text
    pixels = standardized(tests[0])
    check_agrees(run_onnx(files["weights.onnx"], pixels), tests[1], "The ONNX file")
    check_agrees(run_torchscript(files["weights.pt"], pixels), tests[1], "The TorchScript file")
    hashes = {name: {"source": name, "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    content = _rdf(description, model.network.stride, hashes, authors)
    _check_format(content)
    return {RDF_FILE: _yaml(content), **files}


def standardized(values: ImageBatch) -> ImageBatch:
    """Return (N, C, *space) in standard units as the operation zero_mean_unit_variance of bioimage.io defines it."""
    axes = tuple(range(1, values.ndim))
    mean = values.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = values.std(axis=axes, keepdims=True, dtype=np.float64)
    return np.asarray((values - mean) / (deviation + EPS), np.float32)


def test_size(margin: int, stride: int) -> int:
    """Return the least side that a model takes: it keeps something between its margins, on the grid of its stride."""
    return -(-(2 * margin + stride) // stride) * stride


def _test_tensors(model: Model) -> tuple[ImageBatch, ImageBatch]:
    """Return a synthetic image (1, C, *space) of grey values, and the probabilities that the model gives for it."""
    spec, stride = model.description.spec, model.network.stride
    side = max(test_size(model.description.margin, stride), -(-_LEAST_TEST // stride) * stride)
    channels = []
    for seed in range(spec.in_channels):
        made = make_sample((1, side, side), seed) if spec.dimensions == 2 else make_isotropic_sample((side,) * 3, seed)
        channels.append(np.asarray(made.stack.data).reshape((side,) * spec.dimensions))
    values = np.stack(channels)[None].astype(np.float32)
    return values, compute_probability(model, standardized(values))


def _rdf(
    description: ModelDescription, stride: int, files: Mapping[str, dict[str, str]], authors: Sequence[str]
) -> dict[str, Any]:
    """Return the description of the package, as values that YAML can hold."""
    spec, card, margin = description.spec, description.card, description.margin
    attached = [files[name] for name in (DESCRIPTION_FILE, WEIGHTS_FILE)]
    found: dict[str, Any] = {
        "format_version": PACKAGE_FORMAT,
        "type": "model",
        "name": _name(description.name),
        "description": (card.summary or f"Finds {', '.join(description.class_names)} in images.")[:1024],
        "authors": [{"name": name} for name in authors] or [{"name": "unknown"}],
        "cite": cite_model(description),
        "documentation": files["README.md"],
        "covers": [files["cover.png"]],
        "tags": ["segmentation", f"{spec.dimensions}d", spec.network, *map(_tag, description.class_names)],
        "inputs": [_input(description, stride, files)],
        "outputs": [_output(description, margin, files)],
        "weights": {
            "torchscript": files["weights.pt"] | {"pytorch_version": torch.__version__.partition("+")[0]},
            "onnx": files["weights.onnx"] | {"opset_version": OPSET, "parent": "torchscript"},
        },
        "config": {
            CONFIG_KEY: {
                "version": metadata.version("napari-skipseg"),
                "model": DESCRIPTION_FILE,
                "weights": WEIGHTS_FILE,
                "license": card.license,
                "terms": card.terms,
                "use": license_mark(card.license, card.terms),
                "thresholds": description.class_thresholds,
            }
        },
    }
    name = spdx_name(card.license)
    if LICENSE_FILE in files and not name:
        found["license"] = files[LICENSE_FILE]
    elif LICENSE_FILE in files:
        attached.append(files[LICENSE_FILE])
    if name:
        found["license"] = name
    return found | {"attachments": attached}


def spdx_name(expression: str) -> str:
    """Return `expression` if it is the name of one licence on the SPDX list, else "": a package can name only one.

    A licence of our own (LicenseRef-…) or several joined by AND are no such name: the package has their text instead,
    because a single name would promise too much.
    """
    if not re.fullmatch(r"[A-Za-z0-9.+\-]+", expression) or expression.startswith("LicenseRef-"):
        return ""
    known = needed("bioimageio.spec.generic.v0_3").LicenseId
    try:
        known(expression)
    except ValueError:
        return ""
    return expression


def _input(description: ModelDescription, stride: int, files: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    spec = description.spec
    names = ["grey"] if spec.in_channels == 1 else [f"channel{number}" for number in range(spec.in_channels)]
    size = {"min": test_size(description.margin, stride), "step": stride}
    space = [axis | {"size": size} for axis in _space_axes(description)]
    over = ["channel", *(axis["id"] for axis in space)]
    return {
        "id": "input",
        "description": "grey values as they are stored",
        "axes": [{"type": "batch"}, {"type": "channel", "id": "channel", "channel_names": names}, *space],
        "data": {"type": "float32"},
        "preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": over, "eps": EPS}}],
        "test_tensor": files["test_input.npy"],
    }


def _output(description: ModelDescription, margin: int, files: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    halo = {"halo": margin} if margin else {}
    space = [axis | halo | {"size": {"tensor_id": "input", "axis_id": axis["id"]}} for axis in _space_axes(description)]
    names = {"type": "channel", "id": "channel", "channel_names": list(description.class_names)}
    return {
        "id": "output",
        "description": "probability of each class",
        "axes": [{"type": "batch"}, names, *space],
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": files["test_output.npy"],
    }


def _space_axes(description: ModelDescription) -> list[dict[str, Any]]:
    unit = _LENGTHS.get(description.unit)
    lengths = zip("zyx", description.voxel_size, strict=True)
    return [
        {"type": "space", "id": axis, "scale": length} | ({"unit": unit} if unit else {}) for axis, length in lengths
    ][-description.spec.dimensions :]


def _check_format(content: dict[str, Any]) -> None:
    """Check a description against the specification.

    Raises:
        ModelError: it is not valid, which is a fault of ours.
    """
    spec = needed("bioimageio.spec")
    summary = spec.validate_format(content, context=spec.ValidationContext(perform_io_checks=False, log_warnings=False))
    if summary.status == "failed":
        fault = summary.details[0].errors[0] if summary.details[0].errors else summary
        place = ".".join(map(str, getattr(fault, "loc", ())))
        raise ModelError(f"The package would not be valid ({place}: {getattr(fault, 'msg', fault)}): please report it.")


def _yaml(content: dict[str, Any]) -> bytes:
    writer = needed("ruyaml").YAML(typ="safe")
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    text = io.BytesIO()
    writer.dump(content, text)
    return text.getvalue()


def _npy(values: NDArray[np.float32]) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    return content.getvalue()


def _cover(image: ImageBatch, probability: ImageBatch) -> bytes:
    """Return a picture of the test image beside its first class, twice as wide as high, as PNG."""
    middle = (0, 0, *(length // 2 for length in image.shape[2:-2]))
    left = image[middle]
    spread = max(float(np.ptp(left)), 1e-6)
    both = np.hstack([(left - left.min()) / spread, probability[middle]])
    content = io.BytesIO()
    Image.fromarray(np.round(255 * both).astype(np.uint8)).resize((512, 256)).save(content, "PNG")
    return content.getvalue()


def _name(name: str) -> str:
    """Return a name with the characters that bioimage.io allows, and as long as it wants one."""
    found = _NAME.sub("-", name)[:64].strip()
    return found if len(found) >= 5 else f"{found} model".strip()


def _tag(name: str) -> str:
    return _NAME.sub("-", name).lower()


def _license_text(description: ModelDescription) -> bytes:
    """Return what the card says about the licence, for a model without a file of its own; empty if it says nothing."""
    card = description.card
    lines = [f"{heading}: {text}" for heading, text in (("Licence", card.license), ("Terms", card.terms)) if text]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _readme(description: ModelDescription) -> str:
    facts = card_facts(description)
    rows = "\n".join(f"| {heading} | {text} |".replace("\n", " ") for heading, text in facts.items())
    use = license_mark(description.card.license, description.card.terms)
    mark = f"**{use.capitalize()}**: read `{LICENSE_FILE}` before you use the weights.\n\n" if use else ""
    return f"""# {description.name}

{description.card.summary}

{mark}| | |
|---|---|
{rows}

## Use

The output has one probability in [0, 1] for each class, and no background. The input is grey values in any range: the
preprocessing brings the mean of the whole image to 0 and its deviation to 1. napari-skipseg measures both once over a
whole stack, leaves black frames, other constant areas and outliers out, and fills constant areas; other programs do
none of this, so crop such areas away there.

A result within {description.margin} pixels of the border of a tile may differ from that of the whole image (`halo`).
`{DESCRIPTION_FILE}` and `{WEIGHTS_FILE}` are the model of napari-skipseg itself: import the package there to fine-tune
it. Test tensors and cover are synthetic.

## Validation

Scores are in the table above. To validate the model on your data, segment some labelled images that it was not trained
on, and compare the result, for example with `napari-skipseg score`.
"""
