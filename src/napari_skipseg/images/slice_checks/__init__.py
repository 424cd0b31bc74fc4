"""Faulty slices of a stack: empty, doubled, shifted, of another contrast."""
