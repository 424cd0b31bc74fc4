"""The workers of one machine are reached by their own batch and by nobody else on that machine."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

distributed = pytest.importorskip("distributed")

SCRIPT = """
import sys
import distributed
from napari_skipseg.batch.dask_client import _own_cluster, _quiet
if __name__ == "__main__":
    with _quiet(), _own_cluster(((0,),), distributed) as client:
        print(client.scheduler.address, client.submit(abs, -7).result(), flush=True)
        sys.stdin.read()
"""
STRANGER = """
import os, sys, distributed
for address in sys.argv[1:]:
    security = distributed.Security.temporary() if address.startswith("tls") else None
    try:
        client = distributed.Client(address, timeout=3, set_as_default=False, security=security)
        print("runs code in", client.run_on_scheduler(lambda: __import__("os").getpid()))
    except BaseException as error:
        print("refused", type(error).__name__)
sys.stdout.flush()
os._exit(0)
"""


def test_a_stranger_gets_nothing_from_any_port(tmp_path: Path) -> None:
    (tmp_path / "batch.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "batch.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as batch:
        assert batch.stdout is not None
        address, seven = batch.stdout.readline().split()
        assert seven == "7"  # the batch itself is answered
        me = psutil.Process(batch.pid)
        places = [
            each.laddr
            for process in (me, *me.children(recursive=True))
            for each in process.net_connections(kind="inet")
            if each.status == psutil.CONN_LISTEN
        ]
        assert len(places) >= 3
        assert {place.ip for place in places} == {"127.0.0.1"}
        with ThreadPoolExecutor() as threads:  # each port is silent for seconds
            assert not any(threads.map(lambda place: _said(place.port, with_tls=False), places))
            assert not any(threads.map(lambda place: _said(place.port, with_tls=True), places))
        port = address.rpartition(":")[2]
        knock = [sys.executable, "-c", STRANGER, f"tcp://127.0.0.1:{port}", f"tls://127.0.0.1:{port}"]
        told = subprocess.run(knock, capture_output=True, text=True, timeout=240, check=False).stdout.split("\n")[:2]
        assert all(each.startswith("refused") for each in told)
        batch.communicate("")


def _said(port: int, with_tls: bool) -> bytes:
    """What a port says to somebody without the certificate of the batch."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as plain:
            plain.settimeout(3)
            if not with_tls:
                return plain.recv(200)
            with context.wrap_socket(plain) as secret:
                secret.sendall(os.urandom(64))
                return secret.recv(200)
    except OSError:
        return b""
