"""The threshold of a class of which nothing else is known."""

DEFAULT_THRESHOLD = 0.5
"""Probability above which a voxel belongs to a class, if neither its model nor the user chose another one."""
