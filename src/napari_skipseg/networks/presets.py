"""Networks by name: the papers' own settings and our defaults, with their trainable parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_skipseg.networks.specs import GATES, NetworkSpec, ResidualFCNSpec, Skip, UNetSpec


@dataclass(frozen=True)
class Preset:
    """A network by name."""

    name: str
    title: str
    spec: NetworkSpec


PRESETS = (
    Preset("unet", "U-Net, 4 resolutions", UNetSpec()),
    Preset("unet-deep", "U-Net, 5 resolutions", UNetSpec(widths=(32, 64, 128, 256, 512))),
    Preset("residual-fcn", "residual FCN, Table 1 (long and short skips)", ResidualFCNSpec()),
    Preset("residual-fcn-narrow", "the same, narrow projection", ResidualFCNSpec(projection="narrow")),
    Preset("residual-fcn-short", "residual FCN, short skips only", ResidualFCNSpec(skip="none")),
    Preset("residual-fcn-long", "residual FCN, long skips only", ResidualFCNSpec(short_skips=False)),
    Preset("residual-fcn-plain", "residual FCN, no skips", ResidualFCNSpec(skip="none", short_skips=False)),
)


def variants(preset: Preset) -> tuple[NetworkSpec, ...]:
    """Return the preset in 2D and 3D, a U-Net with every gate too."""
    skips: tuple[Skip, ...] = GATES if isinstance(preset.spec, UNetSpec) else (preset.spec.skip,)
    return tuple(replace(preset.spec, dimensions=dimensions, skip=skip) for dimensions in (2, 3) for skip in skips)
