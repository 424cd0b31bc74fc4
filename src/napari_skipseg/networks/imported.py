"""A network from somebody else's file, ONNX or TorchScript, which takes images of any size here.

The file lies in a buffer of bytes, so that a model with such a network is a model like any other: one file of weights
with one hash. onnxruntime computes ONNX on the CPU, in float32. A TorchScript file is a program in torch's own small
language, which knows no Python, no network and no processes; torch computes it on any device.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.networks.network import Network, NetworkOutput, mirrored_positions
from napari_skipseg.networks.specs import FixedStep, ImportedSpec

RunFile = Callable[[Tensor], list[Tensor]]
MISSING_RUNTIME = "This model is an ONNX file, which onnxruntime computes: install it with pip install onnxruntime."


class ImportedNetwork(Network):
    """The network of a file. Its output is probabilities, with its own operations before and after applied.

    An image that is smaller than the network takes is mirrored at its border; one of another length is computed in
    overlapping windows, of which each gives what lies inside of the halo.

    Shape: (N, in_channels, *space) -> probability (N, classes, *space) in place of logits; no attention maps.
    """

    spec: ImportedSpec
    file: Tensor
    """(file_bytes,), uint8: the content of the file."""

    def __init__(self, spec: ImportedSpec) -> None:
        super().__init__(spec)
        self.levels = ()
        self._run: RunFile | None = None
        self.register_buffer("file", torch.zeros(spec.file_bytes, dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the runtime, which cannot be copied: a copy makes its own."""
        return self.__dict__ | {"_run": None}

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return the probabilities of `image`."""
        return NetworkOutput(torch.cat([self._compute(each[None]) for each in image]), ())

    def run(self, image: Tensor) -> NetworkOutput:
        """Return the output for an image of any size."""
        return self(image)  # type: ignore[no-any-return]

    def probability(self, logits: Tensor) -> Tensor:
        """Return what `forward` gave: it is a probability already."""
        return logits

    def _compute(self, image: Tensor) -> Tensor:
        """Return the probabilities (1, classes, *space) of one image (1, C, *space)."""
        spec, size = self.spec, image.shape[2:]
        rules = list(zip(size, spec.least, spec.steps, spec.halo, strict=True))
        lengths = [_allowed(length, least, step) for length, least, step, _ in rules]
        missing = [max(0, wanted - length) for wanted, length in zip(lengths, size, strict=True)]
        for axis, extra in enumerate(missing, start=2):
            if extra:
                image = image.index_select(axis, mirrored_positions(image.shape[axis], extra, image.device))
        windows = [
            list(_windows(max(length, wanted), wanted, halo))
            for (length, _, _, halo), wanted in zip(rules, lengths, strict=True)
        ]
        found = image.new_empty((1, len(spec.channels), *image.shape[2:]))
        every = (slice(None), slice(None))
        for places in product(*windows):
            read, kept = ([slice(*place[part]) for place in places] for part in (0, 1))
            inner = [slice(k.start - r.start, k.stop - r.start) for r, k in zip(read, kept, strict=True)]
            found[(*every, *kept)] = self._window(image[(*every, *read)])[(*every, *inner)]
        return found[(*every, *(slice(0, length) for length in size))]

    def _window(self, image: Tensor) -> Tensor:
        spec = self.spec
        for step in spec.before:
            image = apply_step(step, image)
        order = "bc" + "zyx"[-spec.dimensions :]
        taken = image.permute(
            [order.index(axis) for axis in order if axis not in spec.input_axes]
            + [order.index(axis) for axis in spec.input_axes]
        )
        taken = taken.reshape(taken.shape[len(order) - len(spec.input_axes) :]).contiguous().float()
        outputs = self._runner(image.device)(taken)
        if len(outputs) <= spec.output or outputs[spec.output].ndim != len(spec.output_axes):
            raise ModelError("The imported network gives other tensors than its description says: it cannot be used.")
        output = outputs[spec.output].to(image.device).float()
        given = spec.output_axes
        for axis in order:
            if axis not in given:
                output, given = output[None], axis + given
        output = output.permute([given.index(axis) for axis in order])
        if output.shape[2:] != image.shape[2:] or output.shape[1] <= max(spec.channels):
            raise ModelError("The imported network gives another size than its description says: it cannot be used.")
        for step in spec.after:
            output = apply_step(step, output)
        return output[:, list(spec.channels)]

    def prepare(self) -> None:
        """Let the runtime read the file now, and not with the first image.

        Raises:
            ModelError: it cannot.
        """
        self._runner(torch.device("cpu"))

    def _runner(self, device: torch.device) -> RunFile:
        if self._run is None:
            content = self.file.cpu().numpy().tobytes()
            try:
                make = _onnx_runner if self.spec.runtime == "onnx" else _torchscript_runner
                self._run = make(content, device)
            except SkipsegError:
                raise
            except Exception as error:  # a runtime has errors of its own
                raise ModelError(
                    f"The {self.spec.runtime} file of the imported network cannot be read: "
                    f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
                ) from error
        return self._run


def apply_step(step: FixedStep, values: Tensor) -> Tensor:
    """Return `values` (N, C, *space) after an operation."""
    match step.kind:
        case "sigmoid":
            return torch.sigmoid(values)
        case "softmax":
            return torch.softmax(values, dim=1)
        case "clip":
            return torch.clamp(values, step.low, step.high)
        case "binarize":
            return (values > step.threshold).to(values.dtype)
    around = (1, -1, *[1] * (values.ndim - 2))
    gain, offset = (torch.tensor(each, device=values.device).view(around) for each in (step.gain, step.offset))
    return values * gain + offset


def _onnx_runner(content: bytes, device: torch.device) -> RunFile:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(MISSING_RUNTIME) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(values: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each) for each in session.run(None, {name: values.cpu().numpy()})]

    return run


def _torchscript_runner(content: bytes, device: torch.device) -> RunFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript will have a successor
        network = torch.jit.load(io.BytesIO(content), map_location=device).eval()  # type: ignore[no-untyped-call]

    def run(values: Tensor) -> list[Tensor]:
        found = network(values)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


def _allowed(length: int, least: int, step: int) -> int:
    """Return the length that is computed for an axis of `length`: the next one above it, or the only one."""
    return least if step == 0 or length <= least else least + -(-(length - least) // step) * step


def _windows(length: int, size: int, halo: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield what windows of `size` read of an axis, and what is kept of each: all, without the halo inside."""
    start = kept = 0
    while True:
        start = min(start, length - size)
        stop = length if start + size >= length else start + size - halo
        yield (start, start + size), (kept, stop)
        if stop == length:
            return
        start, kept = stop - halo, stop


__all__ = ["ImportedNetwork", "apply_step"]
