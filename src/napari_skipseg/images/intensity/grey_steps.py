"""Grey values as somebody else's network wants them: the operations of bioimage.io, measured once for a stack.

Each operation is a straight line or a limit, so all of them together are one line between two limits, which is what a
`Normalization` is: clipping after a line is the line after clipping at the values that it maps there.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from napari_skipseg.errors import InputError, SpecError
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, check_values
from napari_skipseg.images.intensity.samples import iter_draw_windows
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress


@dataclass(frozen=True)
class GreyStep:
    """An operation on all grey values of an image.

    scale_linear: `gain * value + offset`. clip: at low and high, or at percentiles. zero_mean_unit_variance:
    `(value - mean) / (deviation + eps)`. scale_range: `(value - lower) / (upper - lower + eps)`, with the values at two
    percentiles. Percentiles, means and deviations are those of the values as they are at this step.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["scale_linear", "clip", "zero_mean_unit_variance", "scale_range"]
    gain: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    low_percentile: float | None = None
    high_percentile: float | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not (np.isfinite(self.gain) and self.gain > 0):
            raise SpecError(
                f"A gain of {self.gain} would turn the grey values round or make them all one: not supported."
            )


def combine_steps(steps: Sequence[GreyStep], values: NDArray[Any]) -> Normalization:
    """Return what `steps` do with an image of these `values`, as one normalisation.

    Raises:
        InputError: all values become the same.
    """
    now: NDArray[np.float64] = np.asarray(values, np.float64)
    gain, offset = 1.0, 0.0
    low = high = None
    for step in steps:
        if step.kind == "clip":
            least = step.low if step.low_percentile is None else float(np.percentile(now, step.low_percentile))
            most = step.high if step.high_percentile is None else float(np.percentile(now, step.high_percentile))
            if least is not None:
                low = max((least - offset) / gain, -np.inf if low is None else low)
            if most is not None:
                high = min((most - offset) / gain, np.inf if high is None else high)
            now = np.clip(now, least, most)
            continue
        line = _line(step, now)
        gain, offset = line[0] * gain, line[0] * offset + line[1]
        now = line[0] * now + line[1]
    if now.min() == now.max():
        raise InputError("The image is constant after the preprocessing that the model asks for: choose another image.")
    return Normalization(-offset / gain, 1 / gain, low, high)


def _line(step: GreyStep, now: NDArray[np.float64]) -> tuple[float, float]:
    """Return gain and offset of a step that is a line, for values as they are now."""
    if step.kind == "scale_linear":
        return step.gain, step.offset
    if step.kind == "zero_mean_unit_variance":
        below, spread = float(now.mean()), float(now.std())
    else:
        percents = (step.low_percentile or 0.0, 100.0 if step.high_percentile is None else step.high_percentile)
        below, above = (float(each) for each in np.percentile(now, percents))
        spread = above - below
    return 1 / (spread + step.eps), -below / (spread + step.eps)


def iter_measure_steps(
    stack: Stack, steps: Sequence[GreyStep], seed: int = 0
) -> Generator[Progress, None, GreyStatistics]:
    """Yield now and then; return the normalisation that `steps` are for a stack.

    Statistics are those of up to 32 slices, of up to 1024² pixels each, together: of an image within these limits they
    are those of all of its values. Constant areas count as tissue.

    Raises:
        InputError: NaN or infinite values, or a constant image.
    """
    windows = yield from iter_draw_windows(stack, seed, {})
    values: NDArray[Any] = np.concatenate([window.values.ravel() for window in windows])
    check_values(values, stack.name)
    return GreyStatistics(combine_steps(steps, values), asks_network=False)
