"""A synthetic EM stack with its truth."""
