"""A zarr store on disk that hands out no chunk that was cut short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore, WrapperStore

from napari_skipseg.images.zarr_keys import KeyForm
from napari_skipseg.images.zarr_nodes import METADATA, Node

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

BLOSC_HEADER = 16
"""Bytes of the header of a Blosc block; its last four are the length of the block, the least byte first."""


class WholeChunkStore(WrapperStore[LocalStore]):  # type: ignore[misc]  # zarr is not typed for us
    """The files of an array, read-only; a chunk without its end raises ValueError.

    Most codecs find that out by themselves. But Blosc takes no length and reads on behind the end of what it is given,
    whatever lies in memory there; and a file of no bytes, as a power cut leaves it, passes for an empty shard.

    blosc: each file is one Blosc block. forms: how chunks are named that are not where the metadata have them.
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
        if len(found) == 0 or (self._blosc and byte_range is None and len(found) < _blosc_length(found)):
            raise ValueError(f"{key} is cut short")
        return found


def open_store(node: Node, forms: tuple[KeyForm, ...] = ()) -> WholeChunkStore:
    """Return the files of the array `node`, not opened yet. forms: other names that its chunks have."""
    return WholeChunkStore(LocalStore(node.path, read_only=True), _is_blosc(node.array or {}), forms)


def _blosc_length(block: Buffer) -> int:
    start = block[:BLOSC_HEADER].to_bytes()
    return max(BLOSC_HEADER, int.from_bytes(start[-4:], "little"))


def _is_blosc(told: dict[str, Any]) -> bool:
    """Return whether the last thing that is done to a chunk, before it is a file, is Blosc."""
    codecs = told.get("codecs")
    last = codecs[-1] if isinstance(codecs, list) and codecs else told.get("compressor")
    return isinstance(last, dict) and "blosc" in (last.get("name"), last.get("id"))
