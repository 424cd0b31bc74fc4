"""Scores: overlap of masks, and the ISBI 2012 scores."""
