"""Faulty slices of a stack: empty, doubled, shifted, or with a different contrast."""
