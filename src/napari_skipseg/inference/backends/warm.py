"""Models opened for inference, and kept in memory with their backends, so that the next run of one starts at once.

A model that was checked before on this computer is not built until its network is used. Loads without torch.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.devices import WHOLE_MEMORY, Device, MemoryShare
from napari_skipseg.errors import ModelError
from napari_skipseg.inference.backends import compiled
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.model import CheckedModel, Model, network_facts, read_content, read_model
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.choose import BackendChoice
    from napari_skipseg.inference.backends.fallback import FallbackBackend

KEPT_BACKENDS = 4
"""A turned tile, or a block in three planes, takes several at a time."""
KEPT_MODELS = 2
"""A model that was fine-tuned, and the new model."""

_Key = tuple[str, tuple[int, ...], "BackendChoice | None"]


class KeptBackends:
    """The backends of a model by device, tile and what is pinned: the last ones that were made, `most` of them.

    One in which another had to take over is not kept: the next run begins with the fastest again.
    """

    def __init__(self, most: int, share: MemoryShare = WHOLE_MEMORY) -> None:
        self._most, self._share = most, share
        self._kept: dict[_Key, FallbackBackend] = {}

    def backend(
        self, model: Model, device: Device, shape: tuple[int, ...], pinned: BackendChoice | None = None
    ) -> FallbackBackend:
        """Return a backend for tiles of `shape`: a kept one that never failed, or else a new one."""
        from napari_skipseg.inference.backends.choose import make_backend

        key = (device.name, shape, pinned)
        if key in self._kept and self._kept[key].notes:
            del self._kept[key]
        if key not in self._kept:
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = make_backend(model, device, shape, pinned, self._share)
        return self._kept[key]


class WarmModel:
    """A model and the backends made for it, so that the next run of the same model and tile starts at once.

    Backends that sample with dropout are not among them: they are made for their run, in no time.

    key: what distinguishes it from other models, and from itself after a change on disk.
    """

    def __init__(self, folder: str, weights_sha256: str) -> None:
        self.model = open_model(Path(folder))
        self.key = _warm_key(folder, weights_sha256)
        self.backend = KeptBackends(KEPT_BACKENDS).backend


class WarmModels:
    """The models that were used last.

    live: the features that a live view keeps between two strokes (`training.finetune.live`), None if it is off.
    """

    def __init__(self) -> None:
        self._kept: list[WarmModel] = []
        self.live: Any = None

    def iter_find(self, folder: str, weights_sha256: str) -> Generator[Progress, Any, WarmModel]:
        """Return the model in `folder`, a kept one if it is unchanged on disk; drop the one used longest ago.

        Raises:
            ModelError: there is no such model, or it has different weights than those named.
        """
        key = _warm_key(folder, weights_sha256)
        self._kept.sort(key=lambda warm: warm.key != key)
        if not self._kept or self._kept[0].key != key:
            yield Progress(0, 1, "reading the model")
            del self._kept[KEPT_MODELS - 1 :]
            self._kept.insert(0, WarmModel(folder, weights_sha256))
        return self._kept[0]


def _warm_key(folder: str, weights_sha256: str) -> tuple[object, ...]:
    description = read_description(Path(folder))
    if description.weights_sha256 != weights_sha256:
        raise ModelError(f"The model in '{folder}' was changed just now: try again to use it as it is.")
    return folder, description


def open_model(folder: Path) -> Model:
    """Return the model in `folder`, whose weights file has the described SHA-256.

    That these weights fit the network is checked once, with torch, and kept on disk beside the compiled networks.

    Raises:
        ModelError: as `read_model`.
    """
    description = read_description(folder)
    key = compiled.key_of(
        what="fits",
        network=network_facts(description),
        weights=description.weights_sha256,
        code=compiled.code_hash(),
    )
    known = compiled.read_facts(key)
    if known is not None and known.keys() == {"weights"}:
        return CheckedModel(description, read_content(folder, description, known["weights"]))
    model = read_model(folder)
    compiled.write_facts(key, {"weights": sum(values.size for _, values in model.iter_weights())})
    return model
