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
    """Return the first fault of a pydantic error in words: which setting, and why."""
    fault = error.errors()[0]
    *parents, name = fault["loc"] or ("the value",)
    place = ".".join(str(part) for part in (*parents, name) if part is name or part not in NETWORK_NAMES)
    found, context = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "literal_error":
            return f"{place} is {found!r}: choose {context['expected']}"
        case "union_tag_invalid":
            return f"{_choice(fault['loc'], context)} is {context['tag']!r}: choose one of {context['expected_tags']}"
        case "union_tag_not_found":
            return f"{_choice(fault['loc'], context)} is missing"
        case "unexpected_keyword_argument":
            return f"there is no setting called {place}: remove it, or correct its name"
        case "missing":
            return f"{place} is missing"
    return f"{place}: {fault['msg']}"


def _choice(parents: tuple[int | str, ...], context: dict[str, Any]) -> str:
    """Return the place of the setting that chooses among kinds, such as the network."""
    return ".".join([*map(str, parents), context["discriminator"].strip("'")])
