"""A bioimage.io package as a model here: one of ours as it was, somebody else's network as a file that is run.

Every network is computed on the package's own test tensors before it is kept: what does not give the output that its
authors promise is refused. Nothing but the package itself is fetched, and no Python code of it runs.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from napari_skipseg.durable import make_folders, put_files
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.foreign_text import printable
from napari_skipseg.images.intensity.grey_steps import combine_steps
from napari_skipseg.models.catalog import user_folder
from napari_skipseg.models.description import (
    Card,
    ClassLabel,
    ModelDescription,
    TrainingRecord,
    can_name,
    description_to_json,
    output_channels,
)
from napari_skipseg.models.exchange.archive import opened_package
from napari_skipseg.models.exchange.extra import needed
from napari_skipseg.models.exchange.foreign import ForeignNetwork, NamedFile, describe_foreign, named_file, read_rdf
from napari_skipseg.models.exchange.network_files import TOLERANCE
from napari_skipseg.models.exchange.package import CONFIG_KEY
from napari_skipseg.models.folder import DESCRIPTION_FILE, LICENSE_FILE, WEIGHTS_FILE
from napari_skipseg.models.transfer import check_new_name, iter_import
from napari_skipseg.networks.imported import ImportedNetwork
from napari_skipseg.networks.specs import ImportedSpec
from napari_skipseg.progress import Progress

MOST_TENSOR = 2**30
"""Most bytes of a test tensor."""
MOST_DIFFERENT = 1e-3
"""Share of the test output that may differ by more than `TOLERANCE`: runtimes round in different ways."""
_LEAST_BYTES = 256
"""Least memory of a voxel in a network that is assumed: where a test image is small, less may be measured."""
_NO_MATRIX = re.compile(rb"\btorch\.(from_file|save|load)\b|\bops\.(?!aten\.|prims?\.)\w+\.")
"""Operations of TorchScript that read or write files, or come from other libraries."""


def iter_import_package(
    place: str, name: str = "", folder: Path | None = None, sha256: str = ""
) -> Generator[Progress, None, Path]:
    """Yield while a package is imported; return the folder of the new model.

    place: a folder, a zip, or the address of a zip, which is fetched. name: of the model; "" = that of the package.
    folder: where it is put; None = that of the user's models. sha256: of the zip, if it is known.

    Raises:
        ModelError: it cannot be fetched or read, is unsafe or damaged, needs what is not there, or does not give its
            own test output; the name is taken, or the folder cannot be written.
    """
    folder = user_folder() if folder is None else folder
    yield Progress(0, 3, f"opening {printable(place)}")
    with opened_package(place, sha256) as package:
        rdf = read_rdf(package)
        own = getattr(rdf.config, CONFIG_KEY, None)
        if own and (package / DESCRIPTION_FILE).is_file():
            for each in rdf.attachments:
                _read(package, named_file(each))
            return (yield from iter_import(package, name, folder))
        name = name or name_from_title(str(rdf.id or rdf.name))
        check_new_name(name, folder)
        foreign = describe_foreign(rdf)
        yield Progress(1, 3, "reading the network")
        content = _network_file(package, foreign)
        yield Progress(2, 3, "computing the test image")
        network = ImportedNetwork(_spec(foreign, len(content), 1)).eval()
        network.file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        voxel_bytes = _check_reproduces(network, foreign, package)
        weights = save({"file": network.file})
        description = _description(rdf, foreign, name, len(content), voxel_bytes)
        description = replace(description, weights_sha256=hashlib.sha256(weights).hexdigest())
        files = {WEIGHTS_FILE: weights, DESCRIPTION_FILE: description_to_json(description).encode()}
        files |= _license(package, rdf)
        try:
            make_folders(folder)
            put_files(folder / name, files)
        except OSError as error:
            raise ModelError(f"The model cannot be written to '{folder / name}': {error.strerror}.") from error
    return folder / name


def name_from_title(name: str) -> str:
    """Return a name for a model, made from that of a package."""
    found = re.sub(r"[^\w.\-]+", "-", name.rpartition("/")[2]).strip("-.").lower()[:80]
    return found if can_name(found) else "imported"


def _network_file(package: Path, foreign: ForeignNetwork) -> bytes:
    """Return the content of the network's file, all in one, after looking at what it can do."""
    content = _read(package, foreign.weights)
    if foreign.runtime == "torchscript":
        _check_torchscript(content)
        return content
    onnx = needed("onnx")
    try:
        if foreign.external is not None:
            _read(package, foreign.external)
            loaded = onnx.load(str(package / foreign.weights.name))
            content = loaded.SerializeToString()
        else:
            loaded = onnx.load_from_string(content)
    except Exception as error:  # of the package onnx, of many kinds
        raise ModelError(f"'{foreign.weights.name}' of the package is no ONNX file that can be read.") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in loaded.graph.initializer):
        raise ModelError(f"'{foreign.weights.name}' has its weights in a file that the package does not name.")
    return content


def _check_torchscript(content: bytes) -> None:
    """Refuse a TorchScript file whose code reads or writes files, or uses another library's operations."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            code = [archive.read(name) for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise ModelError("The TorchScript file of the package is damaged, or of a kind that is not read.") from error
    found = next((match for text in code if (match := _NO_MATRIX.search(text))), None)
    if found is not None:
        raise ModelError(
            f"The TorchScript file of the package uses '{printable(found[0].decode('utf-8', 'replace'))}', which no "
            "network needs: it is not imported."
        )


def _check_reproduces(network: ImportedNetwork, foreign: ForeignNetwork, package: Path) -> int:
    """Check that the network gives the package's test output; return the memory that it took for each voxel."""
    image = _tensor(package, foreign.test_input, foreign.input_axes)
    wanted = _tensor(package, foreign.test_output, foreign.output_axes)[:, list(foreign.channels)]
    pixels = torch.from_numpy(combine_steps(foreign.grey_steps, image).apply(image))
    network.prepare()
    with torch.inference_mode(), _PeakMemory() as memory:
        try:
            found = network(pixels).logits.numpy()
        except SkipsegError:
            raise
        except Exception as error:  # a runtime has errors of its own
            reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])
            raise ModelError(f"The network of the package cannot compute its test image: {reason}") from error
    if found.shape != wanted.shape:
        raise ModelError("The network of the package gives another size than its test output has: it is not imported.")
    off = np.abs(found - wanted)
    if not np.isfinite(found).all() or float((off > TOLERANCE).mean()) > MOST_DIFFERENT:
        raise ModelError(
            f"The network of the package does not give its own test output (it differs by up to {off.max():.3g}): it "
            "is not imported."
        )
    if found.min() < -TOLERANCE or found.max() > 1 + TOLERANCE:
        raise ModelError(
            f"The network of the package gives values from {found.min():.3g} to {found.max():.3g}, and no "
            "probabilities: it is not imported."
        )
    return max(_LEAST_BYTES, memory.growth // max(1, pixels[0, 0].numel()))


class _PeakMemory:
    """Measures by how much the memory of the process grows while it is on. A runtime says nothing of its own."""

    growth = 0

    def __enter__(self) -> _PeakMemory:
        self._process, self._ended = psutil.Process(), threading.Event()
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(0.002)
            self.growth = max(self.growth, self._process.memory_info().rss - self._before)


def _tensor(package: Path, file: NamedFile, axes: str) -> NDArray[np.float32]:
    """Return the first image of a test tensor as (1, C, *space)."""
    try:
        values = np.load(io.BytesIO(_read(package, file, MOST_TENSOR)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ModelError(f"'{file.name}' of the package is no array of numbers that can be read.") from error
    if values.ndim != len(axes) or values.dtype.kind not in "fiub" or not values.size:
        raise ModelError(f"'{file.name}' of the package has other axes than the description says.")
    order = "bc" + "".join(axis for axis in "zyx" if axis in axes)
    for axis in order:
        if axis not in axes:
            values, axes = values[None], axis + axes
    return np.ascontiguousarray(values.transpose([axes.index(axis) for axis in order])[:1].astype(np.float32))


def _read(package: Path, file: NamedFile, most: int | None = None) -> bytes:
    """Return the content of a file of a package, after its hash was checked."""
    path = package / file.name
    if not path.is_file() or not path.resolve().is_relative_to(package.resolve()):
        raise ModelError(f"'{printable(file.name)}' is missing in the package: download it again.")
    if most is not None and path.stat().st_size > most:
        raise ModelError(f"'{file.name}' of the package is larger than any that is read.")
    content = path.read_bytes()
    if file.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise ModelError(f"'{file.name}' of the package is damaged (its SHA-256 differs): download it again.")
    return content


def _spec(foreign: ForeignNetwork, size: int, voxel_bytes: int) -> ImportedSpec:
    return ImportedSpec(
        dimensions=3 if "z" in foreign.input_axes else 2,
        in_channels=foreign.in_channels,
        out_channels=output_channels(len(foreign.class_names)),
        runtime=foreign.runtime,
        file_bytes=size,
        input_axes=foreign.input_axes,
        output_axes=foreign.output_axes,
        least=foreign.least,
        steps=foreign.steps,
        halo=foreign.halo,
        channels=foreign.channels,
        before=foreign.before,
        after=foreign.after,
        voxel_bytes=voxel_bytes,
    )


def _description(rdf: Any, foreign: ForeignNetwork, name: str, size: int, voxel_bytes: int) -> ModelDescription:
    classes = tuple(ClassLabel(each, number) for number, each in enumerate(foreign.class_names, start=1))
    cited = "; ".join(f"{each.text} ({each.doi or each.url})" for each in rdf.cite)
    license_name = rdf.license if isinstance(rdf.license, str) else ""
    terms = [] if license_name else ["See LICENSE.txt." if rdf.license else "No licence is stated."]
    authors = ", ".join(each.name for each in rdf.authors)
    return ModelDescription(
        name,
        _spec(foreign, size, voxel_bytes),
        classes,
        margin=max(foreign.halo),
        weights_sha256="",
        voxel_size=foreign.voxel_size,
        unit=foreign.unit,
        normalization="steps",
        padding="none",
        card=Card(
            summary=printable(rdf.description),
            data=printable(f"not stated here; the authors of the package are {authors}" if authors else ""),
            terms=printable(" ".join([*terms, *([f"Cite {cited}."] if cited else [])])),
            license=printable(license_name),
        ),
        training=TrainingRecord(settings={"imported": {"id": str(rdf.id or ""), "name": rdf.name}}),
        grey_steps=foreign.grey_steps,
    )


def _license(package: Path, rdf: Any) -> dict[str, bytes]:
    """Return the licence file of a package, if it has one."""
    stated = [named_file(rdf.license).name] if hasattr(rdf.license, "source") else []
    for name in (*stated, LICENSE_FILE, "LICENSE", "LICENSE.md"):
        if (package / name).is_file():
            return {LICENSE_FILE: _read(package, NamedFile(name, None), 2**20)}
    return {}
