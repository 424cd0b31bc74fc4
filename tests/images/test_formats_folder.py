"""Every file of a folder of real and broken ones is read exactly, or refused in one sentence, quickly and frugally."""

import csv
import json
import sys

import mrcfile
import numpy as np
import pytest
import tifffile
from run_python import run_python

READ_ALL = """
    import json, resource, sys, time
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    from napari_skipseg.errors import SkipsegError
    from napari_skipseg.images.files import read_stack
    folder = Path(sys.argv[1])
    for path in sorted(folder.rglob("*")):
        begun = time.process_time()
        try:
            stack = read_stack(path)
            values = stack.read((...,))
            extremes = [float(values.min()), float(values.max()), float(values.mean(dtype="f8"))]
            space = stack.space
            found = [list(stack.shape), str(values.dtype), space.axes, list(space.voxel_size), space.unit, extremes]
        except SkipsegError as error:
            found = str(error)
        print(json.dumps([path.relative_to(folder).as_posix(), found, time.process_time() - begun]), flush=True)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps(["peak", int(status["VmHWM"].split()[0]), 0]))
"""


@pytest.fixture(scope="module")
def found(data_folder):
    """What the child process made of each file: a list of facts, or the sentence."""
    done = run_python(READ_ALL, data_folder / "formats")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert max(seconds for _, _, seconds in lines) < 5
    found = {name: facts for name, facts, _ in lines}
    assert found.pop("peak") < 512 * 1024
    return found


@pytest.fixture(scope="module")
def manifest(data_folder):
    """What another reader says of each TIFF, by its name."""
    with (data_folder / "formats" / "manifest.csv").open() as handle:
        return {row["file"]: row for row in csv.DictReader(handle)}


@pytest.mark.data
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
def test_all_but_tiffs_are_read_or_refused_in_one_sentence(found):
    others = {name: facts for name, facts in found.items() if not name.lower().endswith((".tif", ".tiff"))}
    sentences = [facts for facts in others.values() if isinstance(facts, str)]
    assert all(facts.endswith(".") and "\n" not in facts and ": " in facts for facts in sentences)
    read = {name for name, facts in others.items() if isinstance(facts, list)}
    stores = [f"ome-zarr/simple_{version}" for version in ("0.4", "0.5")]
    inside = [f"{store}/scale{level}/image" for store in stores for level in range(3)]
    metadata = [f"ome-zarr/simple_0.5{place}/zarr.json" for place in ("", *(f"/scale{n}/image" for n in range(3)))]
    newer = [name for name in found if name.startswith("ome-zarr/all_0.6") and name.endswith(".zarr/array")]
    newer_metadata = [f"{name}/zarr.json" for name in newer]
    old = [f"{name}/.zarray" for name in inside if "0.4" in name]
    old += [f"ome-zarr/simple_0.4/{name}" for name in (".zgroup", ".zattrs")]
    maps = ["mrcfile/EMD-3001.map", "mrcfile/EMD-3197.map", "mrcfile/emd_3197.png"]
    assert len(newer) == 8
    assert read == {*stores, *inside, *metadata, *newer, *newer_metadata, *old, *maps}


def inverted_from(path):
    """Return the largest value of a TIFF in which white is 0, None if it is black, or if values have no largest one."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        counted = page.photometric == 0 and page.dtype.kind in "bu" and not page.software.startswith("tifffile")
        return 2**page.bitspersample - 1 if counted else None


@pytest.mark.data
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
def test_tiffs_are_read_as_the_manifest_says_or_refused(found, manifest, data_folder):
    assert manifest.keys() <= found.keys()
    assert not any("\n" in facts for facts in found.values() if isinstance(facts, str))
    refused = {name for name in manifest if isinstance(found[name], str)}
    unreadable = {name for name, row in manifest.items() if row["tifffile"] != "ok" or "(0," in row["shape"]}
    assert refused == unreadable | {"pillow/compression.tif"}  # two pages of one size, one of bits and one of bytes
    letters = str.maketrans("SIQ", "CZZ")
    for name in manifest.keys() - refused:
        shape, dtype, axes, _, _, (low, high, _) = found[name]
        row = manifest[name]
        assert (str(tuple(shape)), dtype, axes) == (row["shape"], row["dtype"], row["axes"].translate(letters)), name
        low_high = [float({"True": 1, "False": 0}.get(row[key], row[key])) for key in ("min", "max")]
        top = inverted_from(data_folder / "formats" / name)
        low_high = low_high if top is None else [top - low_high[1], top - low_high[0]]
        assert [low, high] == pytest.approx(low_high, rel=1e-3 if dtype == "float16" else 1e-6), name


@pytest.mark.data
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
def test_stores_and_maps_are_read_with_their_truth(found, data_folder):
    for version in ("0.4", "0.5"):
        store = f"ome-zarr/simple_{version}"
        assert found[store] == [[10, 10], "uint16", "YX", [1.0, 4.0, 30.0], "nm", [0.0, 99.0, 49.5]]
        assert found[f"{store}/scale2/image"][:5] == [[2, 2], "uint16", "YX", [1.0, 16.0, 120.0], "nm"]
    for name, order, size in (
        ("EMD-3001", (2, 0, 1), [0.45875, 0.3925, 0.44825]),
        ("EMD-3197", (0, 1, 2), [11.4, 11.4, 11.4]),
    ):
        with mrcfile.open(data_folder / "formats" / "mrcfile" / f"{name}.map") as file:
            values = np.array(file.data).transpose(order)
        facts = found[f"mrcfile/{name}.map"]
        assert facts[:5] == [list(values.shape), "float32", "ZYX", size, "Å"]
        assert facts[5] == pytest.approx([values.min(), values.max(), values.mean(dtype="f8")])
    assert "is OME-Zarr 0.6.dev1, which is not understood yet" in found["ome-zarr/all_0.6/basic/scale.zarr"]
    assert "is packed: unpack it" in found["ome-zarr/simple_0.5.zip"]
