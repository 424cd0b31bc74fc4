"""Which build of torch a machine needs for its GPU, as the command that installs it. Loads without torch."""

from __future__ import annotations

from napari_skipseg.gpus import NvidiaGpu, has_amd_gpu, is_apple_silicon, nvidia_gpus

WHEELS = "https://download.pytorch.org/whl"
ROCM = "rocm6.4"
CUDA_OF_DRIVERS = ((580, (13, 0)), (570, (12, 8)), (525, (12, 0)), (520, (11, 8)))
"""The newest CUDA that a driver from this number on runs (NVIDIA's CUDA Toolkit release notes, "CUDA Driver")."""


def torch_advice(has_cuda: bool, has_hip: bool, missing: str = "") -> str:
    """Return the command that installs a torch for this machine's GPU, or what to do before; "" if nothing is to do.

    has_cuda, has_hip: what the installed torch was built with. missing: why CUDA cannot be used with it, "" if it can.
    """
    gpus = nvidia_gpus()
    if gpus:
        return "" if has_cuda and "no kernels" not in missing else advice_for_nvidia(gpus[0])
    if has_amd_gpu() and not has_hip:
        return _command(ROCM)
    if is_apple_silicon() and missing:
        return "pip install --upgrade torch (for Macs with an Apple chip it has MPS; Python must be an arm64 build)"
    return ""


def advice_for_nvidia(gpu: NvidiaGpu) -> str:
    """Return the command that installs a torch with kernels for `gpu` and a CUDA that its driver runs."""
    cuda, capability = _cuda_of(gpu), gpu.capability
    if capability >= (10, 0):
        if cuda < (12, 8):
            return f"update the NVIDIA driver ({gpu.driver}) to 570 or later, then: {_command('cu128')}"
        return _command("cu130" if cuda >= (13, 0) else "cu128")
    if cuda >= (13, 0) and capability >= (7, 5):
        return _command("cu130")
    if cuda >= (12, 0):
        return _command("cu126")  # the last one with kernels for Maxwell, Pascal and Volta
    if cuda >= (11, 8):
        return _command("cu118", "'torch<2.8'")
    return f"update the NVIDIA driver ({gpu.driver}) to 525 or later, then: {_command('cu126')}"


def _cuda_of(gpu: NvidiaGpu) -> tuple[int, int]:
    if gpu.cuda != (0, 0):
        return gpu.cuda
    major = gpu.driver.split(".")[0]
    number = int(major) if major.isdecimal() else 0
    return next((cuda for least, cuda in CUDA_OF_DRIVERS if number >= least), (0, 0))


def _command(build: str, package: str = "torch") -> str:
    return f"pip install --force-reinstall {package} --index-url {WHEELS}/{build}"
