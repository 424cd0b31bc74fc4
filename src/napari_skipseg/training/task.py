"""The contract between the training loop in `fit` and each kind of training: its pace and its task."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Contract

from torch import Tensor, nn

from napari_skipseg.networks.network import Network
from napari_skipseg.training.progress import ValidationPicture
from napari_skipseg.training.protocols import Protocol


@dataclass(frozen=True)
class TrainingPace:
    """The length and rates of a fit; the names are those of `TrainSettings`.

    shown_every: steps over which a point of the training loss is the mean; 0 = 10. minutes: after which it ends and
    keeps the best; 0 = never. The learning rate then falls with time if that runs faster than the steps, so that a fit
    that runs out of time ends at a low rate too.
    """

    steps: int
    training_protocol: Protocol
    validate_every: int
    accumulate: int = 1
    patience: int = 0
    epoch: int = 0
    seed: int = 0
    shown_every: int = 0
    minutes: float = 0.0


@dataclass(frozen=True)
class Validation:
    """How good a network is on what is held out.

    loss: the weights with the lowest one are the best. values: for more curves, such as "held-out Dice". picture: one
    held-out patch, whose progress the loop fills in.
    """

    loss: float
    values: dict[str, float] = field(default_factory=dict)
    picture: ValidationPicture | None = None


class TrainingTask(Contract):
    """One kind of training, as the loop uses it."""

    @property
    def pace(self) -> TrainingPace:
        """The length and rates of the fit."""

    def record(self) -> dict[str, Any]:
        """Return the record of this run for its checkpoints, as values that JSON can hold."""

    def is_same_run(self, written: dict[str, Any]) -> bool:
        """Return whether a checkpoint with the record `written` is one of this task."""

    def parameters(self, network: Network) -> Sequence[nn.Parameter]:
        """Return the parameters to train; the others do not change."""

    def set_modes(self, network: Network) -> None:
        """Put each module into training or evaluation mode, before each step."""

    def loss(self, network: Network, number: int) -> Tensor:
        """Return the loss of part `number` of all batches: a function of number, weights and torch's random state.

        With several processes and parts, step s takes the parts (s · processes + rank) · accumulate and on.
        """

    def iter_validate(self, network: Network) -> Generator[tuple[int, int], None, Validation | None]:
        """Yield (parts that are done, all parts) between the parts of what is held out.

        Return how good the network, in evaluation mode, is on all of it; None if nothing is held out. Of several
        processes only the first one validates. Torch's random state may not matter.
        """
