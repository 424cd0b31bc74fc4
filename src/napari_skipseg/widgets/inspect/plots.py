"""A model in plots: the channels that its gates turned off, how its weights moved in training, its loss."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.selection import GateSelection, gate_place
from napari_skipseg.networks.specs import ATTENDING, SELECTING
from napari_skipseg.widgets.forms.fields import FreshCombo, PlainLabel, RichLabel, fill_column
from napari_skipseg.widgets.forms.plots import ChannelPlot, CurvesPlot, WeightUpdatePlot, theme_colors

SELECT_HINT = f"Models whose skip is {' or '.join(SELECTING)} select channels."


class ModelPlots(QWidget):  # type: ignore[misc]
    """Channels of a gate that is chosen, weight updates, curves; a sentence if there is nothing to plot.

    gate_changed: another gate was chosen. channel_chosen: a channel of it was clicked.
    """

    gate_changed = Signal()
    channel_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.gate = FreshCombo()
        self.gate.setAccessibleName("Gate")
        self.channels, self.updates, self.curves = ChannelPlot(), WeightUpdatePlot(), CurvesPlot()
        self.channels_note, self.updates_note, self.curves_note = (_note() for _ in range(3))
        self.updates_unit = PlainLabel("mean |W_end − W_begin|")
        self._selection: dict[str, GateSelection] = {}
        self._description: ModelDescription | None = None
        channels = _heading("Channels", self.gate), self.channels, self.channels_note
        updates = _heading("Weight updates", self.updates_unit), self.updates, self.updates_note
        fill_column(self, *channels, *updates, _heading("Curves"), self.curves, self.curves_note)
        self.gate.activated.connect(self._show_gate)
        self.gate.activated.connect(lambda _: self.gate_changed.emit())
        self.channels.channel_chosen.connect(self.channel_chosen)

    def use_theme(self, name: str) -> None:
        """Draw in the colours of napari's theme of that name."""
        colors = theme_colors(name)
        for plot in (self.channels, self.updates, self.curves):
            plot.use(colors)

    def show_model(self, description: ModelDescription, selection: tuple[GateSelection, ...]) -> None:
        """Show a model and the select weights of its gates."""
        self._description = description
        self._selection = {gate.place: gate for gate in selection}
        places = gate_places(description, selection)
        self.gate.offer([(place, place) for place in places], self.gate.currentData())
        self.gate.setVisible(bool(places))
        self._show_gate()
        updates = description.training.updates
        for widget in (self.updates, self.updates_unit):
            widget.setVisible(bool(updates))
        self.updates_note.setVisible(not updates)
        self.updates_note.setText(
            "This training did not record them. A model that is trained in a shell with --epoch N records them."
        )
        if updates:
            self.updates.show_updates(updates)
        curves = {name: points for name, points in description.training.curves.items() if points and "loss" in name}
        self.curves.setVisible(bool(curves))
        self.curves_note.setVisible(not curves)
        self.curves_note.setText("This model's training recorded no loss.")
        if curves:
            self.curves.show_curves(curves)

    def _show_gate(self, *_: object) -> None:
        place = self.gate.currentData()
        gate = self._selection.get(str(place))
        self.channels.setVisible(gate is not None)
        if gate is not None:
            self.channels.show_gate(gate)
            self.channels_note.setText(describe_gate(gate))
        elif place is not None:
            self.channels_note.setText("This gate attends to all its channels and selects none. " + SELECT_HINT)
        elif self._description is not None:
            self.channels_note.setText(why_no_gates(self._description))


def gate_places(description: ModelDescription, selection: tuple[GateSelection, ...]) -> list[str]:
    """Return the places of a model's gates that can be inspected: long skips, finest first, then dense blocks."""
    gated = (*SELECTING, *ATTENDING)
    skips = enumerate(description.spec.skips)
    places = [gate_place(f"gates.{level}", description) for level, skip in skips if skip in gated]
    return [*places, *(gate.place for gate in selection if gate.place not in places)]


def why_no_gates(description: ModelDescription) -> str:
    """Return why a model without gates has nothing to show."""
    skips = ", ".join(dict.fromkeys(description.spec.skips))
    return (
        f"{description.name} has no gates that select or attend (its skip is {skips}): nothing to show. {SELECT_HINT}"
    )


def describe_gate(gate: GateSelection) -> str:
    """Return how many channels are off, and how many were when training began."""
    count = len(gate.weights)
    off = f"{round(gate.fraction_off * count)} of {count} channels are off ({100 * gate.fraction_off:.0f} %, orange)"
    start = gate.fraction_off_at_start
    if start is None:
        return f"{off}; how many were off before training was not recorded."
    return f"{off}; {100 * start:.0f} % at the start (grey)."


def _heading(text: str, beside: QWidget | None = None) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setContentsMargins(0, 4, 0, 0)
    row.addWidget(RichLabel(f"<b>{text}</b>"))
    row.addStretch(1)
    if beside is not None:
        row.addWidget(beside, int(isinstance(beside, FreshCombo)))
    return row


def _note() -> PlainLabel:
    label = PlainLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
