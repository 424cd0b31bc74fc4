"""Names of classes that separate cells."""

from __future__ import annotations

BOUNDARY_CLASSES = ("membrane", "boundary", "wall", "border")
"""The ISBI scores take the probability of cell, which is one minus theirs. Cells are found between the first of these
classes that a probability has."""
