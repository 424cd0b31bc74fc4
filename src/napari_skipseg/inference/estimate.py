"""The estimate of a run: time, memory, disk. Loads without torch; panel and shell show the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_skipseg.wording import counted, in_bytes, in_words

LITTLE = 0.9
"""A plan warns if it needs more than this share of the free memory or disk."""


@dataclass(frozen=True)
class RunPlan:
    """The time, memory and disk that a run needs; sizes in bytes.

    seconds: of the whole run: what comes before the first tile, then reading, computing and writing, of which the
    slowest counts, then what follows the last one. device: with its precision and the reason. tile: its size in voxels.
    memory: peak of the whole process; device_memory: of the GPU (0 on a CPU). disk: most space for the results, before
    compression, and for temporary files. findings: about the image, as in a recipe; seems_inverted: as in
    `progress.ImageFindings`. slowest: the part that limits the speed.
    """

    device: str
    tile: tuple[int, ...]
    batch: int
    tiles: int
    passes: int
    seconds_per_tile: float
    seconds: float
    memory: int
    memory_free: int
    device_memory: int
    device_memory_free: int
    disk: int
    disk_free: int
    findings: tuple[str, ...] = ()
    seems_inverted: bool = False
    slowest: str = "network"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on disk or memory that is short, each with a cure."""
        found = []
        if self.disk > LITTLE * self.disk_free:
            found.append(
                f"The results take up to {in_bytes(self.disk)} of disk, and {in_bytes(self.disk_free)} are free: free "
                "some space, or choose a folder on a different disk."
            )
        if self.memory > LITTLE * self.memory_free:
            found.append(
                f"The run takes about {in_bytes(self.memory)} of memory, and {in_bytes(self.memory_free)} are free: "
                "choose a smaller tile, or close other programs."
            )
        if self.device_memory > LITTLE * self.device_memory_free:
            found.append(
                f"A tile takes about {in_bytes(self.device_memory)} of the GPU's memory, and "
                f"{in_bytes(self.device_memory_free)} are free: choose a smaller tile."
            )
        return tuple(found)

    @property
    def summary(self) -> str:
        """The plan in one line: time, memory, disk."""
        return f"about {in_words(self.seconds)}, {in_bytes(self.memory)} of memory, up to {in_bytes(self.disk)} of disk"

    def describe(self) -> dict[str, str]:
        """Return the plan as lines, by name."""
        sides = " × ".join(map(str, self.tile))
        each = f" in {self.passes} passes each" if self.passes > 1 else ""
        pace = "measured" if self.slowest == "network" else f"measured; {self.slowest} is the slowest part"
        lines = {
            "device": self.device,
            "tiles": f"{self.tiles:,} of {sides} voxels{each}, {self.seconds_per_tile:.2g} s a tile ({pace})",
            "time": f"about {in_words(self.seconds)}",
            "memory": f"{in_bytes(self.memory)} of {in_bytes(self.memory_free)} free",
            "disk": f"at most {in_bytes(self.disk)} of {in_bytes(self.disk_free)} free",
        }
        if self.device_memory:
            lines["on the GPU"] = f"{in_bytes(self.device_memory)} of {in_bytes(self.device_memory_free)} free"
        lines |= {f"warning {number}": text for number, text in enumerate(self.warnings, start=1)}
        return lines | {f"note {number}": text for number, text in enumerate(self.findings, start=1)}


def total_of(plans: Sequence[RunPlan]) -> dict[str, str]:
    """Return the totals of runs that are done one after the other, as lines."""
    return {
        "total time": f"about {in_words(sum(plan.seconds for plan in plans))} for {counted(len(plans), 'image')}",
        "total disk": f"at most {in_bytes(sum(plan.disk for plan in plans))} of {in_bytes(plans[0].disk_free)} free",
    }
