"""What a process counts as its own of a machine's memory. Loads without torch."""

from __future__ import annotations

from typing import NamedTuple

from napari_skipseg.devices import free_memory


class MemoryShare(NamedTuple):
    """What a process may count as its own of the memory that is free, where it is not alone on its machine.

    processes: that share what is free, this one among them. most: bytes of the computer's memory, 0 = no limit. on_gpu:
    processes that share the GPU of this one, 0 = all of them.
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
