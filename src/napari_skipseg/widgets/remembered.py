"""Which choices of the tabs are remembered between two starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QCheckBox, QComboBox

from napari_skipseg.widgets.finetune.form import FinetuneForm
from napari_skipseg.widgets.finetune.train_form import TrainForm
from napari_skipseg.widgets.forms.fields import Collapsible, choose_value
from napari_skipseg.widgets.forms.option_rows import OptionRows
from napari_skipseg.widgets.objects.form import ObjectsForm
from napari_skipseg.widgets.segment.form import SegmentForm
from napari_skipseg.widgets.settings import PanelSettings, preference

if TYPE_CHECKING:
    from qtpy.QtWidgets import QTabWidget

_PAUSE = 500
"""Milliseconds from a change to the file: a slider that moves changes many times a second."""
AS_LAST_TIME = "as last time"
MODEL_GONE = "The model '{}' of the last session is not there any longer: {} is chosen."
_SEGMENT_OPTIONS = ("tile", "average", "planes", "samples", "dropout", "padding")
"""Not *invert*: it suits one image, and would spoil the next one."""
_OBJECT_OPTIONS = ("seeds", "seed_distance", "merge", "smallest", "largest", "fill_holes", "border")
"""Method, planes and threshold are suggested for each class."""
_FINETUNE_OPTIONS = ("remember", "steps", "minutes", "learning_rate", "loss", "batch_norm", "seed")
"""Not *held out*: the slices are those of one image."""


class RememberedChoices(QObject):  # type: ignore[misc]
    """Shows the choices of the last session in the tabs, and writes each change soon after it was made."""

    def __init__(self, owner: QObject, settings: PanelSettings) -> None:
        super().__init__(owner)
        self._settings = settings
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_PAUSE)
        self._soon.timeout.connect(settings.save)

    def put(self, key: str, value: Any) -> None:
        """Remember a value; None forgets it."""
        self._settings.put(key, value)
        self._soon.start()

    def keep(self, key: str, read: Callable[[], Any], show: Callable[[Any], object], *signals: Any) -> None:
        """Show the value of a key if there is one, and remember what `read` returns at each of the signals."""
        if (value := self._settings.get(key)) is not None:
            show(value)
        for signal in signals:
            signal.connect(lambda *_: self.put(key, read()))

    def keep_tabs(self, tabs: QTabWidget) -> None:
        """Remember which tab is in front."""

        def show(name: Any) -> None:
            names = [tabs.tabText(number) for number in range(tabs.count())]
            if name in names:
                tabs.setCurrentIndex(names.index(name))

        self.keep("window/tab", lambda: tabs.tabText(tabs.currentIndex()), show, tabs.currentChanged)

    def keep_segment(self, form: SegmentForm, say: Callable[[str], None]) -> None:
        """Remember model, device, options, and the thresholds of each model. say: shows that a model is gone."""

        def show_model(name: Any) -> None:
            form.choose_model(name)
            if isinstance(name, str) and form.model.currentData() not in (name, None):
                say(MODEL_GONE.format(name, form.model.currentData()))

        self.keep("segment/model", form.model.currentData, show_model, form.changed)
        self.keep("segment/device", form.device.currentData, _if_text(form.want_device), form.device.activated)
        if (preferred := preference("device", AS_LAST_TIME)) != AS_LAST_TIME:
            form.want_device(preferred)
        self._keep_options("segment/options", form.options.rows, _SEGMENT_OPTIONS)
        self._keep_fold("segment", form.options)
        self._thresholds = _ThresholdsByModel(self, form, self._settings)

    def keep_finetune(self, form: FinetuneForm) -> None:
        """Remember what is trained, and the options."""
        fold = form.fold
        reaches = {str(reach): button for reach, button in form.reaches.items()}

        def read_reach() -> str:
            return next(name for name, button in reaches.items() if button.isChecked())

        def show_reach(name: Any) -> None:
            if isinstance(name, str) and name in reaches:
                reaches[name].setChecked(True)

        self.keep("finetune/reach", read_reach, show_reach, *(button.clicked for button in reaches.values()))
        self._keep_options("finetune/options", fold.rows, _FINETUNE_OPTIONS)
        self._keep_choice("finetune/augmentation", fold.augment)
        self._keep_fold("finetune", fold)

    def keep_training(self, scratch: TrainForm, fold: Collapsible) -> None:
        """Remember the form for training from scratch, and whether it is open."""
        self._keep_fold("scratch", fold)
        for name, combo in (("kind", scratch.kind), ("network", scratch.network), ("dimensions", scratch.dimensions)):
            self._keep_choice(f"scratch/{name}", combo)
        for name, folder in (("images", scratch.image_folder), ("labels", scratch.label_folder)):
            show, changed = _if_text(folder.text.setText), folder.text.textChanged
            self.keep(f"scratch/{name}", folder.text.text, show, changed)
        self._keep_options("scratch/options", scratch, ("steps",))

    def keep_others(self, objects: ObjectsForm, all_maps: QCheckBox) -> None:
        """Remember how objects are found, and whether all attention maps are shown."""
        self._keep_options("objects/options", objects, _OBJECT_OPTIONS)

        def show(value: Any) -> None:
            all_maps.setChecked(value is True)

        self.keep("inspect/all maps", all_maps.isChecked, show, all_maps.toggled)

    def _keep_options(self, key: str, rows: OptionRows, names: Iterable[str]) -> None:
        """Remember those of the options that are not the defaults."""

        def read() -> dict[str, Any]:
            return {name: value for name, value in rows.changed_values().items() if name in names}

        def show(values: Any) -> None:
            if isinstance(values, dict):
                rows.show_remembered(values, names)

        self.keep(key, read, show, rows.edited)

    def _keep_choice(self, key: str, combo: QComboBox) -> None:
        def show(value: Any) -> None:
            if isinstance(value, str | int):
                choose_value(combo, value)

        self.keep(key, combo.currentData, show, combo.activated)

    def _keep_fold(self, key: str, fold: Collapsible) -> None:
        """Remember whether a fold is open."""

        def show(is_open: Any) -> None:
            if is_open is True:
                fold.expand(animate=False)

        self.keep(f"window/open {key}", fold.isExpanded, show, fold.toggled)


class _ThresholdsByModel:
    """Shows the thresholds that were chosen for a model whenever that is chosen, and remembers new ones."""

    def __init__(self, choices: RememberedChoices, form: SegmentForm, settings: PanelSettings) -> None:
        self._choices, self._form, self._settings = choices, form, settings
        self._model = ""
        self._on_changed()
        form.changed.connect(self._on_changed)
        form.threshold_moved.connect(self._on_moved)

    def _on_changed(self) -> None:
        model = self._form.read().model
        name = "" if model is None else model.name
        if name == self._model:
            return
        self._model = name
        found = self._settings.get(_THRESHOLDS.format(name))
        if isinstance(found, dict):
            shares = {key: each for key, each in found.items() if isinstance(each, int | float) and 0 <= each <= 1}
            self._form.threshold.show_values(shares)

    def _on_moved(self) -> None:
        choices = self._form.read()
        if choices.model is not None and choices.model.name == self._model:
            own = {name: round(value, 2) for name, value in choices.model.class_thresholds.items()}
            shown = {name: round(value, 2) for name, value in choices.thresholds.items()}
            moved = {name: value for name, value in shown.items() if value != own.get(name)}
            self._choices.put(_THRESHOLDS.format(self._model), moved or None)


_THRESHOLDS = "thresholds/{}"


def _if_text(show: Callable[[str], object]) -> Callable[[Any], None]:
    def show_text(value: Any) -> None:
        if isinstance(value, str):
            show(value)

    return show_text
