"""Which classes part cells, by their names."""

from __future__ import annotations

BOUNDARY_CLASSES = ("membrane", "boundary", "wall", "border")
"""Names of classes that part cells. The ISBI scores take the probability of cell, one minus theirs; cells are found
between the first of them that a probability has."""
