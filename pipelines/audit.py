"""``python -m pipelines.audit``: look the locked packages up in the database of known vulnerabilities (OSV), with pip-audit.

``make check`` runs it. Without a network it says so in one sentence and checks what it can: that every lock pins exact versions,
so that the next audit covers what is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import ExitCode, MistereError
from mistere.common.parsing.documents import load_json
from mistere.common.paths import PROJECT_ROOT

DATABASE_VARIABLE: Final = "MISTERE_OSV_URL"
"""Environment variable: another server with the interface of OSV, for networks that do not reach the public one."""
ACCEPTED: Final[Mapping[str, str]] = {}
"""Vulnerabilities that do not concern this project, by id, each with the reason."""

_DATABASE: Final = "https://api.osv.dev/v1/query"
_LOCKS: Final = ("requirements*.lock", "docker/*.lock")
_PIN: Final = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[\w.!+-]+( *;.*)?")
_SECONDS: Final = 900


def main(root: Path = PROJECT_ROOT) -> int:
    """Audit the lock files of a source tree; returns the exit code: 1 for a vulnerability or a lock without exact versions."""
    try:
        pins = locked_packages(root)
        reports = [_pip_audit(group) for group in _groups(pins)]
    except MistereError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    lines = [line for report in reports if report is not None for line in findings(report)]
    for line in lines:
        print(line, file=sys.stderr)
    if None in reports:
        print(
            f"the database of vulnerabilities does not answer at {_database()}: {len(pins)} packages are pinned exactly, and whether "
            f"they have known vulnerabilities was not checked{' for all' if any(reports) else ''}; run it with a network, or set "
            f"{DATABASE_VARIABLE}."
        )
    else:
        print(f"{len(pins)} packages audited, {len(lines)} vulnerabilities found")
    return int(ExitCode.ERROR) if lines else 0


def locked_packages(root: Path) -> list[str]:
    """The pins of all lock files, each once.

    Raises:
        MistereError: a line does not pin an exact version.
    """
    pins = set()
    for file in sorted(path for pattern in _LOCKS for path in root.glob(pattern)):
        for line in file.read_text(encoding="utf-8").splitlines():
            pin = line.partition("#")[0].strip()
            if pin and not _PIN.fullmatch(pin):
                raise MistereError(f"{file.relative_to(root)}: {pin!r} does not pin an exact version: run `make lock`.")
            pins.add(pin)
    return sorted(pins - {""})


def _groups(pins: Sequence[str]) -> list[list[str]]:
    """The pins in groups that name each package once, as pip-audit requires; two locks may pin two versions of a package."""
    groups: list[list[str]] = []
    seen: Counter[str] = Counter()
    for pin in pins:
        name = pin.partition("==")[0].partition("[")[0].lower()
        if seen[name] == len(groups):
            groups.append([])
        groups[seen[name]].append(pin)
        seen[name] += 1
    return groups


def findings(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each vulnerability in a report of pip-audit that is not accepted."""
    lines = []
    for package in report["dependencies"]:
        for vulnerability in package.get("vulns", []):
            if {vulnerability["id"], *vulnerability.get("aliases", [])} & ACCEPTED.keys():
                continue
            fixed = ", ".join(vulnerability["fix_versions"])
            remedy = (
                f"upgrade to {fixed}" if fixed else "there is no fixed version: replace it, or accept it with a reason"
            )
            lines.append(f"{package['name']} {package['version']} has {vulnerability['id']}: {remedy}.")
    return lines


def _pip_audit(pins: Sequence[str]) -> dict[str, Any] | None:
    """The report on packages; None if the database does not answer.

    Raises:
        MistereError: pip-audit failed for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--osv-url", _database()]
        command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command += ["--requirement", str(requirements)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
    if done.stdout.strip():
        report: dict[str, Any] = load_json(done.stdout)
        return report
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    if re.search(r"Connection|Timeout|ProxyError|Could not connect", last):
        return None
    raise MistereError(f"pip-audit failed ({last[:200]}): run `make setup-dev`, then again.")


def _database() -> str:
    return os.environ.get(DATABASE_VARIABLE, _DATABASE)


if __name__ == "__main__":
    sys.exit(main())
