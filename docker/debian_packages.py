"""Add Debian's packages to the SBOM of an image: ``python debian_packages.py FILE`` (CycloneDX, JSON)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from packageurl import PackageURL


def main(path: Path) -> None:
    """Extend the SBOM in place."""
    form = "${Package}\t${Version}\t${Architecture}\n"
    listing = subprocess.run(["dpkg-query", "--show", "--showformat", form], capture_output=True, text=True, check=True)
    bom = json.loads(path.read_text(encoding="utf-8"))
    for line in listing.stdout.splitlines():
        name, version, architecture = line.split("\t")
        url = PackageURL("deb", "debian", name, version, {"arch": architecture}).to_string()
        bom["components"].append({"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url})
    path.write_text(json.dumps(bom, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
