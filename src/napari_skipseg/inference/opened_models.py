"""Models opened for inference: one that was checked before on this computer is not built until its network is used.

Loads without torch.
"""

from __future__ import annotations

from pathlib import Path

from napari_skipseg.inference.backends import compiled
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.model import CheckedModel, Model, network_facts, read_content, read_model


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
