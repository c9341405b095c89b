"""A real S3 server (Ceph's RADOS gateway with a monitor and an OSD in memory) inside a context."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mistere.common.errors import MistereError
from mistere.common.processes.parent_death import die_with_parent
from tests.local.servers import free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
_ATTEMPTS = 10
"""Restart limit: the OSD exits if it queries the monitor before it knows the cluster's id, a race."""

_SETTINGS = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
mon initial members = a
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 8
osd objectstore = memstore
memstore device bytes = 2147483648
run dir = {folder}/run
log file = {folder}/$name.log
admin socket = {folder}/run/$name.asok
mon max pg per osd = 2000
mon warn on pool no redundancy = false
ms bind ipv6 = false
[mon]
mon data = {folder}/mon
mon data avail warn = 2
[osd]
osd data = {folder}/osd
[client]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {folder}/rgw
rgw run sync thread = false
"""


@contextmanager
def radosgw(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """An empty S3 server with one user.

    Args:
        folder: for its settings and logs; must not exist. Objects are kept in memory.
        access_key: the user's.
        secret_key: the user's.

    Yields:
        Its URL on this machine.
    """
    for name in ("run", "mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    monitor, gateway, fsid = free_port(), free_port(), str(uuid.uuid4())
    settings = folder / "ceph.conf"
    settings.write_text(_SETTINGS.format(fsid=fsid, monitor=monitor, gateway=gateway, folder=folder), encoding="utf-8")
    conf = ["-c", str(settings)]

    def call(*command: str) -> str:
        return subprocess.run([*command], check=True, capture_output=True, text=True, timeout=120).stdout

    with ExitStack() as servers:
        address = f"v1:127.0.0.1:{monitor}"
        call("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, f"{folder}/monmap")
        call("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", f"{folder}/monmap")
        servers.enter_context(_server(["ceph-mon", *conf, "-i", "a", "-f"], folder / "mon.out"))
        osd = str(uuid.uuid4())
        # The monitor may reject the call during its election; registering the same disk again is idempotent.
        _wait_until(lambda: subprocess.run(["ceph", *conf, "osd", "new", osd], capture_output=True).returncode == 0)
        call("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        call("ceph", *conf, "osd", "crush", "add", "osd.0", "1.0", "host=h", "root=default")

        def disk_is_up() -> bool:
            return bool(json.loads(call("ceph", *conf, "osd", "stat", "--format", "json"))["num_up_osds"])

        for _ in range(_ATTEMPTS):
            disk = servers.enter_context(_server(["ceph-osd", *conf, "-i", "0", "-f"], folder / "osd.out"))
            _wait_until(lambda disk=disk: disk.poll() is not None or disk_is_up())
            if disk.poll() is None:
                break
        gate = servers.enter_context(_server(["radosgw", *conf, "-n", "client.rgw", "-f"], folder / "rgw.out"))
        _wait_until(lambda: gate.poll() is not None or _answers(f"http://127.0.0.1:{gateway}/"))
        user = ["--uid=mistere", "--display-name=mistere", f"--access-key={access_key}", f"--secret-key={secret_key}"]
        call("radosgw-admin", *conf, "-n", "client.rgw", "user", "create", *user)
        yield f"http://127.0.0.1:{gateway}"


@contextmanager
def _server(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=die_with_parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return b"ListAllMyBuckets" in answer.read()
    except OSError:
        return False


def _wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        if time.monotonic() > deadline:
            raise MistereError("the S3 server did not start within two minutes: its logs say why; try again.")
        time.sleep(0.3)
