"""A signal ends long work in time: in order between two steps, within a step that is long, and in any case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import contextlib, hashlib, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell job in the background starts with it ignored
from napari_skipseg import stopping
stopping.INTERRUPTED_AFTER, stopping.ENDED_AFTER = {seconds}
from napari_skipseg.progress import Progress
from napari_skipseg.terminal import drive_with_progress

def long_call():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no handler of Python runs before it ends

def work():
    try:
        yield Progress(0, 9)
        while True:
            print("begun", flush=True)
            {step}
            yield Progress(1, 9)
    except GeneratorExit:
        {closing}
        print("closed in order", flush=True)
        raise
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise

try:
    drive_with_progress(work(), lambda progress: None)
except KeyboardInterrupt:
    sys.exit(stopping.STOPPED)
"""


NEVER = 1000.0
SOON = (0.4, 1.0)
"""Seconds from a signal until a step is interrupted, and until the process ends."""


def stop(
    step: str, number: signal.Signals, closing: str = "pass", times: int = 1, seconds: tuple[float, float] = SOON
) -> tuple[int, list[str], str]:
    """Return exit code, lines of the work, and errors.

    seconds: what is not to happen in a test is put off for ever, so that a machine with much to do changes nothing.
    """
    script = SCRIPT.format(step=step, closing=closing, seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=240)
    lines = [line for line in out.splitlines() if line != "begun"]
    return process.returncode, lines, err


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_between_two_steps_work_is_closed_in_order(number: signal.Signals) -> None:
    assert stop("time.sleep(0.05)", number, seconds=(NEVER, NEVER)) == (130, ["closed in order"], "")


@BOTH
@pytest.mark.parametrize("step", ["time.sleep(60)", "while True: pass", "os.read(os.pipe()[0], 1)"])
def test_a_step_that_is_long_is_interrupted(number: signal.Signals, step: str) -> None:
    code, lines, _ = stop(step, number, seconds=(0.4, NEVER))
    assert (code, lines) == (130, ["interrupted"])


@BOTH
def test_a_call_that_cannot_be_interrupted_ends_with_the_process(number: signal.Signals) -> None:
    code, lines, err = stop("long_call()", number)
    assert (code, lines) == (130, [])
    assert err.startswith("Error: Stopped; no result is half-written")


def test_closing_that_takes_longer_than_a_step_may_is_not_interrupted() -> None:
    found = stop("time.sleep(0.05)", signal.SIGTERM, closing="time.sleep(2)", seconds=(1.5, NEVER))
    assert found[:2] == (130, ["closed in order"])


def test_closing_that_does_not_end_ends_with_the_process() -> None:
    assert stop("time.sleep(0.05)", signal.SIGTERM, closing="time.sleep(60)")[:2] == (130, [])


def test_a_second_signal_interrupts_at_once() -> None:
    code, lines, _ = stop("time.sleep(0.3) or time.sleep(60)", signal.SIGINT, times=2, seconds=(NEVER, NEVER))
    assert (code, lines) == (130, ["interrupted"])


def test_handlers_and_the_wakeup_socket_are_put_back() -> None:
    from napari_skipseg.stopping import SIGNALS, stopping_between_steps

    before = [signal.getsignal(number) for number in SIGNALS]
    for _ in range(3):
        with stopping_between_steps() as check:
            assert [signal.getsignal(number) for number in SIGNALS] != before
            check()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    from napari_skipseg.stopping import stopping_between_steps

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_between_steps() as check:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
