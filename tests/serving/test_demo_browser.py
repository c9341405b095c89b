"""``mistere demo`` end to end: a bundle's example dialogue, a local predictor, and the page in a browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from mistere.common.errors import UsageError
from pipelines.cli.commands import demo
from tests.local.servers import free_port
from tests.serving.browser import CHROMIUM, Tab, browser
from tests.serving.conftest import ROOT, clip
from tests.serving.test_demo import HOSTILE, needs_gradio
from tests.serving.test_other_modalities import image


@contextmanager
def running_demo(folder: Path, *arguments: str) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from pipelines.cli.app import main; main()",
        "demo",
        *arguments,
        "--port",
        str(port),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    log = folder / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + 120
        while "the page is at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) in (0, 130, -signal.SIGINT), log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def bundle_with_example(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    from mistere.artifacts.io import artifact_key, open_artifact, publish
    from mistere.artifacts.manifests import ModelBundle
    from mistere.artifacts.object_store import LocalStore
    from mistere.data.dataset import Utterance
    from mistere.serving.example_dialogue import Example, write_example

    root, _, digest = bundle.rpartition("/artifacts/ModelBundle/")
    store = LocalStore(Path(root))
    original = open_artifact(store, ModelBundle, digest)
    work = tmp_path_factory.mktemp("with_example") / "bundle"
    shutil.copytree(original.path, work, ignore=shutil.ignore_patterns("manifest.json"))
    dialogue = [
        Utterance("example", 0, "", "Hello?", clip(0.8)),
        Utterance("example", 1, "", "Yes."),
        Utterance("example", 2, ""),
    ]
    write_example(work, Example(dialogue, np.full((3, 4), 0.25, np.float32)))
    manifest = original.manifest.model_copy(update={"name": "with example"})
    return store.location(artifact_key("ModelBundle", publish(store, manifest, work).digest))


def test_the_example_of_a_bundle(bundle: str, bundle_with_example: str) -> None:
    turns = demo._example(bundle_with_example)
    assert [(turn.text, bool(turn.audio), round(turn.seconds, 1)) for turn in turns] == [
        ("Hello?", True, 0.8),
        ("Yes.", False, 0),
        (None, False, 0),
    ]
    assert demo._example(bundle) == []
    with pytest.raises(UsageError, match="there is no bundle at"):
        demo._example("/nowhere")


@pytest.mark.long
@needs_gradio
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_in_a_browser(bundle_with_example: str, tmp_path: Path) -> None:
    with running_demo(tmp_path, bundle_with_example) as url, browser(tmp_path) as tab:
        served = httpx.get(url).text
        assert not re.search(r"(src|href|content)=\"https?://", served)
        assert httpx.get(f"{url}/gradio_api/info").status_code == 404
        tab.open(url, 1280, 900)
        tab.wait("!!document.querySelector('#add')")
        assert "nowhere else" in tab.value("document.body.innerText")

        add_turn(tab, HOSTILE, turns=1)
        assert "<script>alert(1)</script>" in tab.value("document.querySelector('.m-said').innerText")
        assert "${7*7} {{7*7}}" in tab.value("document.querySelector('.m-said').innerText")
        assert "no audio" in tab.value("document.querySelector('.m-said').innerText")

        recording = tmp_path / "turn.wav"
        recording.write_bytes(clip(1.5, 44100))
        tab.click("#sound button[aria-label='Upload file'], #sound button[aria-label*='pload']")
        tab.wait("!!document.querySelector('#sound input[type=file]')")
        tab.choose("#sound input[type=file]", recording)
        tab.wait("!document.querySelector('#sound input[type=file]')")
        add_turn(tab, "At home. Why?", turns=2)
        assert "heard by speech and text" in tab.value("[...document.querySelectorAll('.m-said')].pop().innerText")
        assert tab.value("document.querySelectorAll('.m-heat thead th').length") == 3
        assert tab.value("document.querySelectorAll('.m-stack').length") == 2
        widths = tab.value(
            "[...document.querySelectorAll('.m-bars:not(.m-reasons) i')].map(bar => parseFloat(bar.style.width))"
        )
        assert len(widths) == 4 and sum(widths) == pytest.approx(100, abs=0.1)

        parts = tab.value("[...document.querySelectorAll('.m-reasons dt')].map(part => part.innerText)")
        assert parts == ["the other turns alone", "its speech", "its text"]

        tab.picture(tmp_path / "two-turns.png")
        assert (tmp_path / "two-turns.png").stat().st_size > 20_000

        tab.click("#add")
        tab.wait("!!document.querySelector('#trouble [role=alert]')")
        tab.click("#remove")
        tab.wait("document.querySelectorAll('.m-turns li').length == 1")
        assert not tab.value("!!document.querySelector('#trouble [role=alert]')")
        tab.click("#example")
        tab.wait("document.querySelectorAll('.m-turns li').length == 3")
        tab.click("#clear")
        tab.wait("document.querySelectorAll('.m-turns li').length == 0")

        for dark in (False, True):
            tab.open(url, 400, 800, dark)
            tab.wait("!!document.querySelector('#example')")
            tab.click("#example")
            tab.wait("document.querySelectorAll('.m-turns li').length == 3")
            assert tab.value("document.documentElement.scrollWidth") <= 400
        hosts = {address.split("/")[2] for address in tab.requested if address.startswith(("http", "ws"))}
        assert hosts == {url.removeprefix("http://")}
        assert tab.complaints == []


@pytest.mark.long
@needs_gradio
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_images_in_a_browser(bundle_of_four: str, tmp_path: Path) -> None:
    with running_demo(tmp_path, bundle_of_four) as url, browser(tmp_path) as tab:
        tab.open(url, 1280, 900)
        tab.wait("!!document.querySelector('#images-0 input[type=file]')")
        assert "Images: face" in tab.value("document.querySelector('#images-0').innerText")
        assert not tab.value("!!document.querySelector('#images-1')")
        (tmp_path / "face.png").write_bytes(image(90))
        tab.choose("#images-0 input[type=file]", tmp_path / "face.png")
        tab.wait(
            "document.querySelector('#images-0').innerText.includes('face')&&!document.querySelector('#images-0 input[type=file]')"
        )
        add_turn(tab, "At home.", turns=1)
        said = tab.value("document.querySelector('.m-said').innerText")
        assert "face: 1 image" in said and "heard by text and face" in said
        tab.wait("!!document.querySelector('#images-0 input[type=file]')")
        (tmp_path / "photo.png").write_bytes(b"GIF89a")
        tab.choose("#images-0 input[type=file]", tmp_path / "photo.png")
        tab.wait("!document.querySelector('#images-0 input[type=file]')")
        tab.click("#add")
        tab.wait("!!document.querySelector('#trouble [role=alert]')")
        assert "no JPEG or PNG image" in tab.value("document.querySelector('#trouble').innerText")
        hosts = {address.split("/")[2] for address in tab.requested if address.startswith(("http", "ws"))}
        assert hosts == {url.removeprefix("http://")} and tab.complaints == []


def add_turn(tab: Tab, text: str, turns: int) -> None:
    tab.type("#words textarea, #words input", text)
    tab.click("#add")
    tab.wait(f"document.querySelectorAll('.m-turns li').length == {turns}")
    tab.wait("document.querySelector('#words textarea, #words input').value === ''")
