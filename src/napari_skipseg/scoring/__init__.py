"""Scores of files against their truths."""
