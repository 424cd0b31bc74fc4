"""The window of all models: a tree of families, the card of one, and what can be done with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices, QImage, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QInputDialog,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QSplitter,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from napari_skipseg.errors import SkipsegError
from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.jobs.messages import CopyModel
from napari_skipseg.models.catalog import free_name, user_folder
from napari_skipseg.models.model_library import (
    LibraryModel,
    NoBinError,
    delete_model,
    list_library,
    put_into_deleted,
    rename_model,
    twins_of,
)
from napari_skipseg.models.transfer import MODEL_ENDING, CopiedModel, add_ending
from napari_skipseg.widgets.forms.dialogs import ask_file, ask_new_file
from napari_skipseg.widgets.forms.fields import FAULT_COLOR, PlainLabel, RichLabel, ScrolledDown, fill_column, set_hint
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.models import card_html, sample_pictures
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, WorkOutcome, in_one_step, start_work
from napari_skipseg.widgets.model_library.compare import Compared, describe_comparison, iter_compare, show_comparison
from napari_skipseg.widgets.segment.checks import SegmentFormValues
from napari_skipseg.wording import in_bytes

if TYPE_CHECKING:
    from napari.components import ViewerModel

COLUMNS = ("Model", "Finds", "Use", "Size", "Date")
_SIZE = (1160, 660)
_ROWS = "QTreeWidget::item { padding: 3px 0px; }"
_MODEL = Qt.ItemDataRole.UserRole
_HINTS = {
    "import": "Add a model from a file that was exported here or elsewhere, or from a model folder",
    "export": "Write the model into one file, to share or to keep",
    "rename": "Give the model a new name; models that were trained from it still know it",
    "duplicate": "Copy the model under a new name",
    "delete": "Move the model to the system's bin",
    "folder": "Open the folder of the model",
    "use": "Choose the model in the Segment tab",
    "compare": "Segment what is on screen with two chosen models, and show where they differ",
}
_TITLES = {
    "import": "Import…",
    "export": "Export…",
    "rename": "Rename…",
    "duplicate": "Duplicate…",
    "delete": "Delete",
    "folder": "Open folder",
    "use": "Use in Segment",
    "compare": "Compare two on the image",
}


class LibraryWindow(JobTab):
    """A window of its own. models_changed: new names by old ones, after a model came, went or got a new name.
    model_wanted: the name of a model to segment with."""

    models_changed = Signal(object)
    model_wanted = Signal(str)

    def __init__(
        self,
        parent: QWidget,
        viewer: ViewerModel,
        engine: EngineLike,
        queue: EngineQueue,
        choices: Callable[[], SegmentFormValues],
    ) -> None:
        super().__init__(queue)
        self.setParent(parent, Qt.WindowType.Window)
        self._viewer, self._engine, self._choices = viewer, engine, choices
        self.models: list[LibraryModel] = []
        self._is_divided = False
        self.setWindowTitle("Model library (SkipSeg)")
        self._lay_out()
        self._connect()
        self.check()

    def _lay_out(self) -> None:
        self.search, self.tree = QLineEdit(), QTreeWidget()
        self.search.setPlaceholderText("Search name, class, licence, card or hash")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search models")
        self.tree.setHeaderLabels(COLUMNS)
        self.tree.setAccessibleName("Models")
        self.tree.setSelectionMode(QTreeWidget.SelectionMode.ExtendedSelection)
        self.tree.header().setStretchLastSection(False)
        self.tree.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.tree.setStyleSheet(_ROWS)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.card, self.pictures = RichLabel(), PlainLabel()
        self.card.setWordWrap(True)
        self.pictures.setWordWrap(True)
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._picture_row = QHBoxLayout()
        self._picture_row.addStretch(1)
        self.buttons = {name: QPushButton(title) for name, title in _TITLES.items()}
        for name, button in self.buttons.items():
            button.setToolTip(_HINTS[name])
        left, right = QWidget(), QWidget()
        fill_column(left, self.search, self.tree)
        fill_column(right, self.pictures, self._picture_row, self.card, margin=9).addStretch(1)
        self.splitter = QSplitter()
        self.splitter.addWidget(left)
        scrolled = ScrolledDown(right)
        scrolled.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.splitter.addWidget(scrolled)
        self.splitter.setSizes([_SIZE[0] // 2, _SIZE[0] // 2])
        grid = QGridLayout()
        for number, button in enumerate(self.buttons.values()):
            grid.addWidget(button, number // 4, number % 4)
        lines = self.progress, self.progress_text, self.cancel_button, self.message
        self.add_column(self.splitter, grid, *lines, stretched=self.splitter)
        self.resize(*_SIZE)

    def _connect(self) -> None:
        self.search.textChanged.connect(self._filter)
        self.tree.itemSelectionChanged.connect(self._on_selected)
        self.tree.itemDoubleClicked.connect(lambda *_: self._use())
        for name, act in (
            ("import", self._ask_what_to_import),
            ("export", self._ask_where_to_export),
            ("rename", self._ask_new_name),
            ("duplicate", self._ask_name_of_copy),
            ("delete", self._ask_to_delete),
            ("folder", lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.chosen()[0].folder)))),
            ("use", self._use),
            ("compare", self.compare),
        ):
            self.buttons[name].clicked.connect(act)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """List the models that there are now."""
        super().showEvent(event)
        self.update_list()

    def update_list(self, choose: str = "") -> None:
        """Read the library again, beside the window as hashes are checked; then choose the model called `choose`."""
        if self.isVisible():
            work = in_one_step("checking the models", list_library)
            start_work(self, work, "Listing the models", on_outcome=partial(self._show, choose), is_quiet=True)

    def _show(self, choose: str, outcome: WorkOutcome) -> None:
        if outcome.fault:
            self.fail(outcome.fault)
            return
        chosen = {choose} if choose else {each.name for each in self.chosen()}
        self.models = outcome.value
        self.tree.blockSignals(True)
        self.tree.clear()
        above: list[QTreeWidgetItem] = []
        for model in self.models:
            item = _item_of(model)
            above = [*above[: model.depth], item]
            if model.depth:
                above[model.depth - 1].addChild(item)
            else:
                self.tree.addTopLevelItem(item)
            item.setSelected(model.name in chosen)
        self.tree.expandAll()
        self.tree.blockSignals(False)
        if not self.chosen() and self.tree.topLevelItemCount():
            self.tree.topLevelItem(0).setSelected(True)
        self._filter()
        if choose:
            self._bring_in_sight()
        self._divide()
        self._show_chosen()
        self.check()

    def _bring_in_sight(self) -> None:
        """Scroll to the model that is selected; a search that hides it ends."""
        for item in self.items():
            if item.isSelected():
                if item.isHidden():
                    self.search.clear()
                self.tree.scrollToItem(item)

    def _divide(self) -> None:
        """Give list and card the width that they need when the window opens; on a small screen both scroll."""
        if self._is_divided:
            return
        self._is_divided = True
        bar = self.tree.verticalScrollBar().sizeHint().width()
        left = self.tree.header().length() + 2 * self.tree.frameWidth() + bar
        right = self.splitter.widget(1).widget().minimumSizeHint().width() + bar
        beside = self.width() - self.splitter.width() + self.splitter.handleWidth()
        width = min(max(left + right + beside, self.width()), self.screen().availableGeometry().width())
        self.resize(width, self.height())
        self.splitter.setSizes([left, width - beside - left])

    def items(self) -> list[QTreeWidgetItem]:
        """Return the rows from top to bottom."""
        return list(self.tree.findItems("", Qt.MatchFlag.MatchContains | Qt.MatchFlag.MatchRecursive))

    def _filter(self) -> None:
        """Hide what the search does not find; the parents of what it finds stay."""
        wanted = self.search.text().casefold().split()

        def update(item: QTreeWidgetItem) -> bool:
            below = [update(item.child(number)) for number in range(item.childCount())]
            text = _searched(item.data(0, _MODEL))
            is_shown = any(below) or all(word in text for word in wanted)
            item.setHidden(not is_shown)
            return is_shown

        for number in range(self.tree.topLevelItemCount()):
            update(self.tree.topLevelItem(number))

    def chosen(self) -> list[LibraryModel]:
        """Return the selected models, in the order of the list."""
        return [item.data(0, _MODEL) for item in self.items() if item.isSelected()]

    def choose(self, *names: str) -> None:
        """Select models by name."""
        for item in self.items():
            item.setSelected(item.data(0, _MODEL).name in names)

    def _on_selected(self) -> None:
        self._show_chosen()
        self.forget_and_check()

    def _show_chosen(self) -> None:
        """Show the card of the first chosen model, and read the patches that are stored with it."""
        chosen = self.chosen()
        self.card.setText("" if not chosen else details_html(chosen[0], self.models))
        self._show_pictures([])
        if len(chosen) == 1 and (model := chosen[0]).description is not None:
            read = partial(sample_pictures, model.folder, model.description)

            def on_outcome(outcome: WorkOutcome) -> None:
                # the card says if a file is damaged
                if not outcome.fault and [each.name for each in self.chosen()] == [model.name]:
                    self._show_pictures(outcome.value)

            work = in_one_step("reading the patches", read)
            start_work(self, work, "Reading patches", on_outcome=on_outcome, is_quiet=True)

    def _show_pictures(self, pictures: list[NDArray[np.uint8]]) -> None:
        while self._picture_row.count() > 1:
            self._picture_row.takeAt(0).widget().deleteLater()
        self.pictures.setText("Training patches that are stored with it, labels in blue:" if pictures else "")
        self.pictures.setVisible(bool(pictures))
        for number, picture in enumerate(pictures):
            label = PlainLabel()
            height, width = picture.shape[:2]
            image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
            label.setPixmap(QPixmap.fromImage(image))
            self._picture_row.insertWidget(number, label)

    def check(self) -> None:
        """Enable what the selection allows."""
        super().check()
        chosen = self.chosen()
        one = chosen[0] if len(chosen) == 1 else None
        idle, is_whole = not self.is_running, one is not None and not one.fault
        is_own = one is not None and not one.is_built_in
        allowed = {
            "import": idle,
            "export": idle and is_whole,
            "rename": idle and is_own,
            "duplicate": idle and is_whole,
            "delete": idle and is_own,
            "folder": one is not None,
            "use": is_whole,
            "compare": idle and len(chosen) == 2 and not any(each.fault for each in chosen),
        }
        for name, is_allowed in allowed.items():
            self.buttons[name].setEnabled(is_allowed)
        why = "Built-in models cannot be changed: duplicate it first" if one is not None and one.is_built_in else ""
        for name in ("rename", "delete"):
            set_hint(self.buttons[name], why or _HINTS[name])
        self.explain("")

    def _ask_what_to_import(self) -> None:
        kinds = f"Models (*{MODEL_ENDING} *.zip model.json);;All files (*)"
        file = ask_file(self, "Import a model", kinds, "models")
        if file is not None:
            # a folder cannot be chosen in a dialog of files: its description stands for it
            place = file.parent if file.name == "model.json" else file
            self.copy_model(CopyModel("import", place), f"Importing {place.name}", "Imported")

    def _ask_where_to_export(self) -> None:
        (model,) = self.chosen()
        kinds = f"A model in one file (*{MODEL_ENDING})"
        file, _ = ask_new_file(self, "Export a model", f"{model.name}{MODEL_ENDING}", kinds, "models")
        if file is None:
            return
        target = add_ending(file, MODEL_ENDING)
        # the dialog has asked whether a file of the typed name may be replaced, but not one with the ending
        question = f"'{target}' is there already. Replace it?"
        if target == file or not target.exists() or self._is_confirmed("Export a model", question):
            self.copy_model(CopyModel("export", model.folder, target), f"Exporting {model.name}", "Exported to")

    def _ask_new_name(self) -> None:
        (model,) = self.chosen()
        name = self._ask_name("Rename a model", model.name)
        if name and name != model.name:
            work = in_one_step("renaming", partial(rename_model, model.folder, name))

            def finish(folder: Path) -> None:
                self._on_changed({model.name: folder.name}, folder.name)

            self.start(work, f"Renaming {model.name}", finish)

    def _ask_name_of_copy(self) -> None:
        (model,) = self.chosen()
        if name := self._ask_name("Duplicate a model", free_name(model.name, user_folder())):
            self.copy_model(CopyModel("duplicate", model.folder, name=name), f"Copying {model.name}", "Copied to")

    def _ask_name(self, title: str, suggested: str) -> str:
        name, is_given = QInputDialog.getText(self, title, "Name of the model", text=suggested)
        return name.strip() if is_given else ""

    def copy_model(self, request: CopyModel, description: str, done: str) -> None:
        """Let the engine export, import or duplicate a model."""

        def finish(copied: CopiedModel) -> None:
            if request.how == "export":
                self.show_message(f"{done} {copied.place.absolute()}.")
                return
            self.show_message(f"{done} {copied.place.name}.")
            self._on_changed({}, copied.place.name)

        work = partial(self._engine.run, request)
        self.start(work, description, finish, waiting_text="waits for the model library")

    def _on_changed(self, renamed: dict[str, str], choose: str = "") -> None:
        self.models_changed.emit(renamed)
        self.update_list(choose)

    def _ask_to_delete(self) -> None:
        (model,) = self.chosen()
        if self._is_confirmed("Delete a model", f"Move the model '{model.name}' to the bin?"):

            def delete() -> str:
                """Return why the model cannot be moved to the bin, "" if it was."""
                try:
                    delete_model(model.folder)
                except NoBinError as error:
                    return str(error)
                return ""

            work = in_one_step("moving to the bin", delete)
            self.start(work, f"Deleting {model.name}", partial(self._on_deleted, model))

    def _on_deleted(self, model: LibraryModel, fault: str) -> None:
        if not fault:
            self.show_message(f"The model '{model.name}' is in the bin.")
            self._on_changed({})
        elif self._is_confirmed("Delete a model", f"{fault} Move it there?"):
            try:
                place = put_into_deleted(model.folder)
            except SkipsegError as error:
                self.fail(str(error))
                return
            self.show_message(f"The model '{model.name}' is in '{place}'.")
            self._on_changed({})
        else:
            self.show_message(fault, FAULT_COLOR)

    def _is_confirmed(self, title: str, question: str) -> bool:
        answer = QMessageBox.question(self, title, without_bidi_marks(question))
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _use(self) -> None:
        chosen = self.chosen()
        if len(chosen) == 1 and not chosen[0].fault:
            self.model_wanted.emit(chosen[0].name)

    def compare(self) -> None:
        """Compare the two chosen models on what is on screen."""
        choices = self._choices()
        described = [(each.folder, each.description) for each in self.chosen() if each.description is not None]
        layer = choices.layer
        if layer is None:
            self.fail("There is no image to compare the models on: open one, and choose it in the Segment tab.")
            return
        (first, one), (second, other) = described
        try:
            work = iter_compare(self._viewer, self._engine, choices, ((first, one), (second, other)))
        except SkipsegError as error:
            self.fail(str(error))
            return

        def finish(compared: Compared) -> None:
            show_comparison(self._viewer, layer, compared)
            self.show_message(describe_comparison(compared))

        self.start(work, "Comparing two models", finish, waiting_text="waits for the comparison")


def _item_of(model: LibraryModel) -> QTreeWidgetItem:
    description = model.description
    classes = "" if description is None else ", ".join(description.class_names)
    use = "damaged" if model.fault else model.mark or ("" if description is None else description.card.license)
    date = "built in" if model.is_built_in else time.strftime("%Y-%m-%d", time.localtime(model.changed))
    item = QTreeWidgetItem([model.name, classes, use, in_bytes(model.size), date])
    item.setData(0, _MODEL, model)
    item.setTextAlignment(3, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    hint = model.fault or (description.card.summary if description is not None else "")
    for column in range(len(COLUMNS)):
        item.setToolTip(column, without_bidi_marks(hint))
    return item


def _searched(model: LibraryModel) -> str:
    """Return the text in which a search looks for a model."""
    if (description := model.description) is None:
        return f"{model.name} damaged".casefold()
    card = description.card
    parts = (
        *(model.name, model.mark, "damaged" if model.fault else "", *description.class_names),
        *(description.spec.network, description.spec.skip, card.summary, card.data, card.license),
        *(description.weights_sha256, description.training.parent or ""),
    )
    return " ".join(parts).casefold()


def details_html(model: LibraryModel, library: list[LibraryModel]) -> str:
    """Return the family of a model, what is wrong with it, and its card, as HTML."""
    lines = [f"<p style='background-color: #a03038; color: white'>{escape(model.fault)}</p>"] if model.fault else []
    if model.description is None:
        return f"<h2>{escape(model.name)}</h2>{''.join(lines)}"
    children = [each.name for each in library if each.parent == model.name and each.depth]
    family = {
        "Trained from": model.trained_from,
        "Started from it": ", ".join(children),
        "Same weights": ", ".join(twins_of(model, library)),
    }
    lines += [f"<p><b>{title}</b> {escape(text)}</p>" for title, text in family.items() if text]
    heading, end, facts = card_html(model.description).partition("</h2>")
    return f"{heading}{end}{''.join(lines)}{facts}"
