"""Every file of a folder of real and broken ones is read exactly, or refused in one sentence, quickly and frugally.

The TIFFs have a manifest and a test of their own in `test_files`.
"""

import json
import sys

import mrcfile
import numpy as np
import pytest
from run_python import run_python

READ_ALL = """
    import json, resource, sys, time
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    from napari_skipseg.errors import SkipsegError
    from napari_skipseg.images.files import read_stack
    folder = Path(sys.argv[1])
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".tif", ".tiff"):
            continue
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
    return {name: facts for name, facts, _ in lines}


@pytest.mark.data
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
def test_all_files_are_read_or_refused_in_one_sentence_in_little_memory(found):
    assert found["peak"] < 512 * 1024
    sentences = [facts for facts in found.values() if isinstance(facts, str)]
    assert all(facts.endswith(".") and "\n" not in facts and ": " in facts for facts in sentences)
    read = {name for name, facts in found.items() if isinstance(facts, list)}
    stores = [f"ome-zarr/simple_{version}" for version in ("0.4", "0.5")]
    inside = [f"{store}/scale{level}/image" for store in stores for level in range(3)]
    metadata = [f"ome-zarr/simple_0.5{place}/zarr.json" for place in ("", *(f"/scale{n}/image" for n in range(3)))]
    newer = [name for name in found if name.startswith("ome-zarr/all_0.6") and name.endswith(".zarr/array")]
    newer_metadata = [f"{name}/zarr.json" for name in newer]
    old = [f"{name}/.zarray" for name in inside if "0.4" in name]
    old += [f"ome-zarr/simple_0.4/{name}" for name in (".zgroup", ".zattrs")]
    others = ["mrcfile/EMD-3001.map", "mrcfile/EMD-3197.map", "mrcfile/emd_3197.png"]
    assert len(newer) == 8
    assert read == {*stores, *inside, *metadata, *newer, *newer_metadata, *old, *others}


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
