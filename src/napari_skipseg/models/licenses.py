"""What the licence of a model allows, read from its SPDX expression. Loads without torch."""

from __future__ import annotations

import re

FREE = frozenset(
    (
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "HPND", "ISC", "MIT",
        "ODC-By-1.0", "PDDL-1.0", "Unlicense",
    )
)  # fmt: skip
"""Licences under which weights may be used for any purpose."""
NON_COMMERCIAL = frozenset(("LicenseRef-CDeep3M", "LicenseRef-ISBI-2012"))
"""Licences of our own models that allow no commercial use; those of Creative Commons have NC in their names."""


def license_mark(expression: str, terms: str = "") -> str:
    """Return how a model must be marked where it is chosen: "non-commercial", "terms unclear" or "" for free use.

    expression: an SPDX expression. terms: the terms in words; with terms but without an expression, nobody has checked
    what they allow. A model without both is the user's own.
    """
    names = [name for name in re.split(r"[()\s]+", expression) if name not in ("", "AND", "OR", "WITH")]
    if any(name in NON_COMMERCIAL or "-NC-" in name for name in names):
        return "non-commercial"
    return "" if (names and FREE.issuperset(names)) or not (names or terms) else "terms unclear"
