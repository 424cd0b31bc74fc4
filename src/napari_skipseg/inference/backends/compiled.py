"""Compiled networks, and facts on networks, kept on disk between processes, in the user's cache folder.

An entry is a file that begins with the SHA-256 of its content. A damaged entry counts as missing, and an entry that
cannot be written is not kept: neither is an error. The hash does not protect against other users, so a folder that
others own or may write to is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from napari_skipseg import networks
from napari_skipseg.durable import write_whole

COMPILED_VARIABLE = "NAPARI_SKIPSEG_CACHE"
LIMIT = 2**30
"""Most bytes of all entries; the entries used longest ago are removed first."""
HASH_LENGTH = hashlib.sha256().digest_size
PRIVATE = 0o700


def compiled_folder() -> Path:
    """Return the folder of compiled networks: `NAPARI_SKIPSEG_CACHE`, else in the user's cache folder."""
    named = os.environ.get(COMPILED_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "napari-skipseg" / "compiled"


def read_compiled(key: str) -> bytes | None:
    """Return the entry of `key`, None if there is none or it is damaged."""
    try:
        file = compiled_folder() / key
        if not is_ours_alone(file.parent):
            return None
        content = file.read_bytes()
        kept = content[HASH_LENGTH:]
        if hashlib.sha256(kept).digest() != content[:HASH_LENGTH]:
            return None
        os.utime(file)
    except (OSError, RuntimeError):
        return None
    return kept


def write_compiled(key: str, content: bytes) -> None:
    """Store `content` under `key`, whole or not at all, and remove old entries."""
    with contextlib.suppress(OSError, RuntimeError):  # the latter if there is no home folder
        folder = compiled_folder()
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        if is_ours_alone(folder):
            write_whole(folder / key, hashlib.sha256(content).digest() + content)
            _make_room(folder)


def read_facts(key: str) -> dict[str, int] | None:
    """Return the numbers stored under `key`, None if there are none or they are damaged."""
    content = read_compiled(key)
    with contextlib.suppress(ValueError):
        facts = None if content is None else json.loads(content)
        if isinstance(facts, dict) and all(isinstance(value, int) for value in facts.values()):
            return facts
    return None


def write_facts(key: str, facts: Mapping[str, int]) -> None:
    """Store numbers under `key`, which depends on all that they depend on."""
    write_compiled(key, json.dumps(dict(facts)).encode())


def key_of(**facts: Any) -> str:
    """Return the hash of `facts`, which JSON can hold, as a key."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_hash() -> str:
    """Return the hash of the code that defines what a network computes."""
    folding = Path(__file__).with_name("folding.py")
    sources = [*(file for folder in networks.__path__ for file in Path(folder).rglob("*.py")), folding]
    digest = hashlib.sha256()
    for file in sorted(sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_ours_alone(path: Path) -> bool:
    """Return whether a folder belongs to this user, and no others may write to it. Windows has no such bits."""
    if os.name == "nt":
        return True
    found = path.stat()
    own_group = found.st_gid == os.getgid()  # many systems give each user a group, which may write
    forbidden = stat.S_IWOTH | (0 if own_group else stat.S_IWGRP)
    return found.st_uid == os.getuid() and not found.st_mode & forbidden


def _make_room(folder: Path) -> None:
    """Remove the entries used longest ago until the rest is within the limit."""
    found = sorted(((file, file.stat()) for file in folder.iterdir()), key=lambda item: item[1].st_mtime)
    total = sum(facts.st_size for _, facts in found)
    for file, facts in found:
        if total <= LIMIT:
            return
        file.unlink(missing_ok=True)
        total -= facts.st_size
