"""What to cite for a model: the paper of its network, of its gates, and the data that its card names."""

from __future__ import annotations

import re

from napari_skipseg.models.description import ModelDescription

_NETWORKS = {
    "unet": ("U-Net: Ronneberger et al. 2015", "10.1007/978-3-319-24574-4_28"),
    "residual-fcn": ("Residual FCN: Drozdzal et al. 2016", "10.1007/978-3-319-46976-8_19"),
    "vnet": ("V-Net: Milletari et al. 2016", "10.1109/3DV.2016.79"),
    "tiramisu": ("FC-DenseNet: Jégou et al. 2017", "10.1109/CVPRW.2017.156"),
    "di2in": ("DI2IN: Yang et al. 2017", "10.1007/978-3-319-59050-9_50"),
}
_GATES = ("SAT: Asgari Taghanaki et al. 2019", "10.1007/978-3-030-32692-0_48")
_SAT = {"st", "at", "sat"}
_DOI = re.compile(r"([^;()]*?),?\s*doi:\s*(10\.\d{4,9}/[^\s;,)]+)")


def cite_model(description: ModelDescription) -> list[dict[str, str]]:
    """Return the citations of a model, each with a text and a DOI; the same DOI comes once."""
    spec, card = description.spec, description.card
    found = [_NETWORKS[spec.network]] if spec.network in _NETWORKS else []
    if _SAT.intersection(spec.skips):
        found.append(_GATES)
    for text, doi in _DOI.findall(f"{card.data} ; {card.terms}"):
        found.append((f"Data: {text.strip() or doi}", doi.rstrip(".")))
    return [{"text": text, "doi": doi} for doi, text in {doi: text for text, doi in reversed(found)}.items()][::-1]
