"""Which device to compute on, in which precision, and why.

The module loads without torch, and its functions answer without it what they can: importing torch takes seconds, which
a run with a compiled network does not need. In a process where torch is loaded, torch itself is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from napari_skipseg.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")
UNTESTED = "not tested by us on a GPU yet"
"""Remark on CUDA and MPS until `pytest -m gpu` has passed on real hardware."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
"""Files in which Linux gives the memory limit of a container or a cluster's job, and the group of this process."""

PROCESSORS = Path("/proc/cpuinfo")
AMD_COMPUTE = Path("/dev/kfd")
"""Files in which Linux describes the processors, and of AMD's compute driver."""
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of `ONEDNN_MAX_CPU_ISA` up to which torch computes in f32, or oneDNN imitates bf16."""

M_MMAP_THRESHOLD = -3
GIVEN_BACK, KEPT = 2**20, 2**25
"""Bytes from which on glibc returns freed memory at once: the value that we set, and the highest that it sets
itself."""


@dataclass(frozen=True)
class Device:
    """A device to compute on: its torch name, what it is, and why it was chosen."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class ChosenPrecision:
    """A precision to compute in, "f32", "bf16" or "f16", and why, as a clause."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class DeviceReport:
    """The devices of this machine: the one that "auto" chooses, those that can be chosen, and OpenVINO.

    segments_in, trains_in: the precisions that are fastest there.
    """

    chosen: Device
    available: tuple[str, ...]
    has_openvino: bool
    segments_in: ChosenPrecision
    trains_in: ChosenPrecision


@dataclass(frozen=True)
class SystemReport:
    """The facts on a machine that a bug report needs, by name."""

    facts: dict[str, str]


def choose_device(name: str = "auto") -> Device:
    """Return the device called `name`, or the best one for "auto": a GPU only if a small step on it succeeds.

    Raises:
        DeviceError: the device that is named cannot be used; the message says why.
    """
    if name not in DEVICES:
        raise DeviceError(f"'{name}' is no device: choose one of {', '.join(DEVICES)}.")
    if name == "cpu":
        return Device("cpu", cpu_title(), "chosen by you")
    reason = "the fastest device here" if name == "auto" else "chosen by you"
    cuda = "" if name == "mps" else why_no_cuda()
    if name != "mps" and not cuda:
        return Device("cuda", gpu_title(), reason)
    if name == "cuda":
        raise DeviceError(f"There is no CUDA GPU to use: {cuda}. Choose --device auto or cpu.")
    mps = why_no_mps()
    if not mps:
        return Device("mps", "Apple GPU", reason)
    if name == "mps":
        raise DeviceError(f"There is no Apple GPU to use: {mps}. Choose --device auto or cpu.")
    return Device("cpu", cpu_title(), f"no GPU: {mps if platform.system() == 'Darwin' else cuda}")


def gpu_title() -> str:
    """Return the name of the CUDA device that this process uses."""
    import torch

    return str(torch.cuda.get_device_name(0))


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch: its version, and the CUDA and HIP that it was built with, None without."""

    version: str
    cuda: str | None
    hip: str | None


def torch_build() -> TorchBuild | None:
    """Return what the installed torch says of itself in its file `version.py`; None if that cannot be read."""
    found = util.find_spec("torch")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        text = _read_text(Path(folder) / "version.py")
        said = dict(re.findall(r"(?m)^(\w+)(?:\s*:[^=]+)?\s*=\s*(.+?)\s*$", text))
        if {"__version__", "cuda"} <= said.keys():
            values = {name: None if value == "None" else value.strip("'\"") for name, value in said.items()}
            return TorchBuild(values["__version__"] or "", values["cuda"], values.get("hip"))
    return None


def _has_driver(build: TorchBuild) -> bool:
    """Return whether the driver is there with which that torch would find a GPU; True where that is not known."""
    if build.hip is not None:
        return sys.platform != "linux" or AMD_COMPUTE.exists()
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def why_no_cuda() -> str:
    """Return in words why CUDA cannot be used; an empty text if it can: a step of training on it succeeded."""
    build = None if "torch" in sys.modules else torch_build()
    if build is not None and build.cuda is None and build.hip is None:
        return f"this torch ({build.version}) was built without CUDA"
    if build is not None and not _has_driver(build):
        return f"torch {build.version} finds no CUDA GPU; check the NVIDIA driver with nvidia-smi"
    import torch

    with warnings.catch_warnings(record=True) as caught:  # torch says here what is wrong with the driver
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if is_available:
        return _why_it_does_not_start("cuda")
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    said = f" ({first_line(caught[0].message)})" if caught else ""
    return f"torch {torch.__version__} finds no CUDA GPU{said}; check the NVIDIA driver with nvidia-smi"


def why_no_mps() -> str:
    """Return in words why Apple's GPU cannot be used; an empty text if it can: a step of training on it succeeded."""
    if "torch" not in sys.modules and platform.system() != "Darwin":
        return "this is not a Mac"
    import torch

    if torch.backends.mps.is_available():
        return _why_it_does_not_start("mps")
    if platform.system() != "Darwin":
        return "this is not a Mac"
    return "torch finds no Metal GPU; macOS 12.3 and an Apple chip are needed"


_STARTED: set[str] = set()
"""GPUs on which a step succeeded: these are not tried again. One that failed is, because the process that occupied it
may have ended."""


def _why_it_does_not_start(name: str) -> str:
    if name in _STARTED:
        return ""
    title = "CUDA" if name == "cuda" else "Metal"
    try:
        if name == "cuda":
            gpu_title()  # later queries of the GPU must not fail
            free_memory(name)
            missing = _missing_kernels()
            if missing:
                return missing
        take_small_step(name)
    except Exception as error:  # RuntimeError, AssertionError, classes of torch's own: the device is not available
        return f"{title} cannot be started ({first_line(error)})"
    _STARTED.add(name)
    return ""


def take_small_step(name: str) -> None:
    """Run one forward and one backward pass of a small convolution on the device called `name`.

    `is_available` only counts devices. It is also true for a GPU that another process holds alone, for one that the
    driver lost, and for one that torch has no kernels for: those fail at the first kernel.

    Raises:
        Exception: whatever torch raises where the device cannot compute.
    """
    import torch

    device = torch.device(name)
    with torch.enable_grad():
        weight = torch.ones(2, 1, 3, 3).to(device).requires_grad_()  # no random numbers: a seed set before stays good
        image = torch.ones(1, 1, 8, 8).to(device)
        loss = torch.nn.functional.conv2d(image, weight, padding=1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    if weight.grad is None or not bool(torch.isfinite(weight.grad.to("cpu")).all()):
        raise RuntimeError("a small step gave values that are not finite")


def _missing_kernels() -> str:
    """Return what to say if this torch has no kernels for the GPU; an empty text if it has some."""
    import torch

    capability = torch.cuda.get_device_capability()
    try:
        built_for = torch.cuda.get_arch_list()
    except (AttributeError, RuntimeError):  # not known: the step shows it
        return ""
    if torch.version.hip is not None:  # GPU
        architecture = str(torch.cuda.get_device_properties(0).gcnArchName).split(":")[0]
        is_missing = bool(built_for) and architecture not in built_for
    else:
        architecture = f"capability {capability[0]}.{capability[1]}"
        is_missing = bool(built_for) and not has_kernels(capability, built_for)
    if not is_missing:
        return ""
    return (
        f"this torch ({torch.__version__}) has no kernels for {gpu_title()} ({architecture}; it has "
        f"{', '.join(built_for)}): install a torch that was built for it"
    )


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Return whether a GPU of that CUDA capability can run what was compiled for one of the architectures.

    "sm_86" runs on 8.6 and on later ones of generation 8, "sm_90a" on 9.0 alone, "compute_86" (code that the driver
    compiles) on 8.6 and all later ones. Source: NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities".
    """
    for name in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if found is None:
            continue
        kind, needed, suffix = found[1], (int(found[2]), int(found[3])), found[4]
        is_same_generation = capability[0] == needed[0]
        if suffix == "a":
            fits = capability == needed
        else:
            fits = capability >= needed and (is_same_generation or (kind == "compute" and not suffix))
        if fits:
            return True
    return False


def best_precision(device: str, training: bool = False) -> ChosenPrecision:
    """Return the fastest precision of torch on the device of that type ("cpu", "cuda", "mps") that is good enough.

    training: for forward and backward passes; else for inference alone, whose result is binary.
    """
    if device == "cuda":  # GPU
        return _best_of_cuda(training)
    if device == "mps":
        return ChosenPrecision("f32", "half precision on Apple GPUs is not tested")
    if not has_bf16():
        return ChosenPrecision("f32", "this processor has no bf16 of its own")
    if training and not _is_x86():
        # oneDNN on ARM takes bf16 convolutions from the Compute Library, which has none for gradients.
        return ChosenPrecision("f32", "bf16 gradients on ARM are not tested")
    return ChosenPrecision("bf16", "this processor computes in bf16")


def _best_of_cuda(training: bool) -> ChosenPrecision:
    import torch

    if torch.version.hip is not None:  # GPU: matrix cores take bf16 in CDNA (gfx908 on, not gfx906) and from RDNA 3 on
        architecture = str(torch.cuda.get_device_properties(0).gcnArchName).split(":")[0]
        if re.fullmatch(r"gfx(908|90a|94\w|95\w|11\w\w|12\w\w)", architecture):
            return ChosenPrecision("bf16", f"this GPU ({architecture}) computes in bf16")
        return ChosenPrecision("f32", f"this GPU ({architecture}) has no bf16 of its own")
    capability = torch.cuda.get_device_capability()
    named = f"this GPU (capability {capability[0]}.{capability[1]})"
    if capability >= (8, 0):  # tensor cores take bfloat16 from here on; before, torch imitates it
        return ChosenPrecision("bf16", f"{named} computes in bf16")
    if capability < (7, 0):  # half precision runs there at a fraction of the speed of float32
        return ChosenPrecision("f32", f"{named} has no fast half precision")
    if training:
        # Gradients of f16 need a scaler, whose state changes with each overflow. Its steps that are left out would
        # make a resumed training another one, and nothing of it can be tested here. f32 is right on these GPUs.
        return ChosenPrecision("f32", f"{named} has no bf16, and gradients are lost in f16")
    return ChosenPrecision("f16", f"{named} computes in f16, not in bf16")


def has_bf16() -> bool:
    """Return whether the processor computes in bfloat16 itself.

    oneDNN accepts bf16 from AVX-512 on, and imitates it where the processor has no instruction for it. A training step
    of a U-Net (16-32-64, 96²) then takes 2.2 times as long as in f32 with AVX-512, and 8 times with AVX2 (measured with
    torch 2.13 and ONEDNN_MAX_CPU_ISA).
    """
    if "torch" not in sys.modules and sys.platform == "linux" and _is_x86():
        return "avx512_bf16" in _read_text(PROCESSORS) and not is_limited_below_bf16()
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if not _is_x86():
        return True
    if is_limited_below_bf16():
        return False
    is_supported: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if is_supported is not None:
        return bool(is_supported())
    return "avx512_bf16" in _read_text(PROCESSORS)  # torch < 2.6 does not say; elsewhere f32 is right too


def is_limited_below_bf16() -> bool:
    """Return whether the user limits oneDNN to instructions without bf16 (`ONEDNN_MAX_CPU_ISA`)."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def first_line(fault: object) -> str:
    """Return the first line of an error or a warning without its full stop; torch adds advice below."""
    lines = str(fault).strip().splitlines() or [type(fault).__name__]
    return lines[0].rstrip(".: ")[:200]


def cpu_title() -> str:
    """Return the number of cores and the memory of the CPU as text."""
    gibibytes = psutil.virtual_memory().total / 2**30
    return f"CPU, {len(cores())} cores, {gibibytes:.0f} GiB of memory"


def cores() -> list[int]:
    """Return the numbers of the CPU's cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def free_memory(name: str) -> int:
    """Return the bytes that are free for us on the device called `name`: "cpu", "cuda" or "mps".

    Memory that torch has reserved on a GPU and does not use counts as free. On the CPU, limits of a container, of a job
    on a cluster and of `ulimit -v` apply as well.
    """
    if name == "cuda":  # GPU
        import torch

        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if name == "mps":  # GPU
        import torch

        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return min([int(psutil.virtual_memory().available), *_left_in_groups(), *_left_to_process()])


def release_memory() -> None:
    """Release cached memory of the GPU that no tensor uses to other programs; nothing is cached without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    with contextlib.suppress(RuntimeError):  # the GPU may be lost
        if torch.cuda.is_initialized():  # GPU
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():  # GPU
            torch.mps.empty_cache()


@contextlib.contextmanager
def giving_back_memory() -> Iterator[None]:
    """Return freed memory to the system at once, while this context lasts; the C library would keep it. That of Linux,
    glibc, lets every thread keep freed pieces of up to 32 MiB: hundreds of MiB if many arrays of such sizes are made
    and freed. Elsewhere nothing changes.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is None:
        yield
        return
    tune(M_MMAP_THRESHOLD, GIVEN_BACK)
    try:
        yield
    finally:
        tune(M_MMAP_THRESHOLD, KEPT)


def _left_to_process() -> list[int]:
    """Return the bytes that this process may still take, if `ulimit -v` limits it."""
    if sys.platform == "win32":
        return []
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if limit == resource.RLIM_INFINITY else [max(0, limit - psutil.Process().memory_info().vms)]


def _left_in_groups() -> list[int]:
    """Return the bytes left in each control group with a memory limit that this process is in, and in those above."""
    found = []
    for line in _read_text(OWN_GROUPS).splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            found += _left_above(CONTROL_GROUPS / "memory", group, "limit_in_bytes", "usage_in_bytes", "total_")
        elif not controllers:
            found += _left_above(CONTROL_GROUPS, group, "max", "current", "")
    return found


def _left_above(root: Path, group: str, limit: str, usage: str, prefix: str) -> list[int]:
    """Return the bytes left in `group` and in all above it; file pages that the kernel can drop do not count as used.

    Inside a container `root` may be the group itself, whatever its name outside.
    """
    parts = [part for part in group.split("/") if part not in ("", "..")]
    left = []
    for length in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:length])
        most, used = (_read_text(folder / f"memory.{name}").strip() for name in (limit, usage))
        if most.isdecimal() and used.isdecimal():  # "max" where there is no limit
            facts = dict(fact.split()[:2] for fact in _read_text(folder / "memory.stat").splitlines() if " " in fact)
            pages = (facts.get(f"{prefix}{kind}_file", "0") for kind in ("active", "inactive"))
            droppable = sum(int(count) for count in pages if count.isdecimal())
            left.append(max(0, int(most) - max(0, int(used) - droppable)))
    return left


def _read_text(file: Path) -> str:
    """Return the text of `file`; "" if it is missing or cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def has_openvino() -> bool:
    """Return whether OpenVINO is installed, which makes the CPU two to three times as fast."""
    return util.find_spec("openvino") is not None


def versions() -> dict[str, str]:
    """Return the versions of the software that results depend on, for recipes and reports."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    names = ("napari-skipseg", "torch", "openvino", "numpy", "tifffile", "napari")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class MemoryShare(NamedTuple):
    """The share of the free memory that a process may use if it is not alone on its machine. processes: that share the
    free memory, this one included. most: bytes of the computer's memory, 0 = no limit. on_gpu: processes that share the
    GPU of this one, 0 = all of them.
    """

    processes: int = 1
    most: int = 0
    on_gpu: int = 0

    def of(self, device: str) -> int:
        """Return the bytes that are free for this process on the device of that name."""
        sharing = self.processes if device == "cpu" else self.on_gpu or self.processes
        free = free_memory(device) // sharing
        return min(free, self.most) if self.most and device == "cpu" else free


WHOLE_MEMORY = MemoryShare()
