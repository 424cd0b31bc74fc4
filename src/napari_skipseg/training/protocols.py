"""The training protocols: optimiser, rates and first weights by name. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProtocolName = Literal["modern", "adadelta-glorot", "rmsprop-he"]
OptimizerName = Literal["adamw", "adadelta", "rmsprop"]
InitialiserName = Literal["own", "glorot-uniform", "he-normal"]
ScheduleName = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Protocol:
    """One way of training: optimiser, rate, decay, first weights.

    decay: share of past squares in the running means of the optimiser (ρ of Adadelta and RMSprop, second β of AdamW).
    epsilon: keeps the optimiser's division finite. weight_decay: on convolution kernels only, as torch counts it.
    initialiser: of all convolutions, biases 0; "own" leaves each network's. schedule: "cosine" falls to 0 after the
    rise, "constant" stays. warm_up: share of the steps over which the rate rises from 0.
    """

    name: ProtocolName
    title: str
    source: str
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    decay: float
    epsilon: float
    initialiser: InitialiserName
    schedule: ScheduleName
    warm_up: float


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "modern",
            "AdamW, rising then falling as half a cosine",
            "this package, chosen by measurement",
            "adamw",
            learning_rate=1.5e-3,
            weight_decay=1e-4,
            decay=0.999,
            epsilon=1e-8,
            initialiser="own",
            schedule="cosine",
            warm_up=0.05,
        ),
        Protocol(
            "adadelta-glorot",
            "Adadelta at a constant rate from Glorot's uniform weights",
            "Asgari Taghanaki et al. 2019, section 2, Training and implementation details",
            "adadelta",
            learning_rate=1.0,
            weight_decay=0.0,
            decay=0.95,
            epsilon=1e-8,
            initialiser="glorot-uniform",
            schedule="constant",
            warm_up=0.0,
        ),
        Protocol(
            "rmsprop-he",
            "RMSprop at a constant rate from He's normal weights, with weight decay",
            "Drozdzal et al. 2016, section 2, with rho and epsilon of the authors' code; Keras adds the paper's decay "
            "to the loss as 0.001 Σw², which is torch's weight_decay of 0.002",
            "rmsprop",
            learning_rate=1e-3,
            weight_decay=2e-3,
            decay=0.9,
            epsilon=1e-8,
            initialiser="he-normal",
            schedule="constant",
            warm_up=0.0,
        ),
    )
}
