"""The files of a zarr array as zarr reads them, each checked for its length. Imports zarr, which takes 0.15 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.storage import LocalStore, WrapperStore

from napari_skipseg.images.zarr.chunk_files import BLOSC_HEADER, KeyForm, blosc_length
from napari_skipseg.images.zarr.metadata import METADATA, Node

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class WholeChunkStore(WrapperStore[LocalStore]):  # type: ignore[misc]  # zarr is not typed for us
    """The files of an array, read-only; a truncated chunk raises ValueError.

    Most codecs detect truncation themselves. But Blosc does not check the length and reads memory after the end of its
    input; and an empty file, which a power cut can leave, looks like an empty shard.

    blosc: each file is one Blosc block. forms: forms of chunk names that differ from the metadata.
    """

    def __init__(self, store: LocalStore, blosc: bool = False, forms: tuple[KeyForm, ...] = ()) -> None:
        super().__init__(store)
        self._blosc, self._forms = blosc, forms

    def _with_store(self, store: LocalStore) -> WholeChunkStore:
        return WholeChunkStore(store, self._blosc, self._forms)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is stored under `key`, None where there is nothing."""
        found = await super().get(key, prototype, byte_range)
        for form in self._forms:
            if found is None and form.rename(key) != key:
                found = await super().get(form.rename(key), prototype, byte_range)
        if found is None or key.rpartition("/")[2] in METADATA:
            return found
        if len(found) == 0 or (
            self._blosc and byte_range is None and len(found) < blosc_length(found[:BLOSC_HEADER].to_bytes())
        ):
            raise ValueError(f"{key} is cut short")
        return found


def open_store(node: Node, forms: tuple[KeyForm, ...] = ()) -> WholeChunkStore:
    """Return the files of the array `node`, not opened yet. forms: other names that its chunks have."""
    metadata = node.array or {}
    codecs = metadata.get("codecs")
    last = codecs[-1] if isinstance(codecs, list) and codecs else metadata.get("compressor")
    is_blosc = isinstance(last, dict) and "blosc" in (last.get("name"), last.get("id"))
    return WholeChunkStore(LocalStore(node.path, read_only=True), is_blosc, forms)
