"""Recipes: what a run was asked for, where they lie, and runs that repeat them."""
