"""Proofreading: edits of objects, kept apart from the objects that were found, on disk within a second."""
