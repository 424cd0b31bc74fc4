"""A GPU that torch on a CPU pretends to have. It proves the order of events and the choice of branches, nothing else.

Tensors "on cuda" are CPU tensors that are remembered. What a copy without waiting brings back is NaN until the stream
is synchronised; a tensor on the GPU gives no numpy array; tensors of both places do not mix. Nothing here says anything
of the numbers, the kernels, the speed or the memory of a real GPU.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from napari_skipseg import devices

GIBIBYTE = 2**30
GPU, CPU = "cuda", "cpu"
TOGETHER = re.compile("conv|cat$|.*norm|i?_*(add|sub|mul|div)_*$")
"""Operations whose tensors have to be in one place."""


class PretendedGpu(TorchFunctionMode):
    """The GPU. events: what crossed and what was waited for. on_convolution: called with each input; may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.on_convolution: Callable[[Tensor], None] = lambda images: None
        self._there: dict[int, str] = {}
        self._on_their_way: list[Callable[[], Any]] = []

    def synchronize(self) -> None:
        """Let everything arrive that is on its way."""
        self.events.append("synchronize")
        with torch._C.DisableTorchFunction():
            for arrive in self._on_their_way:
                arrive()
        self._on_their_way.clear()

    def count(self, word: str) -> int:
        """How many events begin with `word`."""
        return sum(event.startswith(word) for event in self.events)

    def place(self, tensor: Tensor) -> str:
        with torch._C.DisableTorchFunction():
            return self._there.get(id(tensor.untyped_storage()), CPU)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            if name == "pin_memory":
                return self._pin(args[0])
            if name in ("to", "cpu", "cuda"):
                target = self._target(name, args, kwargs)
                if target is not None and target != self.place(args[0]):
                    return self._copy(args[0], target, args, kwargs)
            return self._compute(func, name, args, kwargs)

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        is_made_there = str(kwargs.get("device", CPU)).startswith(GPU)
        if is_made_there:
            kwargs["device"] = CPU
        given = list(_tensors((*args, *kwargs.values())))
        places = {self.place(tensor) for tensor in given}
        if name == "numpy" and GPU in places:
            raise TypeError("can't convert cuda:0 device type tensor to numpy: copy it to the CPU first")
        if TOGETHER.match(name) and {self.place(tensor) for tensor in given if tensor.dim()} == {GPU, CPU}:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two ({name})")
        if name.startswith("conv"):
            self.on_convolution(args[0])
        made = func(*args, **kwargs)
        if getattr(func, "__self__", None) is torch.Tensor.device:
            return torch.device(self.place(args[0]))
        if is_made_there or GPU in places:
            for tensor in _tensors((made,)):
                self._mark(tensor, GPU)
        return made

    def _copy(self, tensor: Tensor, target: str, args: Any, kwargs: Any) -> Tensor:
        waits = not (kwargs.get("non_blocking", False) and (target == CPU or tensor in _PINNED))
        arrow = "upload" if target == GPU else "download"
        kind = str(tensor.dtype).removeprefix("torch.")
        self.events.append(f"{arrow} {tuple(tensor.shape)} {kind}{'' if waits else ' on its way'}")
        copy = tensor.clone()
        if waits and target == CPU:
            self.synchronize()
        elif target == CPU:
            copy = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else 77)
            if tensor.dtype == torch.bool:
                copy = torch.zeros_like(tensor)
            self._on_their_way.append(lambda: copy.copy_(tensor))
        self._mark(copy, target)
        rest = {key: kwargs[key] for key in ("dtype", "memory_format") if key in kwargs}
        for value in args[1:]:
            if isinstance(value, torch.dtype):
                rest["dtype"] = value
        return copy.to(**rest) if rest else copy

    def _pin(self, tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        _PINNED.add(pinned)
        self.events.append("pin")
        return pinned

    def _mark(self, tensor: Tensor, place: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # torch gives a storage one Python object as long as it lives
        if key not in self._there:
            weakref.finalize(storage, self._there.pop, key, None).atexit = False
        self._there[key] = place

    @staticmethod
    def _target(name: str, args: Any, kwargs: Any) -> str | None:
        if name in (CPU, GPU):
            return name
        for value in (*args[1:], kwargs.get("device")):
            if isinstance(value, torch.device):
                return value.type
            if isinstance(value, str):
                return value.partition(":")[0]
        return None


class _Tensors(weakref.WeakSet):  # type: ignore[type-arg]
    def __contains__(self, item: Any) -> bool:
        return any(item is tensor for tensor in self)


_PINNED: Any = _Tensors()


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


@contextmanager
def pretended_gpu(
    free: int = 8 * GIBIBYTE, capability: tuple[int, int] = (8, 0), name: str = "Pretended GPU"
) -> Iterator[PretendedGpu]:
    """Yield a GPU with so many bytes free and of this capability, which torch has while this is entered."""
    gpu = PretendedGpu()
    stands_in = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: name,
        "get_device_capability": lambda *_: capability,
        "get_arch_list": lambda: [f"sm_{capability[0]}{capability[1]}"],
        "mem_get_info": lambda *_: (free, free),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "empty_cache": lambda: gpu.events.append("release"),
        "current_stream": lambda *_: gpu,
        "synchronize": lambda *_: gpu.synchronize(),
    }
    real = {key: getattr(torch.cuda, key) for key in stands_in}
    generator, started = torch.Generator, set(devices._STARTED)
    for key, value in stands_in.items():
        setattr(torch.cuda, key, value)
    torch.Generator = lambda *_: generator(CPU)  # type: ignore[misc, assignment]
    devices._STARTED.clear()
    try:
        with gpu:
            yield gpu
    finally:
        devices._STARTED.clear()
        devices._STARTED.update(started)
        torch.Generator = generator  # type: ignore[misc]
        for key, value in real.items():
            setattr(torch.cuda, key, value)
