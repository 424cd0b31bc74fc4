"""Errors a user can act on: each message says what happened and what to do about it."""

from __future__ import annotations


class SkipsegError(Exception):
    """A fault the user can mend. The message is one clear sentence fit for a dialog or a terminal.

    details: more for a developer, such as the traceback of another process.
    """

    details: str = ""


class ImageWarning(UserWarning):
    """Something about an image that a user should know before trusting its result."""


class FileError(SkipsegError):
    """A file cannot be read or written."""


class InputError(SkipsegError):
    """An image, its axes or its values cannot be used for the operation requested."""


class ModelError(SkipsegError):
    """A model folder is missing, damaged, unsafe or of a different kind than requested."""


class SpecError(SkipsegError):
    """A network or training setting is unknown or impossible."""


class DeviceError(SkipsegError):
    """The requested device is not available."""


class EngineError(SkipsegError):
    """The engine process ended or sent something unexpected."""


class OutOfMemoryError(EngineError):
    """A device has no memory for the smallest of tiles, or the computer too little for the request."""
