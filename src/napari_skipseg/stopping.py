"""Ctrl-C and SIGTERM during long work: it ends within 10 seconds, in order if that is possible.

Long work is a generator, and between two of its steps it can be closed in order: a training writes a checkpoint then. A
step may take longer than the sender of the signal waits (SLURM kills after 30 s), so a thread watches: work that does
not end between two steps is interrupted, and work that cannot be interrupted is ended as by a kill. Both lose no more
than a kill does, which all of our work survives.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED_AFTER = 6.0
"""Seconds after the signal at which KeyboardInterrupt is raised in the middle of a step."""
ENDED_AFTER = 8.0
"""Seconds after the signal at which the process ends, whatever it is doing."""
STOPPED = 130
"""Exit code of a command that was stopped by Ctrl-C or a signal."""
MESSAGE = "Stopped; no result is half-written. Run the same command again: it continues from what is done, if it can."
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class _Watcher:
    """Receives signals at once, and ends work that does not stop by itself.

    Python runs signal handlers between two instructions of the main thread, so none runs while that is within one long
    call of torch. What Python does at once is to write the signal's number to a socket: this thread reads it there.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self.is_closing = False
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="stopping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching: the work has ended."""
        self._over.set()
        signal.set_wakeup_fd(self._before)
        self._writer.close()  # the thread reads the end
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        number = self._next_signal()
        if number is None or self._over.wait(INTERRUPTED_AFTER):
            return
        if not self.is_closing:
            _interrupt(number)
        if not self._over.wait(ENDED_AFTER - INTERRUPTED_AFTER):
            end_at_once()

    def _next_signal(self) -> signal.Signals | None:
        while numbers := self._reader.recv(64):
            found = [number for number in SIGNALS if number in numbers]
            if found:
                return found[0]
        return None


def _interrupt(number: signal.Signals) -> None:
    """Send the main thread the signal once more, for which it raises KeyboardInterrupt."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:  # a real signal also ends a wait in the system, such as reading from a slow disk
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextlib.contextmanager
def stopping_between_steps() -> Iterator[Callable[[], None]]:
    """Yield a function to call between two steps: it raises KeyboardInterrupt if a signal came since.

    A second signal raises it at once. Otherwise it is raised in the middle of a step `INTERRUPTED_AFTER` seconds after
    the first one, and the process ends `ENDED_AFTER` seconds after it. A signal that was ignored before stays ignored.
    """
    is_signalled = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal is_signalled
        if is_signalled:
            raise KeyboardInterrupt
        is_signalled = True

    def check() -> None:
        if is_signalled:
            watcher.is_closing = True
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    watcher = _Watcher()
    try:
        for number in SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, note)
        yield check
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])
        watcher.close()


def end_at_once() -> None:
    """End the process without any clean-up, as a kill does, after saying so on stderr."""
    with contextlib.suppress(Exception):
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""  # a progress bar hides it
        os.write(2, f"{cursor}Error: {MESSAGE}\n".encode())
    os._exit(STOPPED)
