"""A classifier of contacts, and its file: JSON with a hash. Options name the file and the hash of what it held."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import file_errors_as

CONTACTS_FORMAT = "napari-skipseg contacts 1"

FEATURES = (
    "mean strength",
    "strength, 10 %",
    "strength, 50 %",
    "strength, 90 %",
    "log of the contact's area",
    "log of the smaller size",
    "log of the larger size",
    "area for the smaller size",
    "share of the smaller one's surface",
    "neck",
    "lower probability inside",
    "higher probability inside",
    "share across slices",
    "mean strength squared",
    "mean strength × share of surface",
    "always 1",
)
"""What is known of a contact of two groups, each divided by about its spread; `feature_row` of `contact_features`
computes them in this order."""

_HASH = "@sha256:"


@dataclass(frozen=True)
class ContactClassifier:
    """The probability that the two groups of regions at a contact are different objects: a logistic regression.

    weights: of `FEATURES`. learned_from: how many contacts of each kind were judged ("same", "different").
    """

    weights: tuple[float, ...]
    learned_from: Mapping[str, int] = field(default_factory=dict)


def write_classifier(path: str | os.PathLike[str], classifier: ContactClassifier) -> Path:
    """Write a classifier as JSON with its hash.

    Raises:
        FileError: it cannot be written.
    """
    path = Path(path)
    content = {
        "format": CONTACTS_FORMAT,
        "features": list(FEATURES),
        "weights": list(classifier.weights),
        "learned from": dict(classifier.learned_from),
    }
    with file_errors_as(path):
        write_durably(path, json.dumps({**content, "sha256": _hash(content)}, indent=1).encode() + b"\n")
    return path


def read_classifier(path: str | os.PathLike[str]) -> ContactClassifier:
    """Return the classifier in a file.

    Raises:
        FileError: it cannot be read, holds no classifier of contacts, or was changed.
    """
    return _parse(Path(path), _read(Path(path)))


def name_with_hash(chosen: str) -> str:
    """Return the name of a classifier's file, whole, with the hash of the file: FILE@sha256:HASH, as recipes name it.

    A name that has a hash stays as it is, and its file is not read.

    Raises:
        FileError: as `read_classifier`.
    """
    if _HASH in chosen:
        return chosen
    path = Path(chosen).absolute()
    content = _read(path)
    _parse(path, content)
    return f"{path}{_HASH}{hashlib.sha256(content).hexdigest()}"


@functools.lru_cache(maxsize=16)  # a name with its hash says what the file holds
def read_named_classifier(name: str) -> ContactClassifier:
    """Return the classifier that `name_with_hash` names.

    Raises:
        FileError: it cannot be read, or the file is a different one now.
    """
    place, _, stated = name.rpartition(_HASH)
    path = Path(place)
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != stated:
        raise FileError(f"'{path}' has changed since it was chosen: put that classifier back, or choose this one anew.")
    return _parse(path, content)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileError(
            f"There is no classifier of contacts at '{path}': name a file that `napari-skipseg edits classifier` wrote."
        )
    with file_errors_as(path):
        return path.read_bytes()


def _parse(path: Path, content: bytes) -> ContactClassifier:
    try:
        found: dict[str, Any] = json.loads(content)
        if (
            not isinstance(found, dict)
            or found.get("format") != CONTACTS_FORMAT
            or found.get("features") != list(FEATURES)
        ):
            raise ValueError("another format")
        weights = tuple(float(weight) for weight in found["weights"])
        learned_from = {str(name): int(count) for name, count in found["learned from"].items()}
        if len(weights) != len(FEATURES) or not all(map(math.isfinite, weights)):
            raise ValueError("impossible weights")
        stated = found.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(
            f"'{path}' holds no classifier of contacts: export one with `napari-skipseg edits classifier`."
        ) from error
    if stated != _hash(found):
        raise FileError(f"'{path}' was changed since it was written: export the classifier again.")
    return ContactClassifier(weights, learned_from)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
