"""Recipes: what a run was requested, where they lie, and runs that repeat them."""
