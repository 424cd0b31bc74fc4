"""What errors of torch, CUDA, cuDNN, HIP, MPS and OpenVINO mean for a run. Loads without torch."""

from __future__ import annotations

import errno
import re
from typing import Literal

FaultKind = Literal["memory", "size", "lost", "other"]

MEMORY_TEXTS = (
    "out[ _]?of[ _]?(device[ _]|host[ _])?memory",  # torch, CUDA, HIP, MPS, Level Zero
    "out[ _]of[ _]resources",  # Level Zero
    "(not enough|insufficient|no more|no free) (gpu |device |host |system )?memory",  # torch on Windows, Metal
    r"(can't|can ?not|could not|couldn't|failed to|unable to|error in) alloc",  # torch on a CPU, OpenVINO, numpy
    "(memory|workspace|buffer)[ _]?alloc(ation)?[ _]?(error|fail)",
    "alloc(ation)?[ _]?(error|fail)",  # CUBLAS_STATUS_ALLOC_FAILED, miopenStatusAllocFailed
    "errormemoryallocation",  # cudaErrorMemoryAllocation
    "status_memory_error",  # rocBLAS
    "bad[ _]alloc",  # C++
    "too large to allocate",
)
"""Messages that mean a lack of memory, in lower case."""
SIZE_TEXTS = (
    "unable to find an engine",  # cuDNN 8 and later, if no algorithm gets its workspace
    "unable to find a valid cudnn algorithm",  # cuDNN 7
    "no suitable algorithm",  # MIOpen
    "(cudnn|cublas|cublaslt|cusolver|cufft|hipblas|miopen|rocblas)_?status_?(not_?initialized|not_?supported|internal)",
    "host_allocation",
    "canuse32bitindexmath",
    "(32|64)[- ]?bit (index|offset|integer)",
    r"int(32)?_max|int32 (max|limit)|2(\^|\*\*)3[12]",  # index limits of CUDA kernels and of Metal
    "(buffer|tensor|array|input|output)( size)? (is )?too (large|big|many)",
    "invalid buffer size",  # Metal
    "invalid configuration argument",  # CUDA, if a grid of threads is too large
    "too many (elements|resources)",
)
"""Errors that often mean a tile too large for the memory that is free, or for 32-bit indices, in lower case."""
LOST_TEXTS = (
    "illegal (memory|address|instruction|state)",
    "misaligned address",
    "invalid (address space|program counter|pc)",
    # every CUDA error ends with a hint about "device-side assertions": that alone means nothing
    "device-side assert triggered",
    "(unspecified )?launch (failure|timed out)",
    "hardware stack error",
    "uncorrectable|ecc error|nvlink",
    "(device|gpu) (is |was )?(lost|removed|hung)|fallen off the bus|gpu hang",
    "busy or unavailable",
    "context (is |was )?destroyed",
    "driver (shutting down|version is insufficient)",
    "no cuda-capable device|no hip gpus",
    "no kernel image|invalid device function",
    "cuda error: (unknown error|initialization error)|hip error: unknown",
    "system not yet initialized",
    "address fault",  # Metal
)
"""Errors after which a GPU computes nothing more in this process, in lower case."""


def fault_kind(error: BaseException) -> FaultKind:
    """Return what `error` of a device means.

    memory: memory is short. size: a smaller tile often helps. lost: this process cannot use the device any more.
    other: anything else, such as an operation that the device does not have.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    if not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError):
        return "other"
    text = str(error).lower()
    kinds: tuple[tuple[FaultKind, tuple[str, ...]], ...] = (
        ("memory", MEMORY_TEXTS),
        ("lost", LOST_TEXTS),
        ("size", SIZE_TEXTS),
    )
    for kind, texts in kinds:
        if any(re.search(pattern, text) for pattern in texts):
            return kind
    return "other"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory is short, on any device."""
    return fault_kind(error) == "memory"


def gist_of(error: BaseException) -> str:
    """Return the first line of `error` that says what went wrong, without a full stop, 200 characters at the most."""
    lines = str(error).strip().splitlines()
    # OpenVINO names the lines of its own source code first
    informative = [line for line in lines if not line.startswith("Exception from ")] or lines or [""]
    return informative[0].rstrip(".:")[:200]
