"""Backends that run a network over tiles: OpenVINO or torch, on the fastest device, with one small interface."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
