"""Backends: folding and precisions change nothing that can be seen, faults fall through, entries on disk are trusted
only when whole, and nothing asks the network."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from identity import make_model
from run_python import run_python
from torch import nn

from napari_skipseg.devices import UNTESTED, ChosenPrecision, Device, has_openvino, release_memory
from napari_skipseg.errors import DeviceError, InputError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference.backends import choose, compiled, openvino_backend, torch_backend
from napari_skipseg.inference.backends.choose import BackendChoice, choose_backends, make_backend, try_backend
from napari_skipseg.inference.backends.fallback import FallbackBackend, notes_of
from napari_skipseg.inference.backends.folding import BATCH_NORM, fold_batch_norms
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.backends.warm import WarmModel
from napari_skipseg.models.catalog import BUILT_IN
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model, read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import DI2INSpec, ResidualFCNSpec, Stage, TiramisuSpec, UNetSpec, VNetSpec

RNG = np.random.default_rng(3)
CPU = Device("cpu", "CPU", "for the test")
GPU = Device("cuda", "Some GPU", "the fastest device here")
IMAGES = RNG.normal(size=(1, 1, 32, 32)).astype(np.float32)
needs_openvino = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")

RESIDUAL = ResidualFCNSpec(
    width=4, stages=(Stage("simple", 6, 1), Stage("bottleneck", 4, 2)), across=Stage("basic", 10, 2)
)
SMALL = (
    UNetSpec(widths=(4, 6, 8)),
    RESIDUAL,
    replace(RESIDUAL, block_order="post-activation"),
    VNetSpec(widths=(4, 6, 8), convolutions=(1, 2, 1), kernel=3),
    TiramisuSpec(width=6, growth=4, layers=(2, 3), bottom_layers=2, bottleneck=2),
    DI2INSpec(widths=(4, 6)),
)
SPECS = [
    replace(small, dimensions=dimensions, skip=skip)
    for number, small in enumerate(SMALL)
    for dimensions in (2, 3)
    for skip in (("sat", "sum"), ("st", "additive"))[(number + dimensions) % 2]
]
NAMES = [f"{spec.network}-{getattr(spec, 'block_order', '')}-{spec.dimensions}d-{spec.skip}" for spec in SPECS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(compiled.COMPILED_VARIABLE, str(tmp_path / "compiled"))
    return tmp_path / "compiled"


def trained(spec: Any) -> Model:
    """A model whose batch norms are as training leaves them: none is where it started."""
    torch.manual_seed(0)
    network = build(spec).eval()
    for norm in network.modules():
        if isinstance(norm, BATCH_NORM):
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return Model(ModelDescription("m", spec, (ClassLabel("membrane", 1),), 0, ""), network)


def images_for(spec: Any) -> np.ndarray:
    size = (24, 40) if spec.dimensions == 2 else (8, 16, 8)
    return RNG.normal(size=(2, spec.in_channels, *size)).astype(np.float32)


def in_a_folder(model: Model) -> Model:
    """The model, described as one that lies in a folder."""
    return replace(model, description=replace(model.description, weights_sha256="0" * 64))


# --------------------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_folded_batch_norms_change_nothing(spec: Any) -> None:
    model = trained(spec)
    folded = copy.deepcopy(model.network)
    fold_batch_norms(folded)
    image = torch.from_numpy(images_for(spec))
    with torch.inference_mode():
        before, after = model.network(image), folded(image)
    assert before.logits.std() > 1e-3
    assert torch.allclose(after.logits, before.logits, rtol=1e-4, atol=1e-4 * float(before.logits.abs().max()))
    for here, there in zip(after.attentions, before.attentions, strict=True):
        assert torch.allclose(here, there, atol=1e-4)


def test_only_a_batch_norm_right_behind_a_convolution_is_folded() -> None:
    def left(network: nn.Module) -> int:
        fold_batch_norms(network)
        return sum(isinstance(module, BATCH_NORM) for module in network.modules())

    assert left(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()) == 0
    assert left(nn.Sequential(nn.ConvTranspose3d(1, 2, 3), nn.BatchNorm3d(2)).eval()) == 0
    assert left(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)).eval()) == 1
    assert left(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.BatchNorm2d(2)).eval()) == 1
    assert left(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)).eval()) == 1
    assert left(nn.ModuleList([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)]).eval()) == 1
    assert left(trained(replace(SMALL[0], skip="org")).network) == 0
    behind_dropout = RESIDUAL.across.repetition
    assert left(trained(replace(RESIDUAL, block_order="post-activation")).network) == behind_dropout
    blocks, classifier = 2 * (1 + 2) + 2, 1
    assert left(trained(RESIDUAL).network) == blocks + classifier + behind_dropout


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_half_precision_weights_run_in_every_network(spec: Any) -> None:
    model, images = trained(spec), images_for(spec)
    half, plain = TorchBackend(model, CPU, "bf16"), TorchBackend(model, CPU, "f32")
    kinds = {
        isinstance(module, BATCH_NORM): parameter.dtype
        for module in half._network.modules()
        for parameter in module.parameters(recurse=False)
    }
    assert kinds.pop(False) == torch.bfloat16
    assert set(kinds.values()) <= {torch.float32}
    for here, there in zip(half.run(images), plain.run(images), strict=True):
        if isinstance(there, np.ndarray):
            assert here.dtype == np.float32
            assert np.abs(here - there).mean() < 0.05
    assert all(parameter.dtype == torch.float32 for parameter in model.network.parameters())


def sample_images(side: int) -> np.ndarray:
    values = np.asarray(make_sample((1, side, side), seed=7).stack.read((0,)))
    return measure(Stack(values, Space("YX"))).apply(values)[None, None]


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_half_precision_gives_the_same_membranes(name: str) -> None:
    model, images = read_model(BUILT_IN / "em-membrane"), sample_images(256)
    whole = TorchBackend(model, CPU, "f32").run(images).probability > 0.5
    half = TorchBackend(model, CPU, "bf16") if name == "torch" else OpenVINOBackend(model, (256, 256), "bf16")
    assert 0.05 < whole.mean() < 0.95
    assert ((half.run(images).probability > 0.5) == whole).mean() >= 0.999


def test_what_is_too_large_for_half_precision_is_a_fault() -> None:
    model = trained(SMALL[0])
    with torch.no_grad():
        model.network.classifier.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="too large"):
        TorchBackend(model, CPU, "f16").run(IMAGES)


# --------------------------------------------------------------------------------------------- entries on the disk


def refuse(*given: Any) -> Any:
    raise AssertionError("the entry on disk should have been taken")


@needs_openvino
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_is_converted_once(dimensions: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = in_a_folder(make_model(dimensions)), (32, 24, 16)[:dimensions]
    images = RNG.normal(size=(2, 1, *shape)).astype(np.float32)
    first = OpenVINOBackend(model, shape).run(images)
    assert len(list(cache.iterdir())) == 1
    assert cache.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
    monkeypatch.setattr(openvino_backend, "_convert", refuse)
    again = OpenVINOBackend(model, shape).run(images)
    np.testing.assert_array_equal(again.probability, first.probability)
    np.testing.assert_array_equal(again.attentions[0], first.attentions[0])


@needs_openvino
@pytest.mark.parametrize("fault", ["bit", "cut", "empty", "garbage", "folder"])
def test_a_damaged_entry_is_replaced(fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_a_folder(make_model())
    first = OpenVINOBackend(model, (32, 32)).run(IMAGES)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    if fault == "bit":
        entry.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif fault == "garbage":
        compiled.write_compiled(entry.name, b"not a network")
    elif fault == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(whole[: {"cut": len(whole) // 2, "empty": 0}[fault]])
    again = OpenVINOBackend(model, (32, 32)).run(IMAGES)
    np.testing.assert_array_equal(again.probability, first.probability)
    if fault != "folder":  # nothing can take the place of a folder: there it is converted every time
        monkeypatch.setattr(openvino_backend, "_convert", refuse)
        kept = OpenVINOBackend(model, (32, 32)).run(IMAGES)
        np.testing.assert_array_equal(kept.probability, first.probability)


@needs_openvino
def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(compiled.COMPILED_VARIABLE, str(tmp_path / "file"))
    model = in_a_folder(make_model())
    assert OpenVINOBackend(model, (32, 32)).run(IMAGES).probability.shape == (1, 1, 32, 32)
    assert (tmp_path / "file").read_text() == "no folder"


@needs_openvino
def test_a_draft_is_not_kept(cache: Path) -> None:
    OpenVINOBackend(make_model(), (32, 32))
    assert not cache.exists()


@needs_openvino
def test_another_network_tile_precision_or_version_has_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    model, changed = make_model(), make_model()
    changed.network.classifier.bias.data += 1
    keys = [
        openvino_backend._key(model, (32, 32), "f32"),
        openvino_backend._key(changed, (32, 32), "f32"),
        openvino_backend._key(make_model(skip="at"), (32, 32), "f32"),
        openvino_backend._key(model, (32, 40), "f32"),
        openvino_backend._key(model, (32, 32), "bf16"),
    ]
    assert openvino_backend._key(make_model(), (32, 32), "f32") == keys[0]
    monkeypatch.setattr(compiled, "code_hash", lambda: "another version of the networks' code")
    assert len({*keys, openvino_backend._key(model, (32, 32), "f32")}) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
@pytest.mark.parametrize("whose", ["of others", "of another group", "open to all"])
def test_a_cache_to_which_others_may_write_is_left_alone(
    whose: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.write_compiled("mine", b"network")
    assert compiled.read_compiled("mine") == b"network"
    if whose == "of others":
        monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    elif whose == "of another group":
        monkeypatch.setattr(os, "getgid", lambda: cache.stat().st_gid + 1)
        cache.chmod(0o770)
    else:
        cache.chmod(0o777)
    assert compiled.read_compiled("mine") is None
    compiled.write_compiled("more", b"network")
    assert [file.name for file in cache.iterdir()] == ["mine"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
def test_a_group_of_its_own_is_no_other_user(cache: Path) -> None:
    compiled.write_compiled("mine", b"network")
    cache.chmod(0o770)
    assert compiled.read_compiled("mine") == b"network"
    cache.chmod(0o755)
    assert compiled.read_compiled("mine") == b"network"


WRITES_FOR_EVER = """
import sys
from napari_skipseg.inference.backends import compiled
while True:
    compiled.write_compiled("same", bytes([int(sys.argv[1])]) * 300_000)
"""


def test_an_entry_that_processes_write_at_the_same_time_is_whole(cache: Path) -> None:
    command = [sys.executable, "-c", WRITES_FOR_EVER]
    writers = [subprocess.Popen([*command, str(number)]) for number in (1, 2)]
    seen: set[bytes] = set()
    try:
        until = time.monotonic() + 240
        while len(seen) < 2:
            assert time.monotonic() < until
            content = compiled.read_compiled("same")
            assert content is not None or not seen
            if content is not None:
                assert content == content[:1] * 300_000
                seen.add(content[:1])
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert seen == {b"\1", b"\2"}
    assert compiled.read_compiled("same") in (b"\1" * 300_000, b"\2" * 300_000)


def test_entries_used_longest_ago_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LIMIT", 400)
    for age, name in enumerate("abc"):
        compiled.write_compiled(name, bytes(100))
        os.utime(cache / name, (1000 + age, 1000 + age))
    assert compiled.read_compiled("a") == bytes(100)  # used just now
    compiled.write_compiled("d", bytes(100))
    assert sorted(file.name for file in cache.iterdir()) == ["a", "c", "d"]
    compiled.write_compiled("e", bytes(500))
    assert list(cache.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- fallback


class Fragile:
    """Returns the images as their probability, until it fails at the run numbered `fails_at`."""

    name, precision = "fragile", "f32"

    def __init__(self, error: Exception | None = None, fails_at: int = 0) -> None:
        self.error, self.fails_at, self.runs = error, fails_at, 0

    def run(self, images: Any) -> TileOutput:
        self.runs += 1
        if self.error is not None and self.runs > self.fails_at:
            raise self.error
        return TileOutput(images, ())


def chain(*made: Fragile | Exception) -> FallbackBackend:
    def maker(result: Fragile | Exception) -> Any:
        def make(model: Model, shape: tuple[int, ...]) -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        return make

    choices = tuple(
        BackendOption(f"number {n}", f"reason {n}", maker(result)) for n, result in enumerate(made, start=1)
    )
    return FallbackBackend(choices, make_model(skip="org"), (32, 32))


def test_a_backend_that_fails_in_a_run_hands_the_tile_on() -> None:
    last = Fragile()
    backend = chain(Fragile(RuntimeError("the device is lost.\nstack"), fails_at=2), last)
    assert backend.reason == "number 1 in f32: reason 1"
    for tile in range(4):
        assert backend.run(IMAGES + tile).probability is not None
        np.testing.assert_array_equal(backend.run(IMAGES + tile).probability, IMAGES + tile)
    assert last.runs == 6
    assert backend.notes == ["number 1 failed (RuntimeError: the device is lost); number 2 takes over."]
    assert backend.reason == "number 2 in f32: reason 2"
    assert notes_of(backend) == tuple(backend.notes)
    assert notes_of(last) == ()


def test_a_backend_that_cannot_be_prepared_is_passed_over() -> None:
    deep = RuntimeError("Exception from src/core.cpp:117:\nException from src/plugin.cpp:54:\nNo such operation.\n\n")
    backend = chain(ImportError("no such library"), Fragile(ValueError()), OSError("cannot"), deep, Fragile())
    np.testing.assert_array_equal(backend.run(IMAGES).probability, IMAGES)
    assert [note.split(";")[0] for note in backend.notes] == [
        "number 1 failed (ImportError: no such library)",
        "number 2 failed (ValueError: )",
        "number 3 failed (OSError: cannot)",
        "number 4 failed (RuntimeError: No such operation)",
    ]


def test_the_last_fault_is_raised_as_it_is_each_time() -> None:
    backend = chain(Fragile(RuntimeError("first")), Fragile(RuntimeError("last")))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="last"):
            backend.run(IMAGES)
    with pytest.raises(RuntimeError, match="cannot be made"):
        chain(RuntimeError("cannot be made"))


def test_what_the_user_can_mend_is_not_hidden() -> None:
    backend = chain(Fragile(InputError("the image is empty")), Fragile())
    with pytest.raises(InputError, match="empty"):
        backend.run(IMAGES)
    assert backend.notes == []


def test_a_device_whose_memory_is_short_to_the_last_hands_the_tile_on() -> None:
    backend = chain(Fragile(MemoryError()), Fragile())
    np.testing.assert_array_equal(backend.run(IMAGES).probability, IMAGES)
    *steps, last = backend.notes
    assert [note.split("; ")[1] for note in steps] == [f"it continues with tiles of {n} × {n}." for n in (24, 20, 18)]
    assert last == "number 1 ran out of memory; number 2 takes over."


def titles(device: Device) -> list[str]:
    return [choice.title for choice in choose_backends(device)]


def test_the_fastest_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "has_openvino", lambda: True)
    assert titles(CPU) == ["OpenVINO on the CPU", "torch on the CPU"]
    monkeypatch.setattr(choose, "best_precision", lambda device: ChosenPrecision("bf16", ""))
    assert titles(GPU) == ["torch on Some GPU", "torch on Some GPU", "OpenVINO on the CPU", "torch on the CPU"]
    assert UNTESTED in choose_backends(GPU)[0].reason
    monkeypatch.setattr(choose, "best_precision", lambda device: ChosenPrecision("f32", ""))
    assert titles(GPU) == ["torch on Some GPU", "OpenVINO on the CPU", "torch on the CPU"]
    monkeypatch.setattr(choose, "best_precision", lambda device: ChosenPrecision("f16", ""))
    assert titles(GPU) == ["torch on Some GPU", "torch on Some GPU", "OpenVINO on the CPU", "torch on the CPU"]
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    assert titles(CPU) == ["torch on the CPU"]
    assert choose_backends(CPU)[0].reason == "OpenVINO, which is faster, is not installed"


def test_without_the_gpu_that_was_chosen_the_cpu_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU")
    monkeypatch.setattr(choose, "best_precision", lambda device: ChosenPrecision("bf16", ""))
    monkeypatch.setattr(torch_backend, "best_precision", lambda device: ChosenPrecision("f32", ""))
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    backend = make_backend(make_model(), GPU, (32, 32))
    assert (backend.name, len(backend.notes)) == ("torch", 1)
    assert backend.notes[0].startswith("torch on Some GPU failed (")
    assert backend.notes[0].endswith("; torch on the CPU takes over.")
    np.testing.assert_array_equal(
        backend.run(IMAGES).probability, TorchBackend(make_model(), CPU).run(IMAGES).probability
    )


# ---------------------------------------------------------------------------------------------------------- pinned


@needs_openvino
@pytest.mark.parametrize("pinned", [BackendChoice("openvino", "f32"), BackendChoice("torch", "f32")])
def test_a_pinned_backend_is_taken_even_where_another_is_faster(pinned: BackendChoice) -> None:
    backend = make_backend(make_model(), CPU, (32, 32), pinned)
    assert (backend.name, backend.precision) == pinned
    assert backend.reason.endswith(f" on the CPU in {pinned.precision}: the backend of this run from the beginning")
    assert backend.notes == []
    plain = TorchBackend(make_model(), CPU, "f32").run(IMAGES)
    np.testing.assert_allclose(backend.run(IMAGES).probability, plain.probability, atol=1e-4)


@pytest.mark.parametrize(
    "pinned",
    [
        BackendChoice("openvino", "f16"),
        BackendChoice("torch", "f16"),
        BackendChoice("torch", "f64"),
        BackendChoice("tensorflow", "f32"),
    ],
)
def test_what_is_pinned_and_cannot_be_had_is_said_so(pinned: BackendChoice) -> None:
    with pytest.raises(DeviceError) as caught:
        make_backend(make_model(), CPU, (32, 32), pinned)
    said = f"This run was begun with {pinned.name} in {pinned.precision}, which is not available here: begin it again."
    assert str(caught.value) == said


def test_pinned_openvino_that_is_not_installed_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr(openvino_backend, "_openvino", missing)
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    openvino_backend._core.cache_clear()
    with pytest.raises(DeviceError, match="begun with openvino in f32, which is not available here: begin it again"):
        make_backend(make_model(), CPU, (32, 32), BackendChoice("openvino", "f32"))
    assert make_backend(make_model(), CPU, (32, 32)).name == "torch"


@needs_openvino
def test_a_pinned_backend_that_fails_in_the_run_hands_the_tile_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, images: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    backend = make_backend(make_model(), CPU, (32, 32), BackendChoice("openvino", "f32"))
    monkeypatch.setattr(OpenVINOBackend, "run", broken)
    assert backend.run(IMAGES).probability.shape == (1, 1, 32, 32)
    assert backend.notes == [
        "OpenVINO on the CPU failed (RuntimeError: could not create a primitive); torch on the CPU takes over."
    ]


# ----------------------------------------------------------------------------------------------------- many images


@pytest.mark.parametrize("spec", SPECS[:2], ids=NAMES[:2])
@pytest.mark.parametrize("openvino", [False, pytest.param(True, marks=needs_openvino)])
def test_an_image_on_the_cpu_does_not_depend_on_those_beside_it(
    spec: Any, openvino: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "has_openvino", lambda: openvino)
    images = images_for(spec)
    backend = make_backend(trained(spec), CPU, images.shape[2:])
    assert backend.name == ("openvino" if openvino else "torch")
    together = backend.run(images)
    for number in range(len(images)):
        alone = backend.run(images[number : number + 1])
        np.testing.assert_array_equal(together.probability[number], alone.probability[0])
        for here, there in zip(together.attentions, alone.attentions, strict=True):
            np.testing.assert_array_equal(here[number], there[0])


@needs_openvino
def test_where_openvino_breaks_torch_goes_on_and_the_doctor_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_backend(CPU).notes == []
    assert try_backend(CPU).reason.startswith("OpenVINO on the CPU in ")

    def broken(self: Any, images: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(OpenVINOBackend, "run", broken)
    assert try_backend(CPU).notes == [
        "OpenVINO on the CPU failed (RuntimeError: could not create a primitive); torch on the CPU takes over."
    ]
    assert try_backend(CPU).name == "torch"


def test_the_engine_keeps_only_a_backend_that_never_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    model = make_model()
    written = write_model(tmp_path / "m", model.description, model.network)
    named = (str(tmp_path / "m"), written.description.weights_sha256)
    warm = WarmModel(*named)
    first = warm.backend(warm.model, CPU, (32, 32))
    assert warm.backend(warm.model, CPU, (32, 32)) is first
    first.notes.append("something failed")
    assert warm.backend(warm.model, CPU, (32, 32)) is not first


# --------------------------------------------------------------------------------------------------------- network

NO_NETWORK = """
import sys

tried = []

def watch(event, given):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        tried.append((event, repr(given)))
        raise OSError("there is no network here")

sys.addaudithook(watch)
import numpy as np, psutil
sys.path.insert(0, sys.argv[1])
from identity import make_model
from napari_skipseg.devices import Device
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.memory import tile_bytes
from napari_skipseg.models.model import write_model
from pathlib import Path

model = make_model()
tile_bytes(model, (32, 32), 1, "bf16")
compiler = "torch._dynamo" in sys.modules
model = write_model(Path(sys.argv[2]), model.description, model.network)
images = np.zeros((1, 1, 32, 32), np.float32)
makers = [lambda: TorchBackend(model, Device("cpu", "", ""))]
if sys.argv[3] == "True":
    makers += [lambda: OpenVINOBackend(model, (32, 32))] * 2  # the second one from the disk
shapes = [maker().run(images).probability.shape for maker in makers]
connections = psutil.Process().net_connections()
loaded = [compiler, bool(sys.modules.get("openvino_telemetry"))]
print(set(shapes), tried, connections, "compiler, telemetry loaded:", loaded)
"""


def test_no_backend_asks_anything_of_the_network_and_counting_memory_loads_no_compiler(tmp_path: Path) -> None:
    ended = run_python(NO_NETWORK, Path(__file__).parent, tmp_path / "model", has_openvino())
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "{(1, 1, 32, 32)} [] [] compiler, telemetry loaded: [False, False]"


# ------------------------------------------------------------------------------------------------------------- GPU

CUDA = Device("cuda", "GPU", "for the test")


def gpu(test: Any) -> Any:
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    return pytest.mark.gpu(missing(test))


@gpu
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_a_gpu_computes_what_the_cpu_does(spec: Any) -> None:
    model, images = trained(spec), images_for(spec)
    here, there = (TorchBackend(model, device, "f32").run(images) for device in (CUDA, CPU))
    np.testing.assert_allclose(here.probability, there.probability, atol=1e-4)
    for ours, theirs in zip(here.attentions, there.attentions, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@gpu
def test_a_gpu_gives_the_same_membranes_and_the_same_bytes_again() -> None:
    model, images = read_model(BUILT_IN / "em-membrane"), sample_images(512)
    whole = TorchBackend(model, CPU, "f32").run(images).probability > 0.5
    backend = TorchBackend(model, CUDA)
    first, other = backend.run(images), backend.run(images[:, :, ::-1].copy())
    assert backend.precision in ("bf16", "f16")
    assert ((first.probability > 0.5) == whole).mean() >= 0.999
    assert np.abs(first.probability - other.probability).max() > 0.1, "a result is not overwritten by the next"
    np.testing.assert_array_equal(backend.run(images).probability, first.probability)


@gpu
def test_a_gpus_memory_is_free_afterwards() -> None:
    before = torch.cuda.memory_allocated()
    backend = TorchBackend(make_model(), CUDA)
    backend.run(IMAGES)
    assert torch.cuda.memory_allocated() > before
    del backend
    gc.collect()
    release_memory()
    assert torch.cuda.memory_allocated() == before


@gpu
def test_a_gpu_without_memory_hands_the_tile_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    model = make_model()
    backend = make_backend(model, CUDA, (32, 32))
    upload = TorchBackend._upload

    def hungry(self: TorchBackend, images: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return upload(self, images)

    monkeypatch.setattr(TorchBackend, "_upload", hungry)
    np.testing.assert_allclose(
        backend.run(IMAGES).probability, TorchBackend(model, CPU).run(IMAGES).probability, atol=1e-6
    )
    assert backend.notes[0] == "torch on GPU ran out of memory; it continues with tiles of 24 × 24."
    assert backend.notes[-1] == "torch on GPU ran out of memory; torch on the CPU takes over."
