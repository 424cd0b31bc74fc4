"""The layers of a file that holds several images: one image is on show, the others are hidden with their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_skipseg.widgets.layers.results import KEY, image_of, is_result

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

ONE_OF = "one_of"
"""The key in `layer.metadata["skipseg"]` of the file that holds several images, of which the layer shows one."""
_BEHIND = "behind"
"""The key of a layer that is hidden as long as another image of its file is on show."""


def show_alone(viewer: ViewerModel, layer: Layer) -> None:
    """Show an image and its results, and hide the other images of its file with theirs.

    What the user hid by himself stays hidden when its image is on show again. Nothing changes for an image whose file
    holds no other one.
    """
    told = layer.metadata.get(KEY, {})
    if not told.get(ONE_OF):
        return
    images = {
        str(each.unique_id): each.metadata[KEY]["opened"]
        for each in viewer.layers
        if each.metadata.get(KEY, {}).get(ONE_OF) == told[ONE_OF]
    }
    for each in viewer.layers:
        image = image_of(each.metadata[KEY]["source"]) if is_result(each) else str(each.unique_id)
        if image not in images:
            continue
        if images[image] == told["opened"]:
            if each.metadata[KEY].pop(_BEHIND, False) or each is layer:
                each.visible = True
        elif each.visible:
            each.visible = False
            each.metadata[KEY][_BEHIND] = True
