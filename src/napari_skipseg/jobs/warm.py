"""What the engine process keeps between jobs: the last model, read and made ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_skipseg.devices import Device
from napari_skipseg.errors import ModelError
from napari_skipseg.jobs.protocol import InspectJob, PlanJob, SegmentJob
from napari_skipseg.models.folder import read_description

if TYPE_CHECKING:
    from napari_skipseg.inference.backends import FallbackBackend
    from napari_skipseg.models.model import Model

ModelJob = SegmentJob | PlanJob | InspectJob

KEPT_BACKENDS = 4


class WarmModel:
    """A model and the backends made for it, so that the next run of the same model and tile starts at once.

    Backends that sample with dropout are not among them: they are made for their run, in no time. Nor is one kept in
    which another had to take over: the next run begins with the fastest again. A turned tile, or a block in three
    planes, takes several at a time.
    """

    def __init__(self, job: ModelJob) -> None:
        from napari_skipseg.models.model import read_model

        self.model = read_model(Path(job.model))
        self._key = _warm_key(job)
        self._backends: dict[tuple[str, tuple[int, ...]], FallbackBackend] = {}

    def serves(self, job: ModelJob) -> bool:
        """Return whether `job` asks for the same model, unchanged on disk."""
        return self._key == _warm_key(job)

    def backend(self, model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
        """Return a backend for tiles of `shape`, a kept one where there is one that never failed."""
        from napari_skipseg.inference.backends import make_backend

        key = (device.name, shape)
        if key in self._backends and self._backends[key].notes:
            del self._backends[key]
        if key not in self._backends:
            while len(self._backends) >= KEPT_BACKENDS:
                del self._backends[next(iter(self._backends))]
            self._backends[key] = make_backend(model, device, shape)
        return self._backends[key]


def _warm_key(job: ModelJob) -> tuple[object, ...]:
    description = read_description(Path(job.model))
    if description.weights_sha256 != job.model_sha256:
        raise ModelError(f"The model in '{job.model}' was changed just now: try again to use it as it is.")
    return job.model, description
