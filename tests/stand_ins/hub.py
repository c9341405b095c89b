"""The Hugging Face hub as far as a download looks: statuses and headers as ``huggingface_hub`` 2.4 reads them from the real one.

``huggingface_hub.utils._http.hf_raise_for_status`` names the headers and the classes of errors. The statuses of a gated model are those
of public reports: its description is answered to everybody (huggingface/huggingface.js#945), its files with 401 without a token
(vllm-project/semantic-router#817) and with 403 to a user who has no access (ariG23498/gemma3-object-detection#5). A model that does not
exist is answered with 401 to an anonymous caller, as a private one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SHA = "86b5e0934494bd15c9632b12f734a8a67f723594"
GATED = "meta/gated"
MODELS = {
    "bert-base-uncased": ["config.json", "model.safetensors", "tokenizer.json"],
    GATED: ["config.json", "model.safetensors"],
    "old/pickled": ["config.json", "pytorch_model.bin"],
    "no/configuration": ["model.safetensors"],
}
BAD_TOKEN, TOKEN = "hf_bad", "hf_good"
Reply = tuple[int, dict[str, str], bytes]


class Hub:
    """The state of the hub.

    Attributes:
        url: its address.
        down: a status that every request is answered with; 0 for none.
    """

    def __init__(self, url: str) -> None:
        self.url, self.down = url, 0

    def reply(self, path: str, token: str) -> Reply:
        """The answer to a request with a token; empty for an anonymous one."""
        if self.down:
            return self.down, {}, b""
        if token == BAD_TOKEN:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        api = path.startswith("/api/models/")
        name, _, rest = (
            path.removeprefix("/api/models/").removeprefix("/").partition("/revision/" if api else "/resolve/")
        )
        revision, _, file = rest.partition("/")
        if name not in MODELS:
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            return status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": message}, b""
        if revision and revision not in {"main", SHA}:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        if api:
            siblings = [{"rfilename": one} for one in MODELS[name]]
            about = {"id": name, "sha": SHA, "gated": "manual" if name == GATED else False, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if name == GATED:
            restricted = f"Access to model {name} is restricted"
            return (403 if token else 401), {"X-Error-Code": "GatedRepo", "X-Error-Message": restricted}, b""
        if file not in MODELS[name]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        return 200, {"X-Repo-Commit": SHA, "ETag": '"etag"'}, b"{}"


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            status, headers, body = hub.reply(unquote(self.path.partition("?")[0]), self.token())
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
