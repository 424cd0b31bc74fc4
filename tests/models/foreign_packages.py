"""Packages of bioimage.io as a stranger writes them: a small network, its test tensors and a description."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rdf = dict[str, Any]


class Blur(nn.Module):
    """A network that looks one pixel around: the sigmoid of the mean of 3 × 3 pixels."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(nn.functional.avg_pool2d(nn.functional.pad(image, [1] * 4), 3, 1))


def plain_rdf(size: Any, halo: int = 1) -> Rdf:
    """Return the description of a package with a 2D network of one channel and one class."""
    space = [{"type": "space", "id": axis, "size": size} for axis in "yx"]
    reference = [
        {"type": "space", "id": axis, "size": {"tensor_id": "raw", "axis_id": axis}, "halo": halo} for axis in "yx"
    ]
    channel = {"type": "channel", "id": "channel"}
    return {
        "format_version": "0.5.3",
        "type": "model",
        "name": "Nuclei (2D)",
        "description": "finds nuclei",
        "authors": [{"name": "Some Body"}],
        "cite": [{"text": "Body 2020", "doi": "10.1234/abc"}],
        "license": "CC-BY-4.0",
        "documentation": "README.md",
        "inputs": [
            {
                "id": "raw",
                "axes": [{"type": "batch"}, channel | {"channel_names": ["grey"]}, *space],
                "data": {"type": "float32"},
                "test_tensor": {"source": "in.npy"},
            }
        ],
        "outputs": [
            {
                "id": "out",
                "axes": [{"type": "batch"}, channel | {"channel_names": ["Nucleus"]}, *reference],
                "data": {"type": "float32"},
                "test_tensor": {"source": "out.npy"},
            }
        ],
        "weights": {"torchscript": {"source": "net.pt", "pytorch_version": "2.4.0"}},
    }


def write_foreign(
    folder: Path,
    rdf: Rdf | None = None,
    network: nn.Module | None = None,
    image: NDArray[Any] | None = None,
    prepare: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> Path:
    """Write a package as a folder. prepare: what its preprocessing does with an image (N, C, Y, X)."""
    folder.mkdir()
    network = Blur() if network is None else network
    image = np.random.default_rng(0).normal(5, 2, (1, 1, 16, 16)).astype(np.float32) if image is None else image
    pixels = torch.from_numpy(np.asarray(image if prepare is None else prepare(image), np.float32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript will have a successor
        torch.jit.save(torch.jit.trace(network, pixels), str(folder / "net.pt"))
        np.save(folder / "out.npy", network(pixels).numpy())
    np.save(folder / "in.npy", image)
    (folder / "README.md").write_text("# Validation")
    (folder / "rdf.yaml").write_text(json.dumps(plain_rdf(16) if rdf is None else rdf))
    return folder


def zipped(folder: Path, more: Mapping[str, bytes] | None = None, without: str = "") -> Path:
    """Return a zip beside a package folder with the files in it, and more."""
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as archive:
        for each in sorted(folder.iterdir()):
            if each.name != without:
                archive.write(each, each.name)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return file


def entries(file: Path) -> dict[str, bytes]:
    """Return the files of a zip by name."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
