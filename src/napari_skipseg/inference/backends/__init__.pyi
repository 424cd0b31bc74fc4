from .choose import BackendChoice, choose_backends, choose_torch, fastest_precision, make_backend, try_backend
from .fallback import FallbackBackend, notes_of
from .folding import Probabilities
from .halving import BackendOption
from .interface import Backend, Pixels, TileOutput
from .openvino_backend import OpenVINOBackend
from .torch_backend import TorchBackend

__all__ = [
    "Backend",
    "BackendChoice",
    "BackendOption",
    "FallbackBackend",
    "OpenVINOBackend",
    "Pixels",
    "Probabilities",
    "TileOutput",
    "TorchBackend",
    "choose_backends",
    "choose_torch",
    "fastest_precision",
    "make_backend",
    "notes_of",
    "try_backend",
]
