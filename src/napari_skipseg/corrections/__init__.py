"""Corrections: what was painted over an image and what was found right, on disk within a second and never lost."""
