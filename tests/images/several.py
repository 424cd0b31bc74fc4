"""Small TIFFs of several pages and images, for tests: smooth noise, so that copies at fewer pixels look alike."""

import struct

import numpy as np
import tifffile
from scipy import ndimage


def smooth(shape, seed=0, dtype="uint8"):
    """Return smooth noise from 0 to 255 along the last two axes."""
    values = np.random.default_rng(seed).normal(size=shape)
    values = ndimage.gaussian_filter(values, [0] * (len(shape) - 2) + [3, 3])
    return ((values - values.min()) / np.ptp(values) * 255).astype(dtype)


def write_pages(path, *pages, **options):
    """Write one page after the other without metadata; a page is an array, or an array and its own options."""
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            values, own = page if isinstance(page, tuple) else (page, {})
            given = {"metadata": None, "contiguous": False, "photometric": "minisblack"} | options | own
            writer.write(values, **given)
    return path


def append(path, *arrays, **options):
    """Write arrays one after the other with append=True, as scikit-image and tifffile do in loops."""
    for values in arrays:
        tifffile.imwrite(path, values, append=True, photometric="minisblack", **options)
    return path


def add_page(path, values):
    """Put one more page of bytes behind the last one of a TIFF, whatever wrote that."""
    content = bytearray(path.read_bytes())
    order = "<" if content[:2] == b"II" else ">"
    pointer, offset = 4, struct.unpack_from(f"{order}I", content, 4)[0]
    while offset:
        count = struct.unpack_from(f"{order}H", content, offset)[0]
        pointer = offset + 2 + 12 * count
        offset = struct.unpack_from(f"{order}I", content, pointer)[0]
    content += bytes(len(content) % 2)
    data = len(content)
    content += values.tobytes() + bytes(values.size % 2)
    struct.pack_into(f"{order}I", content, pointer, len(content))
    height, width = values.shape
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, data), (277, 3, 1), (278, 4, height), (279, 4, values.size)]
    content += struct.pack(f"{order}H", len(tags))
    for code, kind, value in tags:
        content += struct.pack(f"{order}HHI", code, kind, 1)
        content += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    path.write_bytes(content + struct.pack(f"{order}I", 0))
    return path


def write_ome(path, *images, names=()):
    """Write an OME-TIFF of several <Image> elements."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number, values in enumerate(images):
            name = names[number] if names else f"Pos{number}"
            axes = "ZYX"[-values.ndim :]
            writer.write(values, photometric="minisblack", metadata={"axes": axes, "Name": name})
    return path
