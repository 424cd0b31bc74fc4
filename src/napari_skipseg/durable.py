"""Files that are whole after a kill and after a power cut, and that are never written through a link.

Every file is written as a draft in the same folder, and renamed when it is whole. A rename alone does not survive a
power cut: ext4 and xfs may write the new name to disk before the content, and the file is empty afterwards. So a draft
is brought to disk before it is renamed, and its folder after that. If many files are written, they are renamed at once
and brought to disk together (`sync`) before anything names them.

Drafts are called `.skipseg-XXXXXXXX.part`: the name is random and must be new, so that a link which somebody put into a
shared folder is never followed, and short, so that it never limits the name of a result. A draft is locked until it has
its name; one that a killed process left has no lock, and is removed when a process first writes to the folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from napari_skipseg.locks import LOCK_FILE, FolderLock, holder_state, lock_file

DRAFT, PART = ".skipseg-", ".part"
"""How the names of drafts begin and end."""
_IS_DRAFT = re.compile(rf"{re.escape(DRAFT)}[0-9a-f]{{8}}{re.escape(PART)}")

OLD_DRAFT = 24 * 3600.0
"""Age in seconds from which a draft counts as left behind if its lock cannot be tested."""
SEARCHED = 100_000
"""Entries of a folder that are searched for drafts, at most."""

SYNCED_AT_ONCE = 8
"""Threads that bring files to disk. On ext4, 16 files took 13 ms one by one and 3 ms so: the journal groups them."""
_MANY = 64
"""Files from which on the whole file system is brought to disk instead, where Linux can: 9 against 27 ms for 64."""

RETRIES = 2.0
"""Seconds for which replacing a file on Windows is tried: indexers and virus scanners hold files for moments."""
HELD_ON_WINDOWS = (5, 32, 33, 1224)
"""Windows' codes: access denied, sharing violation, lock violation, and a file that a program has mapped to memory."""
NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)
"""Errors of file systems that cannot bring a folder to disk (CIFS, some FUSE), or of folders that may not be read."""

Item = TypeVar("Item")

_OPENED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_searched: set[Path] = set()
"""Folders in which this process has looked for drafts that were left behind."""


@contextlib.contextmanager
def replacing_durably(path: Path, synced: bool = True, after: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """Yield a new file, open for reading and writing, that takes the name `path` at the end, or is removed on a fault.

    synced: its content and its name are on disk at the end; else a power cut may leave an empty file. after: files that
    are to be on disk before the name changes, as the new content names them; they are brought there at the same time.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    remove_old_drafts(path.parent)
    with _replacing(path) as handle:
        yield handle
        if synced:
            handle.flush()
            acts = [partial(os.fsync, handle.fileno()), *(partial(_sync_file, file) for file in after)]
            _each(lambda act: act(), acts)
    if synced:
        sync_folder(path.parent)


def write_durably(path: Path, content: bytes, after: Sequence[Path] = ()) -> None:
    """Write a file in place of an older one, in a folder that exists; content and name are on disk when this returns.

    after: files that are on disk before, as `content` names them.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with replacing_durably(path, after=after) as handle:
        handle.write(content)


def write_whole(path: Path, content: bytes | memoryview, synced: bool = False) -> None:
    """Write a file in place of an older one: after a kill it is whole. After a power cut it may be empty, until `sync`.

    synced: its content is on disk before it gets its name; so it is whole in any case, or still what it was before.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with _replacing(path) as handle:
        handle.write(content)
        if synced:
            handle.flush()
            os.fsync(handle.fileno())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a draft that takes the name `path` at the end, or is removed on any fault."""
    draft, handle = _new_draft(path.parent)
    try:
        with handle:
            yield handle
            handle.flush()
            if sys.platform != "win32":  # which renames no open file; elsewhere it stays locked until the end
                replace(draft, path)
        if sys.platform == "win32":
            replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def sync(files: Iterable[Path], top: Path | None = None) -> None:
    """Bring files to disk, and the names of all that lies in their folders. Files that are gone are left out.

    top: the folders between it and the files are new as well, and so is its own content.

    Raises:
        OSError: the disk is at fault.
    """
    files = list(dict.fromkeys(files))
    folders = {file.parent for file in files}
    if top is not None:
        folders |= {above for folder in folders for above in folder.parents if above.is_relative_to(top)}
    if len(files) + len(folders) >= _MANY and _sync_file_systems(folders):
        return
    _each(_sync_file, files)
    _each(sync_folder, sorted(folders, reverse=True))


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to disk; Windows does so by itself.

    Raises:
        OSError: the disk is at fault.
    """
    if sys.platform == "win32":
        return
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in NOT_FOR_FOLDERS:
            raise


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it, if they are missing; their names are on disk when this returns.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def missing_folders(folder: Path) -> list[Path]:
    """Return of `folder` and those above it all that do not exist, the lowest first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def nearest_place(folder: Path) -> Path:
    """Return `folder`, or the nearest place above it that exists; it may be a file."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of some folders that are there and empty, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_place(place: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, if it is there.

    Raises:
        OSError: it cannot be removed.
    """
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> Path:
    """Rename `source`, a file or a folder, to `target`; return that. A file that is there is replaced.

    Windows refuses while another program has the file open: it is tried again for `RETRIES` seconds.

    Raises:
        OSError: it cannot be renamed.
    """
    until = time.monotonic() + RETRIES
    while True:
        try:
            os.replace(source, target)  # noqa: PTH105  # tests stand in for it
            return target
        except PermissionError as error:
            if not is_held_on_windows(error) or time.monotonic() >= until:
                raise
            time.sleep(0.05)


def is_held_on_windows(error: OSError) -> bool:
    """Return whether `error` is that of Windows for a file that another program holds open."""
    return getattr(error, "winerror", None) in HELD_ON_WINDOWS


@contextlib.contextmanager
def draft_folder(parent: Path) -> Iterator[Path]:
    """Yield a new private folder in `parent`, removed at the end with all that was not moved out of it.

    Raises:
        OSError: it cannot be made.
    """
    remove_old_drafts(parent)
    folder = _new_name(parent)
    folder.mkdir(mode=0o700)
    lock = FolderLock(folder, "taken")
    try:
        lock.take()
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the name `folder` at the end, when all files in it are on disk, or is removed
    on any fault.

    Raises:
        OSError: it cannot be written, or `folder` is there already.
    """
    with draft_folder(folder.parent) as draft:
        inside = draft / "folder"
        inside.mkdir()
        yield inside
        sync(file for file in inside.rglob("*") if file.is_file())
        if os.path.lexists(folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        replace(inside, folder)
        sync_folder(folder.parent)


def put_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make the folder `folder` with files of these names in it; it appears when all of them are on disk, or not at all.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    with new_folder(folder) as inside:
        for name, content in contents.items():
            (inside / name).write_bytes(content)


def refuse_link(path: Path) -> None:
    """Raise if `path` is a link: files written below it would go to a different place.

    Raises:
        OSError: it is one.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def open_file(path: Path, append: bool = False) -> BinaryIO:
    """Return a file of ours, open for reading and writing and made if it is missing; never what a link leads to.

    append: its content stays; else it is empty.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    handle = open(path, "r+b", opener=_open_no_link)  # noqa: SIM115  # Path.open takes no opener
    if append:
        handle.seek(0, os.SEEK_END)
    else:
        handle.truncate(0)
    return handle


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | _OPENED, 0o666)


def remove_old_drafts(folder: Path, again: bool = False) -> None:
    """Remove drafts of this user that killed processes left in `folder`; looked for once by each process.

    again: look for them in any case.
    """
    if folder in _searched and not again:
        return
    _searched.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        drafts = [Path(entry.path) for entry in islice(entries, SEARCHED) if is_draft(entry.name)]
        for draft in drafts:
            with contextlib.suppress(OSError):
                _remove_if_old(draft)


def is_draft(name: str) -> bool:
    """Return whether a file or folder of this name is a draft: its content is not whole."""
    return _IS_DRAFT.fullmatch(name) is not None


def _remove_if_old(draft: Path) -> None:
    found = draft.lstat()
    if sys.platform != "win32" and found.st_uid != os.getuid():
        return
    is_folder = stat.S_ISDIR(found.st_mode)
    with contextlib.ExitStack() as holding:
        has_writer: bool | None = None  # if its lock cannot be tested
        if is_folder:
            has_writer = _has_writer(draft)
        elif stat.S_ISREG(found.st_mode) and sys.platform != "win32":
            handle = holding.enter_context(os.fdopen(os.open(draft, os.O_RDWR | _OPENED), "r+b"))
            granted = lock_file(handle)  # until it is removed: a process that has just made it takes a new name
            has_writer = None if granted is None else not granted
        if has_writer or (has_writer is None and time.time() - found.st_mtime <= OLD_DRAFT):
            return
        if is_folder:
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _has_writer(draft: Path) -> bool | None:
    """Return whether a process writes to this folder; None if that is unknown.

    The lock's file is empty until the lock was taken, so an empty one is that of a folder which is being made.
    """
    try:
        return holder_state(draft) if (draft / LOCK_FILE).stat().st_size else None
    except OSError:
        return None


def _new_name(folder: Path) -> Path:
    return folder / f"{DRAFT}{secrets.token_hex(4)}{PART}"


def _new_draft(folder: Path) -> tuple[Path, BinaryIO]:
    """Return a new file in `folder`, open for reading and writing, and locked until it is closed.

    One that is there, or a link, is never opened. Another process, or thread, that looks for old drafts may meet the
    file before it is locked, and removes it: then another one is made.
    """
    while True:
        draft = _new_name(folder)
        with contextlib.suppress(FileExistsError), contextlib.ExitStack() as closing:
            handle: BinaryIO = closing.enter_context(open(draft, "x+b", opener=_open_no_link))
            # a lock would keep other writers of the same file out on Windows
            if sys.platform == "win32" or (lock_file(handle) is not False and os.fstat(handle.fileno()).st_nlink):
                closing.pop_all()
                return draft, handle


def _sync_file(file: Path) -> None:
    try:
        # Windows flushes only what is open for writing
        number = os.open(file, (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY) | _OPENED)
    except FileNotFoundError:
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_file_systems(folders: set[Path]) -> bool:
    """Return whether all that was written to the file systems of `folders` is on disk; only Linux can do so."""
    syncfs = _syncfs()
    if syncfs is None:
        return False
    one_of_each = {folder.stat().st_dev: folder for folder in folders if folder.is_dir()}
    for folder in one_of_each.values():
        number = os.open(folder, os.O_RDONLY)
        try:
            if syncfs(number):
                code = ctypes.get_errno()
                if code == errno.ENOSYS:
                    return False
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(number)
    return True


def _syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found


def _each(act: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call `act` with each of `items`, several at a time."""
    if len(items) < 2:
        for item in items:
            act(item)
        return
    with ThreadPoolExecutor(min(SYNCED_AT_ONCE, len(items)), "bringing to disk") as threads:
        for _ in threads.map(act, items):
            pass
