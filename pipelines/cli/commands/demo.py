"""``mistere demo``: a web page to try a predictor with."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mistere.common.errors import MissingPackageError, MistereError, UsageError
from mistere.common.secrets.redaction import redact
from mistere.common.urls import endpoint_of
from mistere.serving.client import DialogueClient, EndpointError, EndpointPrediction
from mistere.serving.protocol import MODALITY_CONTRIBUTIONS
from pipelines.cli.demo.conversation import ConversationTurn
from pipelines.cli.demo.images import image_modalities
from pipelines.cli.demo.live import live_audio
from pipelines.cli.demo.origin import AllowedHosts, check_public_url

_EXPLAINED_TURNS = 32
"""Longer conversations are shown without reasons, which would take longer with each turn."""
_WAIT_SECONDS = 5.0


def demo(bundle: str | None, url: str | None, output: Path, host: str, port: int, public_url: str = "") -> None:
    """Serve the page until interrupted.

    Args:
        bundle: location of a bundle; None for the one that is deployed in ``output``. With ``url``, only its example is used.
        url: a running predictor; None starts one.
        output: the folder of ``mistere run``.
        host: address to listen on.
        port: port to listen on.
        public_url: the address of the page behind a proxy; empty for none.

    Raises:
        MissingPackageError: Gradio is not installed.
        UsageError: nothing is deployed, the port is taken, or an address is invalid.
        MistereError: the predictor does not become ready.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingPackageError("the page needs gradio, which is not installed: pip install 'mistere[demo]'.")
    signal.signal(signal.SIGTERM, _leave)
    from pipelines.cli.demo.server import listen

    if public_url:
        check_public_url(public_url)
    hosts = AllowedHosts(host, public_url)
    with listen(host, port) as listener:
        if url is None:
            _with_predictor(bundle, output, listener, hosts)
        else:
            client = _running(url)
            _serve(client, endpoint_of(url), _example(bundle) if bundle else [], listener, hosts)


def _running(url: str) -> DialogueClient:
    """A client of a predictor that is already running."""
    client = DialogueClient(url)
    try:
        client.wait_ready(_WAIT_SECONDS)
    except EndpointError as error:
        reason = f"it answers {error.code}" if error.code else "nothing answers"
        raise MistereError(
            f"no predictor is ready at {endpoint_of(url)} ({reason}): give the REST address of `mistere serve`."
        ) from error
    return client


def _with_predictor(bundle: str | None, output: Path, listener: socket.socket, hosts: AllowedHosts) -> None:
    """Start a predictor, and serve the page until interrupted."""
    from mistere.config.deployment import DeploymentConfig
    from mistere.serving.deployment import service_and_bundle
    from mistere.serving.local_predictor import last_line, local_predictor

    service, location = service_and_bundle(output, bundle)
    with tempfile.TemporaryDirectory(prefix="mistere-demo-") as scratch:
        log = Path(scratch) / "log"
        with local_predictor(location, service, log) as (client, wait_ready):
            print(f"starting the predictor of {location}", flush=True)
            try:
                wait_ready(DeploymentConfig().ready_timeout)
            except EndpointError as error:
                raise MistereError(f"the predictor did not become ready: {error}{last_line(log)}") from error
            _serve(client, "a predictor on this machine", _example(location), listener, hosts)


def _serve(
    client: DialogueClient,
    destination: str,
    example: Sequence[ConversationTurn],
    listener: socket.socket,
    hosts: AllowedHosts,
) -> None:
    with tempfile.TemporaryDirectory(prefix="mistere-demo-") as uploads:
        # Gradio reads these when it is imported.
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=uploads
        )
        from pipelines.cli.demo.page import build_page
        from pipelines.cli.demo.server import serve_page

        metadata = client.metadata()
        explains = any(output["name"] == MODALITY_CONTRIBUTIONS for output in metadata.get("outputs", ()))
        live = live_audio(client.url, metadata)
        page = build_page(
            partial(_ask, client, explains=explains), destination, example, image_modalities(metadata), live
        )
        serve_page(
            page,
            listener,
            hosts,
            lambda address: print(f"the page is at {address}  stop with Ctrl-C", flush=True),
            live,
        )


def _ask(client: DialogueClient, turns: Sequence[ConversationTurn], explains: bool = False) -> EndpointPrediction:
    """Query the predictor, with an explanation if it gives any; the page is not shown its address in an error."""
    try:
        return client.predict_rest(turns, "explain" if explains and len(turns) <= _EXPLAINED_TURNS else False)
    except EndpointError as error:
        raise EndpointError(str(error).replace(redact(client.url), "the predictor"), error.code) from error


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit as on Ctrl-C: the predictor is stopped and recordings are deleted."""
    raise KeyboardInterrupt


def _example(location: str) -> list[ConversationTurn]:
    """The example dialogue of a bundle; empty if it has none."""
    from mistere.artifacts.io import open_artifact
    from mistere.artifacts.locations import split_bundle_location
    from mistere.artifacts.manifests import ModelBundle
    from mistere.artifacts.object_store import open_store
    from mistere.data.audio import decode_recording
    from mistere.serving.example_dialogue import read_example
    from mistere.serving.vectors import VectorDialogue

    root, digest = split_bundle_location(location)
    example = read_example(open_artifact(open_store(root), ModelBundle, digest).path)
    dialogue = example.dialogue if example else []
    if isinstance(dialogue, VectorDialogue):
        raise UsageError(
            f"the model at {location} takes vectors, and the page has text and speech only: query it with `mistere predict`."
        )
    turns = []
    for utterance in dialogue:
        recording = decode_recording(utterance.audio) if utterance.audio else None
        seconds = len(recording.wave) / recording.rate if recording else 0.0
        predicted = utterance.label is not None
        turns.append(ConversationTurn(utterance.text, utterance.audio, seconds, predicted, utterance.others))
    return turns
