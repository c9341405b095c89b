"""Invented secrets in every place where a user may put one, and the search for them in everything that a command leaves behind."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path

CANARY = "canary-5e7d"
"""The start of every planted secret."""


def planted(place: str) -> str:
    """The secret that is planted in a place."""
    return f"{CANARY}-{place}-0123456789"


def environment(home: Path) -> dict[str, str]:
    """Environment variables with secrets, and a home directory whose ``.netrc`` holds one."""
    home.mkdir(parents=True, exist_ok=True)
    netrc = home / ".netrc"
    netrc.write_text(f"machine mlflow.example.org login me password {planted('netrc')}\n")
    netrc.chmod(0o600)
    return {
        "HOME": str(home),
        "NETRC": str(netrc),
        "AWS_ACCESS_KEY_ID": planted("key-id"),
        "AWS_SECRET_ACCESS_KEY": planted("s3-key"),
        "AWS_SESSION_TOKEN": planted("s3-session"),
        "HF_TOKEN": planted("hub"),
        "KFP_TOKEN": planted("kfp"),
        "MLFLOW_TRACKING_PASSWORD": planted("mlflow"),
        "MISTERE_WEBHOOK_URL": f"https://hooks.invalid/services/{planted('webhook')}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer {planted('header')}",
        "HTTPS_PROXY": f"http://me:{planted('proxy')}@proxy.invalid:3128",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def leaks(folders: Iterable[Path], texts: Mapping[str, str | bytes]) -> list[str]:
    """Where a planted secret appears, as it is or as HTTP's basic authentication encodes it.

    Args:
        folders: all files below are read, databases included.
        texts: output, requests and objects by a name for them.
    """
    contents = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    contents |= {name: text.encode() if isinstance(text, str) else text for name, text in texts.items()}
    places = ("tracking", "mlflow", "remote", "proxy", "netrc", "query")
    encoded = [base64.b64encode(f"me:{planted(place)}".encode())[:-4] for place in places]
    forms = [CANARY.encode(), CANARY.replace("-", "%2D").encode(), *encoded]
    return [
        f"{name}: {content[max(0, at - 60) : at + 60]!r}"
        for name, content in contents.items()
        for form in forms
        if (at := content.find(form)) >= 0
    ]
