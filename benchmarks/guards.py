"""The warnings of the guards for undisturbed and disturbed images, and the time that they take.

    SKIPSEG_DATA=folder python benchmarks/guards.py slices | kinds | contrast | time

slices: alarms on the undisturbed stacks, and how many inserted faults are named. kinds: how far each image is from what
the built-in models were trained on (1 = the limit), and how sure they are of it. contrast: whether inverted images are
recognised. time: the share of a run, of a 4 x 2048 x 2048 and a 64 x 1024 x 1024 stack. Tables in Markdown.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import ndimage

from napari_skipseg.devices import choose_device
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.intensity.signature import signature_distance
from napari_skipseg.images.slice_checks.checks import iter_slice_faults
from napari_skipseg.images.slice_checks.messages import describe_faults
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.certainty import join_certainties, judge_contrast, measure_certainty
from napari_skipseg.inference.guards import iter_measure_for, probe_grid, read_probes, sign_stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.catalog import find_models
from napari_skipseg.models.model import read_model
from napari_skipseg.progress import run_to_end

STACKS = {
    "isbi train": "isbi2012/train-volume-00-24.tif",
    "isbi test": "isbi2012/test-volume.tif",
    "vnc larva3": "vnc_larva3/stack1-raw-00-09.tif",
    "gala": "gala_fibsem/train-image.tif",
    "fib25": "fib25_medulla/raw.tif",
    "fib25 unlabelled": "fib25_medulla/raw_unlabelled.tif",
    "fib25 validation": "raw_misc/fib25-validation.tif",
    "cdeep3m": "cdeep3m_mito/raw-20-39.tif",
    "cdeep3m smooth": "cdeep3m_mito/raw-smooth-10-19.tif",
    "kasthuri 24 nm": "kasthuri_24nm/raw.tif",
    "neuropil": "neuropil_membrane/raw_unlabelled.tif",
    "plant": "plant_chloroplast/raw.tif",
    "axonem": "raw_misc/axonem_h.tif",
    "sbem brain": "raw_misc/sbem-brain-080-084.tif",
    "sbem white matter": "raw_misc/sbem-white-matter.tif",
    "mesospim": "cellseg3d_mesospim/c5image.tif",
    "mesospim small": "cellseg3d_mesospim/test_very_small.tif",
    "nuclei 3D": "stardist_nuclei/img3d.tif",
}
IMAGES = {
    "neuropil 2D": "neuropil_membrane/raw.tif",
    "islet 5 nm": "raw_misc/islet-5nm.tif",
    "liver": "raw_misc/liver-emdiffuse.tif",
    "microns": "raw_misc/microns-emdiffuse.tif",
    "mitoem": "raw_misc/mitoem_h.tif",
    "emcfsys": "raw_misc/neuropil-emcfsys.tif",
    "myelin TEM": "raw_misc/myelin-tem.tif",
    "myelin SEM": "myelin_ads/raw.tif",
    "nuclei 2D": "stardist_nuclei/img2d.tif",
}
SAMPLED = 20
"""Slices of each stack that faults are inserted in."""


def read(name):
    return np.asarray(read_stack(Path(os.environ["SKIPSEG_DATA"]) / name).data[...])


def like(values, dtype):
    if dtype.kind == "u":
        values = np.clip(np.round(values), 0, np.iinfo(dtype).max)
    return values.astype(dtype)


def inserted(values, number):
    """Yield kind, name and the replacement of a slice."""
    generator = np.random.default_rng(number)
    plane, spread = values[number].astype(np.float32), float(values.std())
    before = values[number - 1 if number else 1].astype(np.float32)
    noise = generator.normal(0, spread, plane.shape).astype(np.float32)
    middle = float(plane.mean())
    yield "empty", "black", plane * 0
    yield "empty", "highest value", plane * 0 + values.max()
    yield "empty", "the mean", plane * 0 + middle
    yield "empty", "noise of 4 %", np.abs(noise) * 0.04
    yield "doubled", "exactly", before
    yield "doubled", "with noise of 5 %", before + 0.05 * noise
    yield "doubled", "1.15 times as bright", before * 1.15
    if min(plane.shape) >= 200:
        for length in (14, 24, 40, 60, 100):
            way = (round(0.8 * length), -round(0.6 * length))
            yield "shifted", f"{length} pixels", np.roll(plane, way, (0, 1))
        yield "shifted", "40 pixels, black behind", ndimage.shift(plane, (32, -24), order=0)
    yield "contrast", "a tenth", (plane - middle) * 0.1 + middle
    yield "contrast", "all values a tenth", plane * 0.1
    yield "contrast", "a quarter", (plane - middle) * 0.25 + middle
    yield "brightness", "1.6 deviations darker", plane - 1.6 * spread
    yield "brightness", "1.6 deviations brighter", plane + 1.6 * spread
    yield "blurred", "sigma 3", ndimage.gaussian_filter(plane, 3)
    yield "noisy", "only noise", noise + middle
    yield "noisy", "noise of 1.5 deviations added", plane + 1.5 * noise


def slices():
    print("| stack | slices | alarms |\n|---|---|---|")
    for name, file in STACKS.items():
        values = read(file)
        faults = run_to_end(iter_slice_faults(Stack(values, Space("ZYX"))))
        print(f"| {name} | {len(values)} | {' '.join(describe_faults(faults)) or 0} |", flush=True)
    counts = {}
    for name, file in STACKS.items():
        values = read(file)[:SAMPLED]
        last = len(values) - 1
        if name == "sbem white matter":  # seven unrelated images
            continue
        for number in sorted({0, 1, last // 3, last // 2, last}):
            for kind, how, plane in inserted(values, number):
                changed = values.copy()
                changed[number] = like(plane, values.dtype)
                faults = run_to_end(iter_slice_faults(Stack(changed, Space("ZYX"))))
                own = {number, 1} if number == 0 and kind in ("doubled", "shifted") else {number}
                named = [fault for fault in faults if fault.number in own]
                count = counts.setdefault((kind, how), Counter())
                count.update(n=1, right=any(each.kind == kind for each in named), named=bool(named))
                count.update(false=len(faults) - len(named))
    print(
        "\n| kind | inserted | number | named as that | named at all | other slices named |\n|---|---|---|---|---|---|"
    )
    for (kind, how), count in counts.items():
        rates = " | ".join(f"{count[each] / count['n']:.3f}" for each in ("right", "named"))
        print(f"| {kind} | {how} | {count['n']} | {rates} | {count['false']} |")


def scaled(values, factor):
    """Return a stack with pixels `factor` times as large, or 1 / -factor times."""
    if factor > 0:
        height, width = (length // factor * factor for length in values.shape[1:])
        cut = values[:, :height, :width].astype(np.float32)
        return cut.reshape(len(cut), height // factor, factor, width // factor, factor).mean((2, 4))
    part = values[:: max(1, len(values) // 4), :200, :200].astype(np.float32)
    return ndimage.zoom(part, (1, -factor, -factor), order=1)


def photographs():
    from PIL import Image
    from skimage import data

    folder = Path(os.environ["SKIPSEG_DATA"])
    for file in sorted((folder / "ham10000_skin/images").glob("*.jpg"))[:3]:
        yield f"skin {file.stem[-4:]} (JPEG)", np.asarray(Image.open(file).convert("L"))
    yield "portrait (JPEG)", np.asarray(Image.open(folder / "formats/pillow/hopper_jpg.tif").convert("L"))
    for name in ("camera", "moon", "page", "coins", "brick", "grass", "gravel", "text"):
        yield f"scikit-image {name}", getattr(data, name)()
    for name in ("astronaut", "chelsea", "coffee"):
        yield f"scikit-image {name}", getattr(data, name)().mean(2)


def all_images():
    for name, file in {**STACKS, **IMAGES}.items():
        yield name, read(file)
    isbi, vnc, gala, fib = (read(STACKS[name]) for name in ("isbi train", "vnc larva3", "gala", "fib25"))
    for name, values in (("isbi", isbi), ("vnc", vnc)):
        for factor in (2, 3, 5):
            yield f"{name}, pixels {factor} times as large", scaled(values, factor)
            yield f"{name}, pixels 1/{factor} as large", scaled(values, -factor)
    yield "isbi, slices 0-14", isbi[:15]
    yield "isbi, slices 15-24", isbi[15:]
    yield "fib25, voxels 5 times as large", scaled(fib, 5)
    yield "fib25, voxels 1/5 as large", scaled(fib[:40], -5)
    yield "gala, voxels 1/5 as large", scaled(gala, -5)
    yield from photographs()
    generator = np.random.default_rng(0)
    yield "noise", generator.normal(128, 30, (40, 300, 300))
    yield "smooth noise", ndimage.gaussian_filter(generator.normal(128, 30, (40, 300, 300)), (0, 2, 2))


class Examined:
    """A model's certainty of an image and of its negative, and the distance of the image from its training."""

    def __init__(self, model, values, backends):
        stack = Stack(values.astype(np.float32) if values.dtype == float else values, Space("ZYX"[-values.ndim :]))
        description = model.description
        seen = "ZYX"[-description.spec.dimensions :]
        lengths = {axis: stack.length(axis) for axis in seen}
        normalization = measure(stack)
        signature = sign_stack(stack, lengths, normalization)
        self.away, self.most = (
            (0.0, "too small") if signature is None else signature_distance(signature, description.signatures)
        )
        self.image = self.negative = None
        grid = probe_grid(stack, description, lengths)
        if grid is None or (len(seen) == 3 and stack.length("Z") < 2):
            return
        probes = read_probes(stack, grid, normalization)
        size = probes.shape[2:]
        if size not in backends:
            backends[size] = make_backend(model, choose_device("cpu"), size)
        self.image, self.negative = (
            measure_certainty(backends[size], sign * probes, description.margin) for sign in (1, -1)
        )


def kinds_and_contrast():
    for name, folder in find_models().items():
        model, backends = read_model(folder), {}
        trained = model.description.certainty
        print(f"\n### {name}, certainty in training {trained}\n")
        print("| image | distance | in | certainty | said | of its negative is said |\n|---|---|---|---|---|---|")
        for image, values in all_images():
            examined = Examined(model, values, backends)
            said = turned = sure = ""
            if examined.image is not None:
                sure = f"{join_certainties(examined.image).ratio:.2f}"
                said = judge_contrast(examined.image, examined.negative, trained)
                turned = judge_contrast(examined.negative, examined.image, trained)
            if examined.away > 1:
                said, turned = "unlike", turned and f"unlike ({turned})"
            print(f"| {image} | {examined.away:.2f} | {examined.most} | {sure} | {said} | {turned} |", flush=True)


def times():
    print("| stack | guard | run | guard alone | share |\n|---|---|---|---|---|")
    for shape in ((4, 2048, 2048), (64, 1024, 1024)):
        part = make_sample((4, 512, 512)).stack.data
        values = np.tile(part, (shape[0] // 4, shape[1] // 512, shape[2] // 512))
        stack = Stack(values, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
        model = read_model(find_models()["em-membrane"])
        options = SegmentOptions(attention=False)
        run_to_end(iter_predict(RunSpec(Stack(values[:1], Space("ZYX")), model, options)))  # compiles
        start = time.perf_counter()
        run_to_end(iter_predict(RunSpec(stack, model, options)))
        whole = time.perf_counter() - start
        start = time.perf_counter()
        run_to_end(iter_slice_faults(stack))
        faults = time.perf_counter() - start
        start = time.perf_counter()
        run_to_end(iter_measure_for(stack, model.description, options))
        examined = time.perf_counter() - start
        lengths = {"Y": shape[1], "X": shape[2]}
        backend, normalization = make_backend(model, choose_device("cpu"), (256, 256)), measure(stack)
        start = time.perf_counter()
        probes = read_probes(stack, probe_grid(stack, model.description, lengths), normalization)
        for sign in (1, -1):
            measure_certainty(backend, sign * probes, model.description.margin)
        contrast = time.perf_counter() - start
        for what, seconds in (("slices", faults), ("slices, kind and grey values", examined), ("contrast", contrast)):
            print(
                f"| {' x '.join(map(str, shape))} | {what} | {whole:.1f} s | {seconds:.2f} s | {seconds / whole:.1%} |"
            )


if __name__ == "__main__":
    {"slices": slices, "kinds": kinds_and_contrast, "contrast": kinds_and_contrast, "time": times}[sys.argv[1]]()
