"""The networks' specifications: frozen values that load without torch; forms, flags and JSON derive from them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.di2in import DI2INSpec
from napari_skipseg.networks.specs.residual_fcn import TABLE_1, BlockName, BlockOrder, ResidualFCNSpec, Stage
from napari_skipseg.networks.specs.skips import (
    ATTENDING,
    MAPPING,
    SELECTING,
    SKIPS,
    SelectInit,
    Skip,
    SkipSpec,
)
from napari_skipseg.networks.specs.tiramisu import TiramisuSpec
from napari_skipseg.networks.specs.unet import UNetSpec
from napari_skipseg.networks.specs.vnet import VNetSpec

__all__ = [
    "ATTENDING",
    "MAPPING",
    "NETWORK_NAMES",
    "SELECTING",
    "SKIPS",
    "TABLE_1",
    "BlockName",
    "BlockOrder",
    "DI2INSpec",
    "NetworkSpec",
    "ResidualFCNSpec",
    "SelectInit",
    "Skip",
    "SkipSpec",
    "Stage",
    "TiramisuSpec",
    "UNetSpec",
    "VNetSpec",
    "first_fault",
    "spec_from_dict",
    "spec_to_dict",
]

NetworkSpec = UNetSpec | ResidualFCNSpec | VNetSpec | TiramisuSpec | DI2INSpec
NETWORK_NAMES = ("unet", "residual-fcn", "vnet", "tiramisu", "di2in")
_ADAPTER: TypeAdapter[NetworkSpec] = TypeAdapter(Annotated[NetworkSpec, Field(discriminator="network")])


def spec_from_dict(values: dict[str, Any]) -> NetworkSpec:
    """Return the network specification that `values` (parsed JSON) describe.

    Raises:
        SpecError: an unknown network or key, a missing or impossible value.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise SpecError(f"The network settings are not valid: {first_fault(error)}.") from error


def spec_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """Return `spec` as values that JSON can hold; `spec_from_dict` gives the same spec back."""
    values: dict[str, Any] = _ADAPTER.dump_python(spec, mode="json")
    return values


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a pydantic error in words: which key, and why."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the value"
    return f"{place}: {fault['msg']}"
