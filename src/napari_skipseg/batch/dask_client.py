"""A Dask cluster of this machine or at an address: opened, checked and closed, without Dask's own messages."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.threads import LANES
from napari_skipseg.devices import cores
from napari_skipseg.errors import EngineError, InputError
from napari_skipseg.gpus import usable_gpus

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
CONNECTING = 10
"""Seconds in which a scheduler has to answer."""
_NEVER = "365 days"
"""Time after which Dask gives up a dead worker of this machine. The default is 15 seconds, in which the worker that
replaces it may die too."""
NOISY = ("distributed", "tornado", "asyncio", "bokeh")
COMPARED = ("distributed", "dask")
SILENT = logging.CRITICAL + 1


@dataclass(frozen=True)
class DaskCluster:
    """A connected cluster. name: for messages. cores: those of each worker on this machine; () on other machines.

    gpus: the GPUs that the workers on this machine use; () if they use none, and on other machines.
    """

    client: Client
    name: str
    cores: tuple[tuple[int, ...], ...]
    gpus: tuple[str, ...] = ()

    def lost_error(self) -> EngineError:
        """Return the error for a cluster that no longer answers."""
        return EngineError(
            f"{self.name} went away while the batch ran: what is done stays. Start the same batch again once it is "
            "there, to continue."
        )


@contextlib.contextmanager
def open_cluster(settings: BatchSettings) -> Iterator[DaskCluster]:
    """Start workers on this machine, which end with the context, or connect to the scheduler in `settings`.

    Raises:
        InputError: Dask's distributed is not installed.
        EngineError: no scheduler answers, it has a different version, or workers cannot be started.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "Several processes need Dask's distributed, which is not installed: pip install 'napari-skipseg[cluster]'."
        ) from error
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(_quiet())
        if settings.scheduler:
            client = _connect(settings.scheduler, distributed)
            leaving.callback(_disconnect, client)
            name = f"The Dask scheduler at '{settings.scheduler}'"
            _check_versions(client, name)
            yield DaskCluster(client, name, ())
        else:
            shares = share_cores(settings.workers)
            gpus = usable_gpus() if settings.request.options.device in ("auto", "cuda") else ()
            client = leaving.enter_context(_own_cluster(shares, distributed, gpus))
            yield DaskCluster(client, "The workers of this machine", shares, gpus)


def share_cores(workers: int) -> tuple[tuple[int, ...], ...]:
    """Return the cores of each worker; if there are fewer cores than workers, several workers share a core."""
    own = cores()
    if workers >= len(own):
        return tuple((own[number % len(own)],) for number in range(workers))
    borders = [len(own) * number // workers for number in range(workers + 1)]
    return tuple(tuple(own[first:last]) for first, last in pairwise(borders))


def _connect(address: str, distributed: Any) -> Client:
    try:
        _check_reachable(address)
        return distributed.Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, TimeoutError, ImportError) as error:
        raise EngineError(
            f"There is no Dask scheduler at '{address}' ({_reason(error)}): start one with `dask scheduler`, and give "
            "the address that it shows, such as tcp://host:8786."
        ) from error


def _check_reachable(address: str) -> None:
    """Raise if nothing listens at an address. A Dask client that cannot connect would leave threads behind."""
    place = urlsplit(address if "://" in address else f"tcp://{address}")
    if place.hostname is None or place.port is None:
        raise ValueError("an address has a host and a port")
    if place.scheme in ("tcp", "tls"):
        socket.create_connection((place.hostname, place.port), CONNECTING).close()


def _check_versions(client: Client, name: str) -> None:
    try:
        found = client.get_versions()
        there, here = found["scheduler"]["packages"], found["client"]["packages"]
    except (OSError, TimeoutError, KeyError, TypeError) as error:
        raise EngineError(f"{name} does not answer like a scheduler ({_reason(error)}): restart it.") from error
    for package in COMPARED:
        if there.get(package) != here.get(package):
            raise EngineError(
                f"{name} runs {package} {there.get(package, 'of no version')}, and this machine has "
                f"{here.get(package)}: install the same version on both."
            )


@contextlib.contextmanager
def _own_cluster(shares: tuple[tuple[int, ...], ...], distributed: Any, gpus: tuple[str, ...] = ()) -> Iterator[Client]:
    import dask

    try:
        # Every user of the machine can connect to a port of 127.0.0.1, and a scheduler runs any code that it gets. A
        # certificate in memory, which only our processes have, keeps all others out.
        security = distributed.Security.temporary()
    except ImportError as error:
        raise InputError(
            "Several processes need the package cryptography, to keep others out, which is not installed: "
            "pip install 'napari-skipseg[cluster]'."
        ) from error
    options = {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0", "scheduler_kwargs": {"dashboard": False}}
    try:
        with _uninterrupted():
            cluster = distributed.LocalCluster(
                n_workers=len(shares),
                threads_per_worker=LANES,
                processes=True,
                worker_class=nanny_with_gpu(distributed.Nanny, gpus),
                silence_logs=SILENT,
                env={"PYTHONWARNINGS": "ignore"},
                security=security,
                **options,
            )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EngineError(f"The workers could not be started ({_reason(error)}): try fewer of them.") from error
    with contextlib.ExitStack() as leaving:
        leaving.callback(cluster.close, timeout=CONNECTING)
        leaving.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": _NEVER}))
        client = distributed.Client(cluster, timeout=CONNECTING, set_as_default=False, security=security)
        leaving.callback(_disconnect, client)
        yield client


def nanny_with_gpu(nanny: Any, gpus: tuple[str, ...]) -> Any:
    """Return a subclass of `nanny` that gives worker i only GPU i modulo their number, at each start.

    The GPU has to be in the environment of the process: CUDA reads it once, and a process that sees several GPUs uses
    the first.
    """
    if not gpus:
        return nanny

    class NannyWithGpu(nanny):  # type: ignore[misc]
        """Gives its worker a GPU of its own."""

        def __init__(self, *args: Any, name: Any = None, env: dict[str, str] | None = None, **how: Any) -> None:
            own = {"CUDA_VISIBLE_DEVICES": gpus[int(name) % len(gpus)]}
            super().__init__(*args, name=name, env={**(env or {}), **own}, **how)

    return NannyWithGpu


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Block Ctrl-C, which a terminal sends to all processes, in those that are started here; this process stops them.

    Threads and processes inherit blocked signals, so Ctrl-C is blocked in workers too that Dask starts later.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where no signals are inherited
        yield
        return
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _disconnect(client: Client) -> None:
    with contextlib.suppress(OSError, TimeoutError, RuntimeError):
        client.close(timeout=CONNECTING)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loggers and warnings of Dask."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in NOISY]
    loggers = [logging.getLogger(name) for name in {*NOISY, *names}]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(SILENT)
            logger.disabled = True
        try:
            yield
        finally:
            for logger, level, disabled in before:
                logger.setLevel(level)
                logger.disabled = disabled


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
