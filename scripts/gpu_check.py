"""Check the GPU path on a machine with a GPU: python scripts/gpu_check.py [--quick] [--out FOLDER] [--only NAME ...]

It needs napari-skipseg installed with a torch that finds the GPU, takes about 10 minutes (with --quick about 2) and
changes no setting. It writes gpu_check.json and gpu_check.md to FOLDER: please attach both to an issue of the project.
One line a check: PASS, FAIL or SKIP, with its figures. A check that fails says why, and the others continue. `--device
cpu` tries the script itself; its figures then say nothing.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_skipseg.device_faults import fault_kind
from napari_skipseg.devices import Device, best_precision, choose_device, free_memory, release_memory, versions
from napari_skipseg.gpus import driving_versions, nvidia_gpus
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference import memory
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.backends.fallback import notes_of
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.ensemble import choose_passes
from napari_skipseg.inference.memory import choose_tile
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import find_models
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import DI2INSpec, ResidualFCNSpec, TiramisuSpec, UNetSpec, VNetSpec
from napari_skipseg.progress import run_to_end

AGREEMENT = {"f32": 0.9999, "bf16": 0.999, "f16": 0.999}
"""Share of voxels whose binary value must be that of float32 on the CPU."""
SLOWER = 1.3
"""How much slower than float32 the precision of a training may be."""
SPARE = 1.15
"""Memory that is left free where it is made short, in peaks of a run."""


@dataclass(frozen=True)
class Setting:
    """The options of the checks. quick: smaller sizes and fewer models."""

    device: str
    quick: bool

    @property
    def place(self) -> Device:
        """The device."""
        return Device(self.device, "GPU", "gpu_check")

    @property
    def precisions(self) -> list[str]:
        """float32, and the one that is chosen for the device."""
        return list(dict.fromkeys(["f32", best_precision(self.device).name]))

    @property
    def models(self) -> dict[str, Model]:
        """Built-in models by their names."""
        found = {name: read_model(folder) for name, folder in find_models().items()}
        return {"em-membrane": found["em-membrane"]} if self.quick else found


@dataclass(frozen=True)
class Result:
    """The outcome of a check. verdict: PASS, FAIL or SKIP. figures: measured ones, or why it failed or was left out."""

    check: str
    verdict: str
    seconds: float
    figures: Any
    details: str = ""


class LeftOut(Exception):  # noqa: N818
    """The check means nothing on this machine."""


def only_on(setting: Setting, *devices: str) -> None:
    """Leave the check out on other devices."""
    if setting.device not in devices:
        raise LeftOut(f"only on {' and '.join(devices)}")


def expect(truth: bool, fault: Any) -> None:
    """Fail with this fault unless it is true."""
    if not truth:
        raise AssertionError(str(fault))


def noise(*shape: int) -> np.ndarray:
    """Return random images, the same ones each time."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def wait(device: str) -> None:
    """Wait until the device has computed everything."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def seconds_of(work: Callable[[], Any], device: str, rounds: int = 3) -> float:
    """Return the seconds of a round, after one to warm up."""
    work()
    wait(device)
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    wait(device)
    return (time.perf_counter() - start) / rounds


def digest(values: np.ndarray) -> str:
    """Return a hash of values."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def machine(setting: Setting) -> Any:
    """The device that computes, and the software that drives it."""
    facts: dict[str, Any] = {**versions(), **driving_versions(setting.device)}
    facts["free GiB"] = round(free_memory(setting.device) / 2**30, 2)
    facts["segments in"] = str(best_precision(setting.device))
    facts["trains in"] = str(best_precision(setting.device, training=True))
    if setting.device == "cuda":
        facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        facts["kernels"] = torch.cuda.get_arch_list()
        facts["nvidia-smi"] = [asdict(gpu) | {"uuid": ""} for gpu in nvidia_gpus()]
    return facts


def auto_takes_it(setting: Setting) -> Any:
    """`auto` chooses the device."""
    chosen = choose_device("auto")
    expect(chosen.name == setting.device, f"auto chose {chosen}")
    return chosen.reason


def same_as_cpu(setting: Setting) -> Any:
    """Built-in models give what float32 on the CPU gives."""
    found = {}
    for name, model in setting.models.items():
        shape = (2, 1, 192, 192) if model.description.spec.dimensions == 2 else (1, 1, 64, 64, 64)
        wanted = TorchBackend(model, Device("cpu", "", ""), "f32").run(noise(*shape)).probability
        for precision in setting.precisions:
            given = TorchBackend(model, setting.place, precision).run(noise(*shape)).probability
            agreement = float(((given > 0.5) == (wanted > 0.5)).mean())
            found[f"{name} {precision}"] = {"agreement": agreement, "largest": float(np.abs(given - wanted).max())}
            expect(agreement >= AGREEMENT[precision], f"{name} in {precision} agrees on {agreement:.5f}")
    return found


def every_network(setting: Setting) -> Any:
    """Every kind of network runs in 2D and 3D."""
    faults = {}
    for kind in (UNetSpec, VNetSpec, TiramisuSpec, DI2INSpec, ResidualFCNSpec):
        for dimensions in (2,) if setting.quick else (2, 3):
            spec = kind(dimensions=dimensions)
            network = build(spec).eval()
            model = Model(ModelDescription("trial", spec, (ClassLabel("a", 1),), 0, ""), network)
            for precision in setting.precisions:
                try:
                    TorchBackend(model, setting.place, precision).run(noise(1, 1, *(2 * network.stride,) * dimensions))
                except Exception as error:
                    faults[f"{kind.__name__} {dimensions}D {precision}"] = f"{type(error).__name__}: {error}"[:200]
    expect(not faults, faults)
    return "all ran"


def batches_agree(setting: Setting) -> Any:
    """An image gives the same result alone and in a batch, up to rounding."""
    model, images = read_model(find_models()["em-membrane"]), noise(3, 1, 256, 256)
    backend = TorchBackend(model, setting.place)
    together = backend.run(images).probability
    alone = np.concatenate([backend.run(images[number : number + 1]).probability for number in range(3)])
    agreement = float(((together > 0.5) == (alone > 0.5)).mean())
    expect(agreement >= AGREEMENT["bf16"], f"agree on {agreement:.5f}")
    return {"agreement": agreement, "same bytes": bool(np.array_equal(together, alone))}


AGAIN = """
import sys; sys.path.insert(0, {folder!r})
import gpu_check as check
backend = check.TorchBackend(check.read_model(check.find_models()["em-membrane"]), check.Device({device!r}, "", ""))
print(check.digest(backend.run(check.noise(2, 1, 512, 512)).probability))
"""


def same_bytes_again(setting: Setting) -> Any:
    """One recipe gives the same bytes again, in this process and in a second one."""
    model, seen = read_model(find_models()["em-membrane"]), set()
    for _ in range(3):
        backend = TorchBackend(model, setting.place)
        seen |= {digest(backend.run(noise(2, 1, 512, 512)).probability) for _ in range(3)}
        del backend
        release_memory()
    code = AGAIN.format(folder=str(Path(__file__).resolve().parent), device=setting.device)
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expect(other.returncode == 0, other.stderr[-500:])
    seen.add(other.stdout.strip())
    expect(len(seen) == 1, f"{len(seen)} different results")
    return "10 runs in two processes: the same bytes"


def peak_of(setting: Setting, model: Model, shape: tuple[int, ...]) -> int:
    """Return the bytes that a run on CUDA reserves at its peak."""
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    TorchBackend(model, setting.place).run(noise(*shape))
    peak = torch.cuda.max_memory_reserved()
    release_memory()
    return peak


def same_bytes_with_little_memory(setting: Setting) -> Any:
    """cuDNN takes a different algorithm if its workspace does not fit: are the bytes the same, or is there a note?"""
    only_on(setting, "cuda")
    model, shape = read_model(find_models()["em-membrane"]), (1, 1, 1056, 1056)
    wanted = TorchBackend(model, setting.place).run(noise(*shape)).probability
    peak = peak_of(setting, model, shape)
    hog = torch.empty(max(0, int(torch.cuda.mem_get_info()[0] - SPARE * peak)), dtype=torch.uint8, device="cuda")
    backend = make_backend(model, setting.place, shape[2:])
    given = backend.run(noise(*shape)).probability
    del hog
    release_memory()
    same = bool(np.array_equal(given, wanted))
    expect(same or bool(backend.notes), "different bytes, and no note")
    return {"same bytes": same, "notes": backend.notes}


def memory_factor(setting: Setting) -> Any:
    """Peak memory over what the tile choice counts, which must not exceed `memory.FACTORS`."""
    only_on(setting, "cuda")
    found = {}
    for name, model in setting.models.items():
        counted, dimensions = (
            memory.measure_memory(model, best_precision("cuda").name),
            model.description.spec.dimensions,
        )
        for side in ((512, 1056) if setting.quick else (512, 1056, 2112)) if dimensions == 2 else (96, 160):
            tile = (side,) * dimensions
            found[f"{name} {side}"] = round(peak_of(setting, model, (1, 1, *tile)) / counted.run_bytes(tile, 1), 2)
    expect(max(found.values()) <= memory.FACTORS["cuda"], f"more than {memory.FACTORS['cuda']}: {found}")
    return found


def short_memory_is_known(setting: Setting) -> Any:
    """Torch's error for a lack of memory in the middle of a network is recognised, and the GPU continues."""
    only_on(setting, "cuda")
    model, said = read_model(find_models()["em-membrane"]), {}
    backend = make_backend(model, setting.place, (2112, 2112))
    plain = TorchBackend(model, setting.place)
    for left in (2**28, 2**29, 2**30):
        hog = torch.empty(max(0, torch.cuda.mem_get_info()[0] - left), dtype=torch.uint8, device="cuda")
        try:
            plain.run(noise(2, 1, 2112, 2112))
        except Exception as error:
            said[f"{type(error).__name__}: {error}"[:150]] = fault_kind(error)
        if left == 2**30:
            backend.run(noise(1, 1, 2112, 2112))
        del hog
        release_memory()
    expect(set(said.values()) <= {"memory", "size"}, said)
    expect("the CPU" not in backend.reason, backend.notes)
    return {"said": said, "notes": backend.notes}


def memory_is_given_back(setting: Setting) -> Any:
    """After a run the GPU's memory is free again."""
    only_on(setting, "cuda")
    release_memory()
    before = torch.cuda.mem_get_info()[0]
    backend = make_backend(read_model(find_models()["em-membrane"]), setting.place, (512, 512))
    backend.run(noise(2, 1, 512, 512))
    del backend
    gc.collect()
    release_memory()
    kept = (before - torch.cuda.mem_get_info()[0]) / 2**20
    expect(kept < 64, f"{kept:.0f} MiB stay taken")
    return f"{kept:.0f} MiB stay taken"


def averages(setting: Setting) -> Any:
    """Copies, samples and planes averaged on the device are those averaged on the CPU, and no fault is noted."""
    model, found = read_model(find_models()["em-membrane"]), {}
    slice_shape, volume_shape = ((64, 64), (16, 32, 32)) if setting.device == "cpu" else ((256, 256), (48, 64, 64))
    ways: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
        "average 8": ({"average": 8}, slice_shape),
        "planes": ({"planes": "xyz"}, volume_shape),
        "samples": ({"samples": 4, "dropout": 0.2}, slice_shape),
    }
    for name, (options, shape) in ways.items():
        chosen = SegmentOptions(setting.device, attention=False, **options)
        passes = choose_passes(model, setting.place, shape, chosen, make_backend)
        images = noise(1, 1, *shape)
        start = time.perf_counter()
        given = run_to_end(passes.run(images, [(0, 0)])).probability  # type: ignore[arg-type]
        found[name] = {"seconds": round(time.perf_counter() - start, 2)}
        expect(not notes_of(passes.backend), notes_of(passes.backend))
        if name != "samples":  # a different device draws different masks
            there = Device("cpu", "CPU", "")
            on_cpu = choose_passes(model, there, shape, replace(chosen, device="cpu"), make_backend)
            wanted = run_to_end(on_cpu.run(images, [(0, 0)])).probability  # type: ignore[arg-type]
            found[name]["agreement"] = float(((given > 0.5) == (wanted > 0.5)).mean())
            expect(found[name]["agreement"] >= AGREEMENT["bf16"], found)
    return found


def speed(setting: Setting) -> Any:
    """Mvox/s of `run` with its copies, and of the network alone."""
    found = {}
    for name, model in setting.models.items():
        dimensions = model.description.spec.dimensions
        precision = best_precision(setting.device).name
        tile = choose_tile(model, setting.place, precision, 0, "xy")
        side, batch = (tile.side, tile.batch) if setting.device != "cpu" else (128 if dimensions == 2 else 48, 1)
        images = noise(batch, 1, *(side,) * dimensions)
        backend = TorchBackend(model, setting.place)
        backend.attention = False
        tensor = backend._upload(images).to(backend._dtype)

        def network(backend: TorchBackend = backend, tensor: torch.Tensor = tensor) -> None:
            with torch.inference_mode():
                backend._forward(tensor)

        run = seconds_of(lambda backend=backend, images=images: backend.run(images), setting.device)
        rate = {"run": images.size / run / 1e6, "network": images.size / seconds_of(network, setting.device) / 1e6}
        found[name] = {"tile": side, "batch": batch, **{part: round(value, 1) for part, value in rate.items()}}
        del backend, tensor, network
        release_memory()
    return found


def whole_run(setting: Setting) -> Any:
    """From file to file: Mvox/s with reading, writing and pyramids."""
    tiles = 1 if setting.quick else 8
    values = np.tile(np.asarray(make_sample((2, 512, 512)).stack.data), (tiles, min(tiles, 4), min(tiles, 4)))
    model, found = read_model(find_models()["em-membrane"]), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ome_tiff(folder / "image.tif", values, Space("ZYX", (50, 4, 4), "nm"))
        for form in ("ome-zarr", "tiff"):
            options = SegmentOptions(setting.device, attention=False)
            target = FolderTarget(folder / form, "image", "uint8", form)
            start = time.perf_counter()
            run_to_end(iter_segment(RunSpec(read_stack(folder / "image.tif"), model, options), target))
            seconds = time.perf_counter() - start
            found[form] = {"seconds": round(seconds, 1), "Mvox/s": round(values.size / seconds / 1e6, 1)}
    return found


def recipe_is_clean(setting: Setting) -> Any:
    """A small stack is segmented on the device without a fault on the way."""
    values = np.asarray(make_sample((2, 200, 200)).stack.data)
    model = read_model(find_models()["em-membrane"])
    done = run_to_end(iter_predict(RunSpec(Stack(values, Space("ZYX")), model, SegmentOptions(setting.device))))
    recipe = done.recipe
    reported = {key: recipe[key] for key in ("device", "backend", "precision", "tile", "batch", "notes", "versions")}
    expect(recipe["device"] == setting.device and not recipe["notes"], reported)
    return reported


def training(setting: Setting) -> Any:
    """A training step in the precision that is chosen is not slower than in float32, and finite. Milliseconds."""
    found: dict[str, float] = {}
    device = torch.device(setting.device)
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    chosen = best_precision(setting.device, training=True).name
    sides = (
        {2: (2, 1, 96, 96), 3: (1, 1, 16, 32, 32)} if setting.quick else {2: (4, 1, 256, 256), 3: (2, 1, 32, 64, 64)}
    )
    for dimensions, shape in sides.items():
        for precision in dict.fromkeys(["f32", chosen]):
            network = build(UNetSpec(dimensions=dimensions, widths=(16, 32, 64))).to(device).train()
            optimizer, images = torch.optim.AdamW(network.parameters()), torch.randn(shape).to(device)

            def step(
                network: Any = network, optimizer: Any = optimizer, images: Any = images, precision: str = precision
            ) -> None:
                optimizer.zero_grad()
                with torch.autocast(setting.device, kinds[precision], enabled=precision != "f32"):
                    loss = network(images).logits.float().square().mean()
                loss.backward()
                optimizer.step()
                expect(bool(torch.isfinite(loss.detach().cpu())), "not finite")

            found[f"{dimensions}D {precision}"] = round(seconds_of(step, setting.device) * 1e3, 1)
        expect(found[f"{dimensions}D {chosen}"] <= SLOWER * found[f"{dimensions}D f32"], found)
    return found


def gpu_tests(setting: Setting) -> Any:
    """The tests of the project that need a GPU, if this is a checkout."""
    only_on(setting, "cuda")
    tests = Path(__file__).resolve().parent.parent / "tests"
    if not tests.is_dir():
        raise LeftOut("this is no checkout of the project")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(tests)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(ended.returncode == 0, ended.stdout[-1500:])
    return ended.stdout.strip().splitlines()[-1]


CHECKS: tuple[Callable[[Setting], Any], ...] = (
    machine,
    auto_takes_it,
    recipe_is_clean,
    same_as_cpu,
    every_network,
    batches_agree,
    same_bytes_again,
    same_bytes_with_little_memory,
    memory_factor,
    short_memory_is_known,
    memory_is_given_back,
    averages,
    speed,
    whole_run,
    training,
    gpu_tests,
)


def run_check(check: Callable[[Setting], Any], setting: Setting) -> Result:
    """Return how a check ended; nothing is raised."""
    start, name = time.perf_counter(), check.__name__
    try:
        verdict, figures, details = "PASS", check(setting), ""
    except LeftOut as reason:
        verdict, figures, details = "SKIP", str(reason), ""
    except Exception as error:
        verdict, figures, details = "FAIL", f"{type(error).__name__}: {error}", traceback.format_exc()
    gc.collect()
    release_memory()
    return Result(name, verdict, round(time.perf_counter() - start, 1), figures, details)


def write_report(results: list[Result], folder: Path) -> None:
    """Write gpu_check.json and gpu_check.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(result) for result in results], indent=1, default=str)
    (folder / "gpu_check.json").write_text(text, encoding="utf-8")
    rows = [f"| {each.check} | {each.verdict} | {each.seconds} | {_cell(each.figures)} |" for each in results]
    head = ["| check | verdict | seconds | figures |", "|---|---|---|---|"]
    (folder / "gpu_check.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def _cell(figures: Any) -> str:
    return " ".join(str(figures).split()).replace("|", "\\|")[:600]


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    parser.add_argument("--device", default=here, choices=("cuda", "mps", "cpu"))
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one model")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="where the report goes")
    parser.add_argument("--only", nargs="*", default=[], choices=[check.__name__ for check in CHECKS])
    flags = parser.parse_args(arguments)
    if flags.device == "cpu":
        print("No GPU: this only tries the checks themselves on the CPU; the figures say nothing.")
    results = []
    for check in CHECKS:
        if not flags.only or check.__name__ in flags.only:
            results.append(run_check(check, Setting(flags.device, flags.quick)))
            last = results[-1]
            print(f"{last.verdict} {last.check:30} {_cell(last.figures)[:300]}", flush=True)
    write_report(results, flags.out)
    print(f"The report is in '{flags.out}': please attach gpu_check.json and gpu_check.md to an issue.")
    return int(any(result.verdict == "FAIL" for result in results))


if __name__ == "__main__":
    sys.exit(main())
