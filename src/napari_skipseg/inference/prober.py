"""A network asked, before a run, what it makes of a few patches of the image and of their negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from napari_skipseg.devices import Device
from napari_skipseg.images.normalize import Normalization
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import Backend, Pixels
from napari_skipseg.inference.certainty import Verdict, judge_probes
from napari_skipseg.inference.grid import Grid
from napari_skipseg.inference.guards import probe_grid, read_probes
from napari_skipseg.inference.passes import BackendMaker
from napari_skipseg.models.model import Model


@dataclass(frozen=True)
class Prober:
    """What a network is asked about. lengths: of its grid, by axis."""

    stack: Stack
    model: Model
    device: Device
    backend_maker: BackendMaker
    lengths: Mapping[str, int]

    def judge(
        self, normalization: Normalization, ready: tuple[Grid, Backend] | None, probes: Pixels | None = None
    ) -> Verdict:
        """Return what the network makes of the image; "" if it is too small to say, or cannot be read.

        ready: the grid and the backend of the run, taken where its tiles are as small as the patches: no second one is
        compiled then. probes: patches that were read before.
        """
        if probes is None:
            grid = probe_grid(self.stack, self.model.description, self.lengths, None if ready is None else ready[0])
            if grid is None:
                return ""
            probes = read_probes(self.stack, grid, normalization)
            if probes is None:
                return ""
        size = probes.shape[2:]
        if ready is not None and ready[0].tiles.size == size:
            backend = ready[1]
        else:
            backend = self.backend_maker(self.model, self.device, size)
        return judge_probes(backend, probes, self.model.description)
