"""Inference: a network over any stack."""
