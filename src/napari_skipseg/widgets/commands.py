"""Commands of napari's palette and menus: each opens the panel at its tab with the selected layer, and acts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QApplication, QComboBox, QDockWidget, QWidget

from napari_skipseg.widgets.forms.job_tab import pop_up, pop_up_fault
from napari_skipseg.widgets.layers.results import KEY, image_of
from napari_skipseg.widgets.objects.sources import result_layer, without_wrapper
from napari_skipseg.widgets.panel import SkipSegPanel, open_page
from napari_skipseg.widgets.segment.checks import find_faults
from napari_skipseg.widgets.settings import open_settings

if TYPE_CHECKING:
    from napari.layers import Layer

PANEL = "napari-skipseg.panel"
NOTHING_SELECTED = "No layer is selected: select {} in the layer list first."
AN_IMAGE, OBJECTS = "an image", "a layer of objects or labels"
A_RESULT = "a segmented image, a probability or labels"
IS_RUNNING = "The {} tab is at work: wait until it has finished, or cancel it."
SETTINGS_FORGOTTEN = "The settings are forgotten: the next start begins with the defaults."
CANNOT_FORGET = "The file of the settings cannot be removed: remove '{}'."


def segment_layer() -> None:
    """Segment the selected image."""
    panel = open_panel("Segment")
    if _choose_image(panel) and _can_run(panel):
        panel.segment_tab.segment()


def preview_layer() -> None:
    """Segment what is on screen of the selected image."""
    panel = open_panel("Segment")
    if _choose_image(panel) and _can_run(panel):
        panel.segment_tab.preview()


def correct_layer() -> None:
    """Open the corrections of the selected image."""
    panel = open_panel("Correct")
    if _choose_image(panel):
        _press(panel.correct_tab.correct_button, panel.correct_tab)


def finetune_model() -> None:
    """Fine-tune the chosen model with the corrections of the selected image."""
    panel = open_panel("Fine-tune")
    if _choose_image(panel):
        _press(panel.finetune_tab.tune_button, panel.finetune_tab)


def find_objects_in_layer() -> None:
    """Find the objects in the selected layer, or in the result of the selected image."""
    panel = open_panel("Objects")
    tab, layer = panel.objects_tab, _selected(panel)
    if layer is None:
        tab.fail(NOTHING_SELECTED.format(A_RESULT))
        return
    probability = result_layer(panel.viewer, panel.segment_tab.results, without_wrapper(layer))
    is_chosen = any(_choose(tab.form.layer, each) for each in (probability, layer) if each is not None)
    if is_chosen:
        _press(tab.find_button, tab)
    else:
        tab.fail(f"'{layer.name}' has no objects to find: segment it first, or select {A_RESULT}.")


def proofread_objects() -> None:
    """Open the selected objects or labels to be edited."""
    panel = open_panel("Proofread")
    tab, layer = panel.proofread_tab, _selected(panel)
    tab.choice.opening.emit()
    if layer is None:
        tab.fail(NOTHING_SELECTED.format(OBJECTS))
    elif tab.opened is not None and tab.layers is not None and without_wrapper(layer) == tab.layers.layer:
        tab.show_message("These objects are being proofread already.")
    elif _choose(tab.choice, layer):
        tab.open()
    else:
        tab.fail(f"'{layer.name}' cannot be proofread: select {OBJECTS}.")


def inspect_model() -> None:
    """Look into the chosen model, over the selected image if there is one."""
    panel = open_panel("Inspect")
    if (layer := _selected(panel)) is not None:
        _choose(panel.segment_tab.form.image, _image_behind(panel, layer))


def open_batch() -> None:
    """Open the form for a folder of images."""
    open_panel("Batch")


def show_help() -> None:
    """Open the documentation, at the page of the tab in front if the panel is open."""
    panel = _find_panel()
    open_page("" if panel is None else panel.tabs.tabText(panel.tabs.currentIndex()))


def forget_settings() -> None:
    """Forget all choices that are remembered between two starts."""
    settings = open_settings()
    if settings.forget():
        pop_up(SETTINGS_FORGOTTEN)
    else:
        pop_up_fault(CANNOT_FORGET.format(settings.file))


def open_panel(tab: str) -> SkipSegPanel:
    """Return the panel of the window in front, opened if it is not, with this tab in front."""
    panel = _find_panel() or _add_panel()
    above: QWidget | None = panel
    while above is not None and not isinstance(above, QDockWidget):
        above = above.parentWidget()
    if above is not None:
        above.show()
        above.raise_()
    panel.show_tab(tab)
    return panel


def _add_panel() -> SkipSegPanel:
    """Open the panel as napari's menu does: by any other way its dock has another name, and the menu opens one more."""
    from app_model import Application

    app = Application.get_app("napari")
    if app is not None and PANEL in app.commands:
        app.commands.execute_command(PANEL).result()
    if (panel := _find_panel()) is None:
        _, panel = _viewer().window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    return panel


def _viewer() -> Any:
    import napari

    return napari.current_viewer()


def _find_panel() -> SkipSegPanel | None:
    """Return the panel of the window in front, None if it was not opened."""
    viewer = without_wrapper(_viewer())
    # napari names the dock differently if it is opened by its menu, so its name does not find it
    windows = QApplication.topLevelWidgets()
    panels = [panel for window in windows for panel in window.findChildren(SkipSegPanel)]
    return next((panel for panel in panels if without_wrapper(panel.viewer) is viewer), None)


def _selected(panel: SkipSegPanel) -> Layer | None:
    layer: Layer | None = panel.viewer.layers.selection.active
    return layer


def _choose_image(panel: SkipSegPanel) -> bool:
    """Choose the selected image, or that of the selected result or corrections; say what to do if there is none."""
    layer, tab = _selected(panel), panel.tabs.currentWidget().widget()
    if layer is None:
        tab.fail(NOTHING_SELECTED.format(AN_IMAGE))
        return False
    if _choose(panel.segment_tab.form.image, _image_behind(panel, layer)):
        return True
    tab.fail(f"'{layer.name}' is no image that can be segmented: select {AN_IMAGE} in the layer list first.")
    return False


def _image_behind(panel: SkipSegPanel, layer: Layer) -> Layer:
    """Return the image of a result or of corrections; any other layer itself."""
    source = image_of(str(layer.metadata.get(KEY, {}).get("source", "")))
    key = layer.metadata.get(KEY, {}).get("corrections")
    for session in panel.correct_tab.sessions:
        if key is not None and session.key == key:
            source = str(session.layers.image.unique_id)
    return next((each for each in panel.viewer.layers if str(each.unique_id) == source), layer)


def _choose(combo: QComboBox, layer: Layer) -> bool:
    """Choose a layer as a user would; return whether it is offered."""
    opening = getattr(combo, "opening", None)
    if opening is not None:
        opening.emit()
    for number in range(combo.count()):
        offered = combo.itemData(number)
        if offered is not None and without_wrapper(offered) is without_wrapper(layer):
            combo.setCurrentIndex(number)
            combo.activated.emit(number)
            return True
    return False


def _can_run(panel: SkipSegPanel) -> bool:
    """Return whether the Segment tab can start; else say why not."""
    tab = panel.segment_tab
    faults = list(find_faults(tab.form.read()).values())
    if tab.is_running:
        tab.show_message(IS_RUNNING.format("Segment"))
    elif faults:
        tab.fail(faults[0])
    return not tab.is_running and not faults


def _press(button: Any, tab: Any) -> None:
    """Press a button; if it is disabled, show the reason in a notification too."""
    if tab.is_running:
        pop_up(tab.progress_text.text() or "This tab is at work.")
    elif button.isEnabled():
        button.click()
    elif tab.message.text():
        pop_up_fault(tab.message.text())
