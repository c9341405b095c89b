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
_ATTEMPTS = 8
"""Start limit. A command, or the OSD right after it is up, fails if it reaches the monitor before it knows the cluster's id, a race."""
_START_SECONDS = 120.0

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


class _NotUpError(Exception):
    """A server of the cluster has ended, or does not get ready."""


@contextmanager
def radosgw(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """An empty S3 server with one user.

    Args:
        folder: for its settings and logs; must not exist. Objects are kept in memory.
        access_key: the user's.
        secret_key: the user's.

    Yields:
        Its URL on this machine.

    Raises:
        MistereError: it does not start; with the ends of its logs.
    """
    reasons = []
    for attempt in range(_ATTEMPTS):
        with ExitStack() as servers:
            try:
                url = _start(servers, folder / str(attempt), access_key, secret_key)
            except _NotUpError as error:
                reasons.append(str(error))
                continue
            yield url
            return
    logs = "\n".join(f"{log.name}: {_end(log)}" for log in sorted((folder / str(_ATTEMPTS - 1)).glob("*.out")))
    raise MistereError(
        f"the S3 server did not start in {_ATTEMPTS} attempts ({'; '.join(reasons)}). The ends of the last one's logs:\n{logs}"
    )


def _start(servers: ExitStack, folder: Path, access_key: str, secret_key: str) -> str:
    for name in ("run", "mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    monitor, gateway, fsid = free_port(), free_port(), str(uuid.uuid4())
    settings = folder / "ceph.conf"
    settings.write_text(_SETTINGS.format(fsid=fsid, monitor=monitor, gateway=gateway, folder=folder), encoding="utf-8")
    conf = ["-c", str(settings)]
    address = f"v1:127.0.0.1:{monitor}"
    _call("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, f"{folder}/monmap")
    _call("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", f"{folder}/monmap")
    started = [servers.enter_context(_server(["ceph-mon", *conf, "-i", "a", "-f"], folder / "mon.out"))]
    osd = str(uuid.uuid4())
    # The monitor may reject the call during its election; registering the same disk again is idempotent.
    _wait_until("the monitor", lambda: _succeeds("ceph", *conf, "osd", "new", osd) is not None, started)
    _call("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
    add = ("ceph", *conf, "osd", "crush", "add", "osd.0", "1.0", "host=h", "root=default")
    _wait_until("the monitor", lambda: _succeeds(*add) is not None, started)
    started.append(servers.enter_context(_server(["ceph-osd", *conf, "-i", "0", "-f"], folder / "osd.out")))

    def disk_is_up() -> bool:
        answer = _succeeds("ceph", *conf, "osd", "stat", "--format", "json")
        return answer is not None and bool(json.loads(answer)["num_up_osds"])

    _wait_until("the OSD", disk_is_up, started)
    started.append(servers.enter_context(_server(["radosgw", *conf, "-n", "client.rgw", "-f"], folder / "rgw.out")))
    _wait_until("the gateway", lambda: _answers(f"http://127.0.0.1:{gateway}/"), started)
    user = ["--uid=mistere", "--display-name=mistere", f"--access-key={access_key}", f"--secret-key={secret_key}"]
    _call("radosgw-admin", *conf, "-n", "client.rgw", "user", "create", *user)
    return f"http://127.0.0.1:{gateway}"


def _succeeds(*command: str) -> str | None:
    """What the command prints; nothing if it fails or does not end."""
    try:
        ended = subprocess.run([*command], capture_output=True, text=True, timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return ended.stdout if ended.returncode == 0 else None


def _call(*command: str) -> None:
    if _succeeds(*command) is None:
        raise _NotUpError(f"{command[0]} failed")


def _end(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


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


def _wait_until(what: str, reached: Callable[[], bool], started: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not reached():
        ended = [str(process.args[0]) for process in started if process.poll() is not None]  # type: ignore[index]
        if ended:
            raise _NotUpError(f"{ended[0]} has ended")
        if time.monotonic() > deadline:
            raise _NotUpError(f"{what} did not get ready in {_START_SECONDS:.0f} s")
        time.sleep(0.3)
