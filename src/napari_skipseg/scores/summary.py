"""Scores of several images as one value: pooled, image by image, and mean ± standard deviation over the images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ScoreSummary:
    """Scores by name: those of all images pooled, and those of each image.

    pooled: from the pixels, slices or pairs of all images together. Large images weigh more than in the mean.
    images: the scores of each image by its name.
    class_name: the class that was scored, empty if no classes were named.
    notes: decisions about the files that a user should know, one sentence each.

    Scores are floats; integers are counts and have no mean.
    """

    pooled: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    class_name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each score over the images (SAT, Table 1)."""
        return {name: statistics.fmean(values) for name, values in self._columns().items()}

    @property
    def deviation(self) -> dict[str, float | None]:
        """The standard deviation of each score over the images (SAT, Table 1), None for a single image.

        Of a sample, with n - 1 in the denominator; the paper does not say which one it reports.
        """
        return {name: statistics.stdev(values) if len(values) > 1 else None for name, values in self._columns().items()}

    def rows(self, per_image: bool = True) -> list[dict[str, Any]]:
        """Return a table: a row for each image (unless not `per_image`), then pooled; mean and sd of several."""
        named = {"class": self.class_name} if self.class_name else {}
        rows: list[tuple[str, Mapping[str, float | None]]] = list(self.images.items()) if per_image else []
        rows.append(("pooled", self.pooled))
        if len(self.images) > 1:
            rows += [("mean", self.mean), ("sd", self.deviation)]
        return [{**named, "image": name, **values} for name, values in rows]

    def as_json(self, per_image: bool) -> dict[str, Any]:
        """Return the pooled scores at the top, and mean, standard deviation and (`per_image`) images below them."""
        spread = {"n_images": len(self.images), "mean": self.mean, "standard_deviation": self.deviation}
        images = [{"image": name, **values} for name, values in self.images.items()]
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {**self.pooled, **spread, **notes, **({"images": images} if per_image else {})}

    def _columns(self) -> dict[str, list[float]]:
        columns: dict[str, list[float]] = {}
        for values in self.images.values():
            for name, value in values.items():
                if isinstance(value, float):
                    columns.setdefault(name, []).append(value)
        return columns
