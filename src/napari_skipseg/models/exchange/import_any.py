"""A model from anywhere: a file or folder of ours, or a bioimage.io package. Loads without torch."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from napari_skipseg.errors import ModelError
from napari_skipseg.models.exchange.archive import is_address, is_package
from napari_skipseg.models.transfer import iter_import
from napari_skipseg.progress import Progress


def iter_import_any(
    place: str, name: str = "", folder: Path | None = None, sha256: str = ""
) -> Generator[Progress, None, Path]:
    """Yield while a model is imported; return its folder.

    place: a file that was exported, a model folder, or a bioimage.io package: a zip, a folder or an address, which is
    fetched. name: of the model here; "" = the one that it has. folder: where it is put; None = that of the user's
    models. sha256: of a package's zip, if it is known.

    Raises:
        ModelError: no model, a damaged or unsafe one, a name that is taken, or a folder that cannot be written; a hash
            is given for what is no package.
    """
    if is_address(place) or is_package(Path(place).expanduser()):
        from napari_skipseg.models.exchange.import_package import iter_import_package

        return (yield from iter_import_package(place, name, folder, sha256))
    if sha256:
        raise ModelError(f"A SHA-256 is for a package of bioimage.io, and '{place}' is none: it has hashes of its own.")
    return (yield from iter_import(Path(place).expanduser(), name, folder))
