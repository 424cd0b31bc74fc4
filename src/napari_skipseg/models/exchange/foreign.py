"""What a bioimage.io description says about a network that is not ours, as values of ours; or why it cannot be used.

Format versions 0.4 and 0.5 are read: the package bioimageio.spec brings both into the newest form. It looks at no file
and fetches nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_skipseg.errors import ModelError, SpecError
from napari_skipseg.foreign_text import printable
from napari_skipseg.images.intensity.grey_steps import GreyStep
from napari_skipseg.models.exchange.archive import RDF_NAMES
from napari_skipseg.models.exchange.extra import needed
from napari_skipseg.networks.specs import FixedStep

MOST_RDF = 2**20
"""Most bytes of a description."""
_LETTERS = {"batch": "b", "channel": "c"}
_UNITS = {"nanometer": "nm", "micrometer": "µm", "millimeter": "mm"}
_FLOATS = ("float32", "float64")
_BACKGROUND = ("background", "bg")

Runtime = Literal["onnx", "torchscript"]


@dataclass(frozen=True)
class NamedFile:
    """A file of a package: its name, and its SHA-256 if the description states one."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of a package, in our words. Axes and lengths are those of `ImportedSpec`; z first in all of space."""

    runtime: Runtime
    weights: NamedFile
    external: NamedFile | None
    test_input: NamedFile
    test_output: NamedFile
    input_axes: str
    output_axes: str
    in_channels: int
    least: tuple[int, ...]
    steps: tuple[int, ...]
    halo: tuple[int, ...]
    channels: tuple[int, ...]
    class_names: tuple[str, ...]
    voxel_size: tuple[float, float, float]
    unit: str
    grey_steps: tuple[GreyStep, ...]
    before: tuple[FixedStep, ...]
    after: tuple[FixedStep, ...]


def read_rdf(folder: Path) -> Any:
    """Return the description of the package in `folder`, an object of bioimageio.spec.

    Raises:
        ModelError: there is none, it is too large, of an unknown version, or not valid.
    """
    file = next((folder / name for name in RDF_NAMES if (folder / name).is_file()), None)
    if file is None:
        raise ModelError("This is no bioimage.io package: there is no rdf.yaml in it.")
    if file.stat().st_size > MOST_RDF:
        raise ModelError(f"The {file.name} of the package is larger than any description: it is not read.")
    spec = needed("bioimageio.spec")
    try:
        content = needed("ruyaml").YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except Exception as error:  # of the parser, or of the encoding
        raise ModelError(f"The {file.name} of the package is no valid YAML: download it again.") from error
    if not isinstance(content, dict) or content.get("type", "model") != "model":
        raise ModelError(f"The {file.name} of the package describes no model.")
    version = str(content.get("format_version", ""))
    if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
        raise ModelError(
            f"The package has the format version {printable(version) or 'none'}: 0.4 and 0.5 are read. Ask for "
            "a package in one of these."
        )
    context = spec.ValidationContext(root=folder, file_name=file.name, perform_io_checks=False, log_warnings=False)
    found = spec.build_description(content, context=context, format_version="latest")
    if isinstance(found, spec.InvalidDescr):
        faults = found.validation_summary.errors
        where = ".".join(map(str, faults[0].loc)) if faults else ""
        what = printable(faults[0].msg.splitlines()[0]) if faults else "unknown"
        where = f"{where}: " if where else ""
        raise ModelError(
            f"The {file.name} of the package is not valid ({where}{what}): ask its authors for one that is."
        )
    return found


def describe_foreign(rdf: Any) -> ForeignNetwork:
    """Return what the description of a package says, in our words.

    Raises:
        ModelError: the network takes or gives what no model here does; the message names it.
    """
    runtime, weights = _weights(rdf)
    given = [each for each in rdf.inputs if not each.optional]
    if len(given) != 1:
        raise ModelError(f"The model takes {len(given)} images at once: models with one can be imported.")
    taken, output = given[0], rdf.outputs[0]
    if taken.test_tensor is None or output.test_tensor is None:
        raise ModelError("The package has no test tensors, so it cannot be checked: it is not imported.")
    input_axes, output_axes = _axes(taken), _axes(output)
    space = "".join(axis for axis in "zyx" if axis in input_axes)
    if sorted(set(output_axes) & set("zyx")) != sorted(space):
        raise ModelError("The model gives an image of other axes than it takes: that is not supported.")
    least, steps = zip(*(_size(taken, axis) for axis in space), strict=True)
    names = _channel_names(output)
    grey, before = _preprocessing(taken, _channel_count(taken))
    channels = tuple(number for number, name in enumerate(names) if len(names) == 1 or name.lower() not in _BACKGROUND)
    scales = _scales(taken, space)
    return ForeignNetwork(
        runtime=runtime,
        weights=named_file(weights),
        external=named_file(weights.external_data) if getattr(weights, "external_data", None) is not None else None,
        test_input=named_file(taken.test_tensor),
        test_output=named_file(output.test_tensor),
        input_axes=input_axes,
        output_axes=output_axes,
        in_channels=_channel_count(taken),
        least=least,
        steps=steps,
        halo=tuple(_halo(taken, output, axis) for axis in space),
        channels=channels or (0,),
        class_names=tuple(names[number] for number in channels or (0,)),
        voxel_size=scales[0],
        unit=scales[1],
        grey_steps=grey,
        before=before,
        after=tuple(_fixed(each, "postprocessing") for each in _without_casts(output.postprocessing, "postprocessing")),
    )


def _weights(rdf: Any) -> tuple[Runtime, Any]:
    if rdf.weights.onnx is not None:
        return "onnx", rdf.weights.onnx
    if rdf.weights.torchscript is not None:
        return "torchscript", rdf.weights.torchscript
    names = ", ".join(name for name in rdf.weights.available_formats)
    if rdf.weights.pytorch_state_dict is not None:
        raise ModelError(
            "The package has its network only as Python code (pytorch_state_dict), which is never run here: convert it "
            "with bioimageio.core, `bioimageio add-weights`, and import that."
        )
    raise ModelError(f"The package has its network only as {names}: ONNX and TorchScript are read.")


def named_file(descr: Any) -> NamedFile:
    """Return the file that a part of a description names.

    Raises:
        ModelError: it is not in the package.
    """
    source = str(descr.source)
    if "://" not in source:  # an address has a path too
        source = str(getattr(descr.source, "path", source))
    if "://" in source or Path(source).is_absolute() or ".." in Path(source).parts:
        raise ModelError(
            f"The package names a file that is not in it ({printable(source)}): download the whole package as a zip."
        )
    return NamedFile(source, None if descr.sha256 is None else str(descr.sha256))


def _axes(tensor: Any) -> str:
    """Return the axes of a tensor as letters."""
    letters = []
    for axis in tensor.axes:
        letter = _LETTERS.get(axis.type) or (str(axis.id) if axis.type == "space" else "")
        if letter not in ("b", "c", "x", "y", "z"):
            raise ModelError(f"The tensor '{tensor.id}' has an axis '{axis.id}' ({axis.type}): that is not supported.")
        letters.append(letter)
    if not {"y", "x"} <= set(letters):
        raise ModelError(f"The tensor '{tensor.id}' has no axes y and x: it is no image.")
    return "".join(letters)


def _axis(tensor: Any, letter: str) -> Any:
    return next(axis for axis in tensor.axes if str(axis.id) == letter)


def _channel_names(tensor: Any) -> list[str]:
    names = [list(axis.channel_names) for axis in tensor.axes if axis.type == "channel"]
    return [printable(str(name)) for name in names[0]] if names else ["class1"]


def _channel_count(tensor: Any) -> int:
    return len(_channel_names(tensor))


def _size(tensor: Any, letter: str) -> tuple[int, int]:
    """Return the least length of an axis and the step between lengths, 0 = only this length."""
    size = _axis(tensor, letter).size
    if isinstance(size, int):
        return size, 0
    if hasattr(size, "step"):
        return size.min, size.step
    if hasattr(size, "axis_id") and str(size.tensor_id) == str(tensor.id) and not size.offset:
        return _size(tensor, str(size.axis_id))
    raise ModelError(f"The length of axis {letter} depends on another tensor: that is not supported.")


def _halo(taken: Any, output: Any, letter: str) -> int:
    """Return the halo of an axis, after checking that the output is as long as the input."""
    ours, theirs = _axis(output, letter), _axis(taken, letter)
    size = ours.size
    same = (
        size == theirs.size
        if isinstance(size, int) or hasattr(size, "step")
        else str(getattr(size, "tensor_id", "")) == str(taken.id) and str(size.axis_id) == letter and not size.offset
    )
    if not same or ours.scale != theirs.scale:
        raise ModelError(
            f"The model gives an image of another size along {letter} than it takes: that is not supported."
        )
    return int(getattr(ours, "halo", 0) or 0)


def _scales(tensor: Any, space: str) -> tuple[tuple[float, float, float], str]:
    """Return the voxel size (z, y, x) and its unit; without units it says nothing."""
    units = {str(_axis(tensor, axis).unit) for axis in space}
    unit = _UNITS.get(units.pop(), "") if len(units) == 1 else ""
    if not unit:
        return (1.0, 1.0, 1.0), "pixel"
    found = {axis: float(_axis(tensor, axis).scale) for axis in space}
    return (found.get("z", 1.0), found["y"], found["x"]), unit


def _without_casts(steps: Sequence[Any], where: str) -> list[Any]:
    """Return the steps that do something: casts to float are what the networks here work in."""
    kept = []
    for number, step in enumerate(steps):
        if str(step.id) != "ensure_dtype":
            kept.append(step)
        elif step.kwargs.dtype not in _FLOATS and 0 < number < len(steps) - 1:
            raise _refused(f"{step.id} to {step.kwargs.dtype}", where)
    return kept


def _preprocessing(tensor: Any, channels: int) -> tuple[tuple[GreyStep, ...], tuple[FixedStep, ...]]:
    """Return the steps on grey values, measured on the image, and those that follow, inside of the network."""
    grey: list[GreyStep] = []
    fixed: list[FixedStep] = []
    for step in _without_casts(tensor.preprocessing, "preprocessing"):
        made = None if fixed else _grey_step(step, tensor, channels)
        if made is None:
            fixed.append(_fixed(step, "preprocessing"))
        else:
            grey.append(made)
    return tuple(grey), tuple(fixed)


def _grey_step(step: Any, tensor: Any, channels: int) -> GreyStep | None:
    """Return a step on all grey values alike; None if it is none of these."""
    name, values = str(step.id), step.kwargs
    if name in ("zero_mean_unit_variance", "scale_range") or getattr(values, "min_percentile", None) is not None:
        _check_axes(step, tensor, channels)
    try:
        match name:
            case "zero_mean_unit_variance":
                return GreyStep("zero_mean_unit_variance", eps=values.eps)
            case "scale_range":
                if values.reference_tensor not in (None, tensor.id):
                    raise _refused("scale_range by another tensor", "preprocessing")
                return GreyStep(
                    "scale_range",
                    low_percentile=values.min_percentile,
                    high_percentile=values.max_percentile,
                    eps=values.eps,
                )
            case "clip":
                return GreyStep(
                    "clip",
                    low=values.min,
                    high=values.max,
                    low_percentile=values.min_percentile,
                    high_percentile=values.max_percentile,
                )
            case "scale_linear" if not isinstance(values.gain, list) and not isinstance(values.offset, list):
                return GreyStep("scale_linear", gain=float(values.gain), offset=float(values.offset))
            case "fixed_zero_mean_unit_variance" if not isinstance(values.mean, list):
                return GreyStep("scale_linear", gain=1 / values.std, offset=-values.mean / values.std)
    except SpecError as error:
        raise ModelError(f"The preprocessing '{name}' of the model cannot be done: {error}") from error
    return None


def _check_axes(step: Any, tensor: Any, channels: int) -> None:
    """Refuse statistics of each channel, or along a part of space: those of the whole image are measured."""
    axes = step.kwargs.axes
    if axes is None:
        return
    named = {str(axis) for axis in axes}
    wanted = {str(axis.id) for axis in tensor.axes if axis.type == "space"}
    channel = {str(axis.id) for axis in tensor.axes if axis.type == "channel"}
    if not wanted <= named or (channels > 1 and not channel <= named):
        raise _refused(f"{step.id} of each channel, or of a part of the image, by itself", "preprocessing")


def _fixed(step: Any, where: str) -> FixedStep:
    """Return a step that needs no statistics of the image.

    Raises:
        ModelError: it needs some, or is unknown here.
    """
    name = str(step.id)
    values: Any = getattr(step, "kwargs", None)
    match name:
        case "sigmoid":
            return FixedStep("sigmoid")
        case "softmax" if str(values.axis) == "channel":
            return FixedStep("softmax")
        case "clip" if values.min_percentile is None and values.max_percentile is None:
            return FixedStep("clip", low=values.min, high=values.max)
        case "binarize" if not isinstance(values.threshold, list):
            return FixedStep("binarize", threshold=values.threshold)
        case "scale_linear" if str(getattr(values, "axis", "channel")) == "channel":
            return FixedStep("scale_linear", gain=_numbers(values.gain), offset=_numbers(values.offset))
        case "fixed_zero_mean_unit_variance" if str(getattr(values, "axis", "channel")) == "channel":
            means, deviations = _numbers(values.mean), _numbers(values.std)
            gain = tuple(1 / each for each in deviations)
            offset = tuple(-mean / each for mean, each in zip(means, deviations, strict=True))
            return FixedStep("scale_linear", gain=gain, offset=offset)
    raise _refused(name, where)


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def _refused(name: str, where: str) -> ModelError:
    return ModelError(
        f"The model asks for the {where} '{printable(name)}', which is not supported: it is not imported."
    )
