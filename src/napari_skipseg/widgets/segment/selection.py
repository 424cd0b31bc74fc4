"""Layers that the user selects in the layer list, as opposed to those that napari selects itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_skipseg.widgets.forms.fields import ConnectionGroup

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


class SelectedLayers(QObject):  # type: ignore[misc]
    """Emits `chosen` for a layer that the user selects.

    napari selects layers itself, too: a new one when it is added, and one beside a layer that is removed. These are not
    emitted. Both happen within one turn of the event loop, so a selection counts if it still stands after it.
    """

    chosen = Signal(object)

    def __init__(self, owner: QObject, viewer: ViewerModel, links: ConnectionGroup) -> None:
        super().__init__(owner)
        self._viewer = viewer
        self._candidate: Layer | None = None
        self._list_changed = False
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.timeout.connect(self._settle)
        links.tie(viewer.layers.events.inserted, self._on_list_changed)
        links.tie(viewer.layers.events.removed, self._on_list_changed)
        links.tie(viewer.layers.selection.events.active, self._on_active)

    def _on_list_changed(self, event: Any) -> None:
        self._list_changed = True
        self._settling.start(0)

    def _on_active(self, event: Any) -> None:
        self._candidate = event.value
        self._settling.start(0)

    def _settle(self) -> None:
        layer, list_changed = self._candidate, self._list_changed
        self._candidate, self._list_changed = None, False
        if layer is not None and not list_changed and self._viewer.layers.selection.active is layer:
            self.chosen.emit(layer)
