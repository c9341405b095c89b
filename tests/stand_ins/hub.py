"""The Hugging Face hub as far as a download looks: statuses and headers as ``huggingface_hub`` 2.4 reads them from the real one.

``huggingface_hub.utils._http.hf_raise_for_status`` names the headers and the classes of errors. The statuses of a gated model are those
of public reports: its description is answered to everybody (huggingface/huggingface.js#945), its files with 401 without a token
(vllm-project/semantic-router#817) and with 403 to a user who has no access (ariG23498/gemma3-object-detection#5). A model that does not
exist is answered with 401 to an anonymous caller, as a private one.

A description states ``config.model_type`` and, of weights in safetensors, ``safetensors.parameters``: their number by type, of
``model.safetensors`` or the shards of its index (``huggingface_hub.hf_api.ModelInfo``); the sizes of files only with ``blobs``. A part of
a file is answered with 206, as ``HfApi.parse_safetensors_file_metadata`` asks for a header.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

SHA = "86b5e0934494bd15c9632b12f734a8a67f723594"
GATED = "meta/gated"
MODELS = {
    "bert-base-uncased": ["config.json", "model.safetensors", "tokenizer.json"],
    GATED: ["config.json", "model.safetensors"],
    "old/pickled": ["config.json", "pytorch_model.bin"],
    "no/configuration": ["model.safetensors"],
}
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
"""Bytes of a value by type."""
BAD_TOKEN, TOKEN = "hf_bad", "hf_good"
Reply = tuple[int, dict[str, str], bytes]


Tensors = dict[str, tuple[str, int]]
"""Types and numbers of values of a file's tensors by name."""


@dataclass
class Weights:
    """A model with weights of any size, of which only the headers exist.

    Attributes:
        configuration: its ``config.json``.
        files: the tensors of each safetensors file.
        counted: whether the hub states the numbers of weights by type.
    """

    configuration: dict[str, object]
    files: dict[str, Tensors]
    counted: bool = True

    def header(self, file: str) -> bytes:
        """A file up to its values."""
        start, header = 0, {}
        for name, (kind, count) in self.files[file].items():
            end = start + count * BYTES[kind]
            header[name] = {"dtype": kind, "shape": [count], "data_offsets": [start, end]}
            start = end
        content = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        return len(content).to_bytes(8, "little") + content

    def size(self, file: str) -> int:
        """Bytes of a file."""
        return len(self.header(file)) + sum(count * BYTES[kind] for kind, count in self.files[file].values())

    def parameters(self) -> dict[str, int]:
        """Numbers of weights by type, of the model's own files alone."""
        counts: Counter[str] = Counter()
        for file, tensors in self.files.items():
            if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", file):
                for kind, count in tensors.values():
                    counts[kind] += count
        return dict(counts)


class Hub:
    """The state of the hub.

    Attributes:
        url: its address.
        down: a status that every request is answered with; 0 for none.
        large: models with weights, by name.
    """

    def __init__(self, url: str) -> None:
        self.url, self.down = url, 0
        self.large: dict[str, Weights] = {}

    def reply(self, path: str, token: str, blobs: bool = False) -> Reply:
        """The answer to a request with a token; empty for an anonymous one.

        Args:
            path: of the request.
            token: of its header.
            blobs: whether the sizes of files are asked for.
        """
        if self.down:
            return self.down, {}, b""
        if token == BAD_TOKEN:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        api = path.startswith("/api/models/")
        name, _, rest = (
            path.removeprefix("/api/models/").removeprefix("/").partition("/revision/" if api else "/resolve/")
        )
        revision, _, file = rest.partition("/")
        large = self.large.get(name)
        if name not in MODELS and large is None:
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            return status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": message}, b""
        if revision and revision not in {"main", SHA}:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        if api:
            about = {"id": name, "sha": SHA, "gated": "manual" if name == GATED else False}
            about["siblings"] = [{"rfilename": one} for one in MODELS.get(name, ())]
            if large is not None:
                about |= self._described(large, blobs)
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if name == GATED:
            restricted = f"Access to model {name} is restricted"
            return (403 if token else 401), {"X-Error-Code": "GatedRepo", "X-Error-Message": restricted}, b""
        if large is not None and file in large.files:
            return 200, {"X-Repo-Commit": SHA, "ETag": '"etag"'}, large.header(file)
        if large is not None and file == "config.json":
            return 200, {"X-Repo-Commit": SHA, "ETag": '"etag"'}, json.dumps(large.configuration).encode()
        if file not in MODELS.get(name, ()):
            return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        return 200, {"X-Repo-Commit": SHA, "ETag": '"etag"'}, b"{}"

    @staticmethod
    def _described(large: Weights, blobs: bool) -> dict[str, object]:
        siblings: list[dict[str, object]] = [{"rfilename": "config.json"}]
        siblings += [{"rfilename": file, **({"size": large.size(file)} if blobs else {})} for file in large.files]
        about: dict[str, object] = {"siblings": siblings}
        if large.counted:
            counts = large.parameters()
            about["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
            about["config"] = {"model_type": large.configuration["model_type"]}
        return about


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What ``HF_ENDPOINT`` sets when ``huggingface_hub`` is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{url}{template}")


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    """Let ``huggingface_hub`` ask a hub with an empty cache, in a folder, and no token."""
    use_endpoint(monkeypatch, url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, headers, body = hub.reply(unquote(path), self.token(), "blobs=" in query)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if status == 200 and wanted:
                status, body = 206, body[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  (the name that http.server calls)

        def token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
