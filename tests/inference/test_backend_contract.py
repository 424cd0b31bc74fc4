"""What every backend keeps to, and what a chain of them does when one fails.

A pretended GPU is among them: it shows that events come in order and that the right branch is taken, and says nothing
of the numbers or the speed of a real one (`pytest -m gpu` and scripts/gpu_check.py do).
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from identity import make_model
from pretended_gpu import GIBIBYTE, PretendedGpu, pretended_gpu

from napari_skipseg import devices
from napari_skipseg.device_faults import fault_kind
from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.errors import ModelError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import choose, compiled, fallback, halving
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.backends.fallback import FallbackBackend, notes_of
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.ensemble import choose_passes, iter_average
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.model import Model
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(11)
CPU = Device("cpu", "CPU", "for the test")
GPU = Device("cuda", "Some GPU", "for the test")


@dataclass(frozen=True)
class Kind:
    """A kind of backend: what makes it, and how far its probabilities may be from float32 on the CPU."""

    make: Callable[[Model, tuple[int, ...]], Backend]
    tolerance: float
    on_gpu: bool = False


def on_torch(device: Device, precision: str) -> Callable[[Model, tuple[int, ...]], Backend]:
    return lambda model, shape: TorchBackend(model, device, precision)


KINDS = {
    "torch f32": Kind(on_torch(CPU, "f32"), 1e-6),
    "torch bf16": Kind(on_torch(CPU, "bf16"), 0.1),
    "openvino f32": Kind(lambda model, shape: OpenVINOBackend(model, shape, "f32"), 1e-4),
    "pretended GPU f32": Kind(on_torch(GPU, "f32"), 1e-5, on_gpu=True),
    "pretended GPU bf16": Kind(on_torch(GPU, "bf16"), 0.1, on_gpu=True),
    "pretended GPU f16": Kind(on_torch(GPU, "f16"), 0.01, on_gpu=True),
    "chain on the CPU": Kind(lambda model, shape: make_backend(model, CPU, shape), 0.1),
    "chain on the pretended GPU": Kind(lambda model, shape: make_backend(model, GPU, shape), 0.1, on_gpu=True),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.COMPILED_VARIABLE, str(tmp_path / "compiled"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = KINDS[request.param]
    if "openvino" in request.param and not has_openvino():
        pytest.skip("OpenVINO is not installed")
    with ExitStack() as stack:
        if kind.on_gpu:
            stack.enter_context(pretended_gpu())
        yield kind


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with pretended_gpu() as gpu:
        yield gpu


def images_of(count: int, *shape: int) -> Pixels:
    return RNG.normal(size=(count, 1, *shape)).astype(np.float32)


def damaged(model: Model) -> Model:
    with torch.no_grad():
        model.network.classifier.weight.fill_(torch.nan)
    return model


# ------------------------------------------------------------------------------------------------- every backend


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (24, 40)), (3, (8, 16, 12))])
def test_it_gives_what_the_cpu_gives_in_float32_for_any_number_of_images(
    kind: Kind, dimensions: int, shape: tuple[int, ...]
) -> None:
    model = make_model(dimensions, classes=("a", "b"))
    backend, plain = kind.make(model, shape), TorchBackend(model, CPU, "f32")
    for count in (1, 2, 5):
        images = images_of(count, *shape)
        given = images.copy()
        found, wanted = backend.run(images), plain.run(images)
        assert found.probability.shape == (count, 2, *shape)
        assert found.probability.dtype == np.float32
        np.testing.assert_allclose(found.probability, wanted.probability, atol=kind.tolerance)
        for here, there in zip(found.attentions, wanted.attentions, strict=True):
            assert here.dtype == np.float32
            np.testing.assert_allclose(here, there, atol=kind.tolerance)
        assert found.uncertainty is None
        np.testing.assert_array_equal(images, given)


def test_a_result_is_not_overwritten_by_the_next_run(kind: Kind) -> None:
    backend = kind.make(make_model(), (32, 32))
    first = backend.run(images_of(2, 32, 32))
    kept = [values.copy() for values in (first.probability, *first.attentions)]
    backend.run(images_of(2, 32, 32))
    for values, before in zip((first.probability, *first.attentions), kept, strict=True):
        np.testing.assert_array_equal(values, before)


def test_attention_maps_come_only_while_they_are_wanted(kind: Kind) -> None:
    backend: Any = kind.make(make_model(), (32, 32))
    images = images_of(1, 32, 32)
    whole = backend.run(images)
    backend.attention = False
    without = backend.run(images)
    assert len(whole.attentions) == 1
    assert without.attentions == ()
    np.testing.assert_array_equal(without.probability, whole.probability)
    backend.attention = True
    np.testing.assert_array_equal(backend.run(images).attentions[0], whole.attentions[0])


def test_nan_is_never_returned(kind: Kind) -> None:
    backend = kind.make(damaged(make_model()), (32, 32))
    with pytest.raises((FloatingPointError, ModelError)):
        backend.run(images_of(1, 32, 32))


def test_a_model_that_gives_nan_whatever_computes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(choose, "has_openvino", lambda has=has: has and has_openvino())
        with pytest.raises(ModelError, match="tiny"):
            make_backend(damaged(make_model()), CPU, (32, 32)).run(images_of(1, 32, 32))


# --------------------------------------------------------------------------------------------- pretended GPU alone


def test_pixels_cross_pinned_and_all_results_together(gpu: PretendedGpu) -> None:
    backend = TorchBackend(make_model(), GPU, "bf16")
    gpu.events.clear()
    backend.run(images_of(2, 32, 32))
    assert gpu.events[:2] == ["pin", "upload (2, 1, 32, 32) float32 on its way"]
    assert [event.split()[0] for event in gpu.events[2:]] == ["download"] * 3 + ["synchronize"]
    assert all(event.endswith("on its way") for event in gpu.events[2:5])
    gpu.events.clear()
    backend.attention = False
    backend.run(images_of(2, 32, 32))
    assert gpu.count("download (2, 1, 32, 32)") == 1, "no map is brought back that nobody wants"


def test_a_result_that_is_read_before_it_has_arrived_is_seen(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TorchBackend(make_model(), GPU, "f32")
    monkeypatch.setattr(PretendedGpu, "synchronize", lambda self: None)
    with pytest.raises(ModelError):
        backend.run(images_of(1, 32, 32))


def residual() -> Model:
    stages = (Stage("simple", 4, 1), Stage("basic", 4, 2), Stage("bottleneck", 4, 1))
    spec = ResidualFCNSpec(width=4, stages=stages, across=Stage("bottleneck", 8, 2), dropout=0.2)
    from dataclasses import replace

    from napari_skipseg.networks.build import build

    return Model(replace(make_model().description, spec=spec), build(spec).eval())


PASSES = [
    (make_model, 2, (16, 24), {"average": 4}),
    (make_model, 2, (16, 24), {"average": 8}),
    (make_model, 3, (8, 16, 8), {"average": 8}),
    (make_model, 2, (12, 16, 24), {"planes": "xyz"}),
]


@pytest.mark.parametrize(("maker", "dimensions", "shape", "options"), PASSES)
@pytest.mark.parametrize("attention", [True, False])
def test_averages_on_the_gpu_are_those_of_the_cpu_with_one_upload_and_one_wait(
    gpu: PretendedGpu, maker: Any, dimensions: int, shape: tuple[int, ...], options: dict[str, Any], attention: bool
) -> None:
    model, images = maker(dimensions, classes=("a", "b")), images_of(2, *shape)
    asked = SegmentOptions("cpu", attention=attention, **options)

    notes: list[str] = []

    def average(device: Device) -> TileOutput:
        def make(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
            choice = BackendOption("it", "", on_torch(device, "f32"), is_gpu=device is GPU)
            return FallbackBackend((choice,), model, shape)

        passes = choose_passes(model, device, shape, asked, make)
        gpu.events.clear()
        work = passes.run(images, [(0, 0), (0, 1)])
        yields = 0
        while True:
            try:
                next(work)
            except StopIteration as stop:
                notes.extend(notes_of(passes.backend))
                assert yields == passes.per_tile - 1
                return stop.value
            yields += 1

    wanted = average(CPU)
    assert gpu.events == []
    found = average(GPU)
    assert notes == []
    assert (gpu.count("upload"), gpu.count("synchronize")) == (1, 1)
    maps = len(model.network.attention_strides) if attention and "planes" not in options else 0
    assert gpu.count("download") == 3 + maps, "whether all is finite, mean, deviation, and maps"
    np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-5)
    np.testing.assert_allclose(found.uncertainty, wanted.uncertainty, atol=1e-5)
    assert len(found.attentions) == len(wanted.attentions) == maps
    for here, there in zip(found.attentions, wanted.attentions, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.parametrize("make", [make_model, residual], ids=["channels", "values"])
def test_samples_on_the_gpu_are_averaged_there_with_the_same_masks(
    gpu: PretendedGpu, make: Callable[[], Model]
) -> None:
    model = make()
    images, places = images_of(3, 16, 16), [(0, 0), (1, 4), (2, 0)]
    options = SegmentOptions("cpu", samples=5, dropout=0.4, seed=3)
    found, wanted = (
        run_to_end(choose_passes(model, device, (16, 16), options, make_backend, precision="bf16").run(images, places))
        for device in (GPU, CPU)
    )
    assert found.uncertainty is not None
    assert wanted.uncertainty is not None
    assert found.uncertainty.max() > 0.1
    assert np.abs(found.probability - wanted.probability).mean() < 0.01
    assert np.abs(found.uncertainty - wanted.uncertainty).mean() < 0.01


def test_an_average_for_which_the_gpu_has_no_memory_is_computed_pass_by_pass(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield

    model, images = make_model(), images_of(1, 16, 24)
    backend = make_backend(model, GPU, (16, 24))
    monkeypatch.setattr(TorchBackend, "iter_average", fail)
    passes = choose_passes(model, GPU, (16, 24), SegmentOptions("cpu", average=4), lambda *_: backend)
    found = run_to_end(passes.run(images, [(0, 0)]))
    assert backend.notes == ["torch on Some GPU ran out of memory; it computes one pass after the other."]
    assert backend.name == "torch"
    one_by_one = run_to_end(iter_average([lambda: backend.run(images)]))
    assert found.probability.shape == one_by_one.probability.shape
    again = run_to_end(passes.run(images, [(0, 0)]))
    np.testing.assert_array_equal(again.probability, found.probability)
    assert len(backend.notes) == 1


# --------------------------------------------------------------------------------------------------------- faults

CUDA_HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory" + CUDA_HINT),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.0 GB, max allowed: 9.07 GB)."),
    RuntimeError("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("cudaErrorMemoryAllocation: out of memory"),
    RuntimeError("miopenStatusAllocFailed"),
    RuntimeError("MIOpen Error: Failed to allocate workspace"),
    RuntimeError("UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("std::bad_alloc"),
    OSError(12, "Cannot allocate memory"),
]
TOO_LARGE = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous in"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."),
    RuntimeError("nonzero is not supported for tensors with more than INT_MAX elements"),
    RuntimeError("MPSGraph does not support tensor dims larger than INT_MAX"),
    RuntimeError("[MPSNDArray initWithDevice:descriptor:] Error: total bytes of NDArray > 2**32"),
    RuntimeError("Invalid buffer size: 9.53 GiB"),
    RuntimeError("CUDA error: invalid configuration argument" + CUDA_HINT),
]
LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered" + CUDA_HINT),
    RuntimeError("CUDA error: device-side assert triggered" + CUDA_HINT),
    RuntimeError("CUDA error: unspecified launch failure" + CUDA_HINT),
    RuntimeError("CUDA error: the launch timed out and was terminated" + CUDA_HINT),
    RuntimeError("CUDA error: uncorrectable ECC error encountered" + CUDA_HINT),
    RuntimeError("CUDA error: misaligned address" + CUDA_HINT),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable" + CUDA_HINT),
    RuntimeError("CUDA error: no kernel image is available for execution on the device" + CUDA_HINT),
    RuntimeError("CUDA error: unknown error" + CUDA_HINT),
]
OTHER = [
    RuntimeError("CUDA error: something that nobody has seen yet" + CUDA_HINT),
    RuntimeError("expected scalar type Half but found Float"),
    NotImplementedError("The operator 'aten::max_pool3d_with_indices' is not currently implemented for the MPS device"),
    ValueError("out of memory"),
    FloatingPointError("values became too large"),
]


def brief(error: Exception) -> str:
    return str(error)[:45]


@pytest.mark.parametrize(
    ("errors", "meant"), [(SHORT, "memory"), (TOO_LARGE, "size"), (LOST, "lost"), (OTHER, "other")]
)
def test_what_errors_mean(errors: list[Exception], meant: str) -> None:
    assert {brief(error): fault_kind(error) for error in errors} == {brief(error): meant for error in errors}


class Narrow:
    """Computes nothing, for images of up to `room` voxels; for others it says what it is given to say."""

    precision = "bf16"

    def __init__(self, name: str, error: Exception | None = None, room: int = 0) -> None:
        self.name, self.error, self.room = name, error, room
        self.seen: list[tuple[int, ...]] = []

    def run(self, images: Pixels) -> TileOutput:
        self.seen.append(images.shape)
        if self.error is not None and images[0, 0].size > self.room:
            raise self.error
        return TileOutput(images.copy(), ())


def chain(first: Narrow, second: Narrow, model: Model, shape: tuple[int, ...], both: bool = False) -> FallbackBackend:
    choices = [BackendOption("torch on a GPU", "", lambda *_: first, is_gpu=True)]
    if both:
        choices.append(BackendOption("torch on a GPU", "in f32", lambda *_: second, is_gpu=True))
    choices.append(BackendOption("the CPU", "", lambda *_: second, 1))
    return FallbackBackend(tuple(choices), model, shape)


@pytest.mark.parametrize("error", [*SHORT, *TOO_LARGE], ids=brief)
def test_short_memory_in_any_words_halves_the_tile_and_the_gpu_goes_on(error: Exception) -> None:
    gpu, cpu, model = Narrow("gpu", error, 64 * 64), Narrow("cpu"), make_model(skip="org")
    backend, images = chain(gpu, cpu, model, (256, 256)), images_of(3, 256, 256)
    np.testing.assert_array_equal(backend.run(images).probability, images)
    assert backend.name == "gpu"
    assert cpu.seen == []
    assert "it continues with" in backend.notes[-1]
    backend.run(images)
    assert max(np.prod(shape[2:]) for shape in gpu.seen[-3:]) <= 64 * 64, "what fits is remembered"


@pytest.mark.parametrize("error", LOST, ids=brief)
def test_a_gpu_that_is_lost_is_left_at_once_in_every_precision(error: Exception) -> None:
    gpu, cpu, model = Narrow("gpu", error), Narrow("cpu"), make_model(skip="org")
    backend, images = chain(gpu, cpu, model, (256, 256), both=True), images_of(3, 256, 256)
    np.testing.assert_array_equal(backend.run(images).probability, images)
    assert len(gpu.seen) == 1
    assert backend.reason.startswith("the CPU")
    assert len(backend.notes) == 1


@pytest.mark.parametrize("error", OTHER[:2], ids=brief)
def test_an_error_that_nobody_knows_is_met_once_with_half_the_tile(error: Exception) -> None:
    model, images = make_model(skip="org"), images_of(3, 256, 256)
    helped = chain(Narrow("gpu", error, 140 * 140), Narrow("cpu"), model, (256, 256))
    np.testing.assert_array_equal(helped.run(images).probability, images)
    assert helped.name == "gpu"
    assert len(helped.notes) == 1
    assert ", one at a time." in helped.notes[0]
    gpu, cpu = Narrow("gpu", error), Narrow("cpu")
    in_vain = chain(gpu, cpu, model, (256, 256))
    np.testing.assert_array_equal(in_vain.run(images).probability, images)
    assert [shape[0] for shape in gpu.seen] == [3, 1], "whole, and once smaller"
    assert in_vain.name == "cpu"
    assert len(in_vain.notes) == 1


def test_an_error_for_which_no_tile_is_small_enough_is_no_matter_of_memory() -> None:
    model, images = make_model(skip="org"), images_of(1, 256, 256)
    backend = chain(Narrow("bf16", TOO_LARGE[0]), Narrow("f32"), model, (256, 256), both=True)
    backend.run(images)
    assert backend.reason.startswith("torch on a GPU in bf16: in f32"), "f32 on the same GPU is the next"


def test_memory_is_released_before_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large:
        """Stands for tensors on the device."""

    alive: list[int] = []
    held: list[weakref.ref[Large]] = []

    def run(images: Pixels, error: Exception) -> TileOutput:
        tensors = Large()
        held.append(weakref.ref(tensors))
        raise type(error)(str(error))  # a new one: an error keeps the frames it came through

    def look() -> None:
        alive.append(sum(reference() is not None for reference in held))

    monkeypatch.setattr(halving, "release_memory", look)
    monkeypatch.setattr(fallback, "release_memory", look)
    for error in (SHORT[0], LOST[0], FloatingPointError("too large")):
        first = Narrow("gpu")
        monkeypatch.setattr(first, "run", lambda images, error=error: run(images, error), raising=False)
        backend = chain(first, Narrow("cpu"), make_model(), (64, 64))
        gc.disable()
        try:
            held.clear()
            alive.clear()
            backend.run(images_of(2, 64, 64))
        finally:
            gc.enable()
        assert held
        assert set(alive) == {0}, "no frame of the failed attempt is left when memory is released"


# --------------------------------------------------------------------- the whole product, on a pretended GPU

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"average": 4},
    "samples": {"samples": 2, "dropout": 0.2},
    "planes": {"planes": "xyz"},
}


def predict(options: str, tile: int = 48, device: str = "auto", maker: Any = make_backend) -> Prediction:
    values = np.random.default_rng(1).integers(0, 256, (8, 52, 48)).astype(np.uint8)
    stack = Stack(values if options == "planes" else values[:1], Space("ZYX"))
    asked = SegmentOptions(device, tile=tile, **OPTIONS[options])
    return run_to_end(iter_predict(RunSpec(stack, make_model(margin=8), asked, backend_maker=maker)))


@functools.cache
def predict_plain(options: str, tile: int = 48) -> Prediction:
    """What the processor gives in float32."""
    return predict(options, tile, "cpu", lambda model, device, shape: TorchBackend(model, CPU, "f32"))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_gpu_segments_in_the_precision_of_its_generation_and_the_recipe_names_it(options: str) -> None:
    plain = predict_plain(options)
    for capability, precision, tolerance in (((8, 0), "bf16", 0.02), ((7, 5), "f16", 0.002), ((6, 1), "f32", 1e-5)):
        with pretended_gpu(capability=capability):
            found = predict(options)
        assert (found.recipe["device"], found.recipe["backend"]) == ("cuda", "torch")
        assert found.recipe["precision"] == precision
        assert found.recipe["notes"] == ()
        assert found.recipe["versions"]["GPU"] == "Pretended GPU"
        assert {"CUDA", "cuDNN"} <= found.recipe["versions"].keys()
        if options != "samples":  # these draw other masks on a different device
            assert np.abs(found.probability - plain.probability).mean() < tolerance
    assert "GPU" not in plain.recipe["versions"]


@pytest.mark.parametrize(("options", "capability"), list(zip(OPTIONS, [(8, 0), (7, 5)] * 2, strict=True)))
def test_overflow_goes_on_in_f32_on_the_gpu(
    options: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    see = TorchBackend._forward

    def overflow(self: TorchBackend, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probability, *maps = see(self, images)
        return (probability * torch.nan if self.precision != "f32" else probability, *maps)

    monkeypatch.setattr(TorchBackend, "_forward", overflow)
    with pretended_gpu(capability=capability):
        found = predict(options)
    assert (found.recipe["device"], found.recipe["backend"], found.recipe["precision"]) == ("cuda", "torch", "f32")
    assert "half precision" in found.recipe["notes"][0]
    assert found.recipe["notes"][0].endswith("torch on Pretended GPU takes over.")
    assert np.isfinite(found.probability).all()


@pytest.mark.parametrize(("options", "error"), list(zip(OPTIONS, [SHORT[0], TOO_LARGE[0]] * 2, strict=True)))
def test_short_memory_on_the_gpu_is_met_with_smaller_tiles(options: str, error: Exception) -> None:
    def narrow(images: torch.Tensor) -> None:
        if images.shape[0] * images.shape[-1] * images.shape[-2] > 36 * 36:
            raise error

    with pretended_gpu(capability=(6, 1)) as gpu:
        gpu.on_convolution = lambda images: narrow(images) if gpu.place(images) == "cuda" else None
        found = predict(options, 56)
    assert found.recipe["backend"] == "torch"
    assert any("continues with tiles" in note for note in found.recipe["notes"])
    assert not any("the CPU takes over" in note for note in found.recipe["notes"])
    if options != "samples":
        plain = predict_plain(options, 56)
        assert ((found.probability > 0.5) == (plain.probability > 0.5)).mean() > 0.99


@pytest.mark.parametrize("options", OPTIONS)
def test_where_the_gpu_is_lost_the_cpu_goes_on(options: str) -> None:
    with pretended_gpu() as gpu:

        def lose(images: torch.Tensor) -> None:
            if gpu.place(images) == "cuda" and images.shape[-1] > 20:  # the first small step succeeds
                raise LOST[0]

        gpu.on_convolution = lose
        found = predict(options)
    assert "on the CPU takes over" in found.recipe["notes"][0]
    assert np.isfinite(found.probability).all()


@pytest.mark.parametrize("options", ["plain", "samples"])
def test_the_cpu_that_takes_over_takes_a_tile_of_its_own(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda": 24 * GIBIBYTE, "cpu": 2 * GIBIBYTE}
    monkeypatch.setattr(devices, "free_memory", free.__getitem__)
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    seen: list[tuple[int, ...]] = []
    values = np.random.default_rng(1).integers(0, 256, (1, 400, 400)).astype(np.uint8)
    with pretended_gpu(capability=(6, 1)) as gpu:

        def lose(images: torch.Tensor) -> None:
            if gpu.place(images) == "cuda" and images.shape[-1] > 20:
                free["cpu"] = 2 * 10**7  # what is free now decides
                raise LOST[0]
            if images.shape[1] == 1:
                seen.append(tuple(images.shape[2:]))

        gpu.on_convolution = lose
        asked = SegmentOptions("cuda", **OPTIONS[options])
        found = run_to_end(iter_predict(RunSpec(Stack(values, Space("ZYX")), make_model(margin=8), asked)))
    assert found.recipe["tile"] == (400, 400)
    on_cpu = [shape for shape in seen if shape != (8, 8)]
    assert max(max(shape) for shape in on_cpu) < 400
    assert any(note.startswith("torch on the CPU takes tiles of ") for note in found.recipe["notes"])
    plain = run_to_end(iter_predict(RunSpec(Stack(values, Space("ZYX")), make_model(margin=8), SegmentOptions("cpu"))))
    if options == "plain":
        assert ((found.probability > 0.5) == (plain.probability > 0.5)).mean() > 0.999


def test_what_a_user_names_is_a_tile_of_the_cpu_too() -> None:
    backend = make_backend(make_model(margin=8), CPU, (333, 333))
    assert backend._backend.tile == (333, 333)
