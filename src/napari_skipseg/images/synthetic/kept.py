"""The two samples of *Open Sample*, kept on disk, as it takes seconds to make one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from napari_skipseg import durable
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import SyntheticSample, make_isotropic_sample, make_sample
from napari_skipseg.user_folders import cache_folder

SAMPLES_VARIABLE = "NAPARI_SKIPSEG_SAMPLES"


def open_sample(is_isotropic: bool) -> SyntheticSample:
    """Return the default sample of the two kinds: from the user's cache, or made and put there if that is possible."""
    name = "isotropic" if is_isotropic else "sections"
    file = cache_folder("samples", SAMPLES_VARIABLE) / f"{name}-{_version()}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return _read(file)
    made = make_isotropic_sample() if is_isotropic else make_sample()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, and nothing else
        _write(file, made)
    return made


def _version() -> str:
    """Return what changes with the code that makes samples, so that none of an older version is opened."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def _read(file: Path) -> SyntheticSample:
    # from memory: numpy leaves a damaged file open
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
        z, y, x = (float(size) for size in kept["voxel_size"])
        stack = Stack(kept["image"], Space("ZYX", (z, y, x), "nm"), str(kept["name"]))
        return SyntheticSample(stack, kept["membrane"], kept["mitochondria"])


def _write(file: Path, made: SyntheticSample) -> None:
    content, stack = io.BytesIO(), made.stack
    np.savez_compressed(
        content,
        image=np.asarray(stack.data),
        membrane=made.membrane,
        mitochondria=made.mitochondria,
        voxel_size=stack.space.voxel_size,
        name=stack.name,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in file.parent.glob(f"{file.name.partition('-')[0]}-*.npz"):
        old.unlink()
    durable.write_whole(file, content.getbuffer())
