"""Pass pip's settings of the package index to an image build: prints the engine's options, one word per line.

``python index_settings.py FOLDER ENGINE`` writes ``pip.conf`` and ``uv.toml`` into FOLDER. The build mounts them as secrets,
because the URL of an index may hold a password; they are not stored in the image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def pip_settings() -> dict[str, list[str]]:
    """Pip's settings: name → values. As in pip, environment variables take precedence over files."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings: dict[str, list[str]] = {}
    for line in listing.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'").split()
    for name in ("index-url", "extra-index-url", "find-links", "cert"):
        if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
            settings[name] = value.split()
    return settings


def main(folder: Path, engine: str) -> None:
    """Write the settings and print the options."""
    settings = pip_settings()
    index = settings.get("index-url", [])[:1]
    more = [url for url in settings.get("extra-index-url", []) if not url.startswith("file:")]
    links = [link for link in settings.get("find-links", []) if Path(link).is_dir()]
    pip = [
        f"{name} = {' '.join(values)}" for name, values in (("index-url", index), ("extra-index-url", more)) if values
    ]
    (folder / "pip.conf").write_text("\n".join(["[global]", *pip]) + "\n", encoding="utf-8")
    uv = [f"index-url = {json.dumps(index[0])}"] if index else []
    uv += [f"extra-index-url = {json.dumps(more)}"] if more else []
    uv += [f"find-links = {json.dumps(links)}"] if links and engine == "podman" else []
    (folder / "uv.toml").write_text("\n".join(uv) + "\n", encoding="utf-8")
    options = ["--secret", f"id=pip_conf,src={folder / 'pip.conf'}", "--secret", f"id=uv_toml,src={folder / 'uv.toml'}"]
    authority = next(iter(settings.get("cert", [])), os.environ.get("SSL_CERT_FILE", ""))
    if Path(authority).is_file():
        options += ["--secret", f"id=ca,src={authority}"]
    if engine == "podman":
        options += [word for link in links for word in ("--volume", f"{link}:{link}:ro")]
    print("\n".join(options))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
