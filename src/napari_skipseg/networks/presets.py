"""Networks by name: the papers' own settings and our defaults, with their trainable parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs import (
    SKIPS,
    TABLE_1,
    DI2INSpec,
    NetworkSpec,
    ResidualFCNSpec,
    Skip,
    Stage,
    TiramisuSpec,
    UNetSpec,
    VNetSpec,
)


@dataclass(frozen=True)
class Preset:
    """A network by name, and the skips it is listed with; of none, its own alone."""

    name: str
    title: str
    spec: NetworkSpec
    skips: tuple[Skip, ...] = ()


def _main_stages(block: str, *repetitions: int) -> dict[str, object]:
    """Return the stages of Table 1 behind the first, of another block or repetition (Drozdzal, figure 4)."""
    stages = [Stage(block, width, times) for width, times in zip((32, 64, 128, 256), repetitions, strict=True)]  # type: ignore[arg-type]
    return {"stages": (TABLE_1[0], *stages[:3]), "across": stages[3]}


def _residual(name: str, title: str, **settings: object) -> Preset:
    return Preset(f"residual-fcn{name}", f"residual FCN, {title}", ResidualFCNSpec(**settings))  # type: ignore[arg-type]


PRESETS = (
    Preset("unet", "U-Net, 4 resolutions", UNetSpec(), SKIPS),
    Preset("unet-deep", "U-Net, 5 resolutions", UNetSpec(widths=(32, 64, 128, 256, 512)), SKIPS),
    Preset("unet-rgb", "U-Net, 4 resolutions, three input channels", UNetSpec(in_channels=3), SKIPS),
    Preset("vnet", "V-Net, Milletari et al. 2016", VNetSpec(), SKIPS),
    Preset("di2in", "DI2IN, as the SAT paper counts it", DI2INSpec(), SKIPS),
    Preset("fc-densenet103", "Tiramisu, FC-DenseNet103", TiramisuSpec(), SKIPS),
    Preset("fc-densenet67", "Tiramisu, FC-DenseNet67", TiramisuSpec(layers=(5,) * 5, bottom_layers=5), SKIPS),
    Preset(
        "fc-densenet56", "Tiramisu, FC-DenseNet56", TiramisuSpec(growth=12, layers=(4,) * 5, bottom_layers=4), SKIPS
    ),
    Preset("residual-fcn", "residual FCN, Table 1 (long and short skips)", ResidualFCNSpec(), SKIPS),
    _residual("-narrow", "Table 1, narrow projection", projection="narrow"),
    _residual("-short", "short skips only", skip="none"),
    _residual("-long", "long skips only", short_skips=False),
    _residual("-long-narrow", "long skips only, narrow projection", short_skips=False, projection="narrow"),
    _residual("-plain", "no skips", skip="none", short_skips=False),
    _residual("-concat", "long skips concatenated", skip="org"),
    _residual("-two-first", "two first stages, concatenated", skip="org", stages=(TABLE_1[0], *TABLE_1)),
    _residual("-no-norm", "no batch norm", norm=False),
    _residual("-basic", "basic blocks", **_main_stages("basic", 3, 8, 10, 3)),
    _residual("-figure-4a", "figure 4a: simple blocks × 9, long and short", **_main_stages("simple", 9, 9, 9, 9)),
    _residual("-figure-4b", "figure 4b: × 9, long only", short_skips=False, **_main_stages("simple", 9, 9, 9, 9)),
    _residual("-figure-4c", "figure 4c: × 3, long only", short_skips=False, **_main_stages("simple", 3, 3, 3, 3)),
    _residual(
        "-figure-4d",
        "figure 4d: × 7, long only, no norm",
        short_skips=False,
        norm=False,
        **_main_stages("simple", 7, 7, 7, 7),
    ),
    _residual("-post", "post-activation blocks (ResNet)", block_order="post-activation"),
)


def find_preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        SpecError: there is none.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    known = ", ".join(preset.name for preset in PRESETS)
    raise SpecError(f"There is no network called '{name}'. Known networks: {known}.")


def variants(preset: Preset) -> tuple[NetworkSpec, ...]:
    """Return the preset in 2D and 3D, with each of the skips it is listed with."""
    skips = preset.skips or (preset.spec.skip,)
    return tuple(replace(preset.spec, dimensions=dimensions, skip=skip) for dimensions in (2, 3) for skip in skips)
