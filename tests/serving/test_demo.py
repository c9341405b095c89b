"""The page of ``mistere demo``: rendering, accepted and rejected input, and the whole page in a browser."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

from mistere.common.errors import MistereError, UsageError
from mistere.common.urls import endpoint_of
from mistere.data.audio import AudioError
from mistere.data.kinds.kind import UnreadableError
from mistere.serving.client import DialogueClient, EndpointError, EndpointPrediction
from mistere.serving.explanation import Explanation
from pipelines.cli.commands import demo
from pipelines.cli.demo import rendering
from pipelines.cli.demo.conversation import Conversation, ConversationTurn, LabelChange, judged, played
from pipelines.cli.demo.images import image_modalities, take_images
from pipelines.cli.demo.origin import AllowedHosts, check_public_url
from pipelines.cli.demo.server import closed_page, listen
from pipelines.cli.demo.sound import as_flac, take_recording
from tests.local.servers import free_port
from tests.serving.conftest import Server, clip
from tests.unit.data.test_kinds import claims

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> ${7*7} {{7*7}}"
HAS_GRADIO = importlib.util.find_spec("gradio") is not None
needs_gradio = pytest.mark.skipif(not HAS_GRADIO, reason="the package gradio is optional: pip install 'mistere[demo]'")


def prediction(
    turns: int, weights: Sequence[float] = (0.2, 0.3, 0.5), modalities: str = "speech+text"
) -> EndpointPrediction:
    return EndpointPrediction(
        predicted=["joy"] * turns,
        probabilities=np.tile(np.array([0.25, 0.625, 0.125], np.float32), (turns, 1)),
        expert_weights=np.tile(np.array(weights, np.float32), (turns, 1)),
        expert_probabilities=None,
        modalities=[modalities] * turns,
        parameters={"labels": "anger,joy,calm", "experts": "speech,text,cross_modal", "model_version": "0123abcd"},
    )


def answered(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
    return prediction(len(turns))


def all_views(conversation: Conversation) -> str:
    show = (rendering.show_trouble, rendering.show_last, rendering.show_timeline, rendering.show_conversation)
    return "".join(render(conversation) for render in show)


def tags(html: str) -> list[tuple[str, list[str]]]:
    start_tags: list[tuple[str, list[str]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: start_tags.append((tag, [name for name, _ in attributes]))  # type: ignore[method-assign]
    parser.feed(html)
    return start_tags


def test_hostile_text_is_escaped() -> None:
    def shown(words: str) -> str:
        answer = replace(
            prediction(1),
            predicted=[words],
            modalities=[words],
            parameters={"labels": f"{words},b,c", "experts": f"{words},text,x", "model_version": words},
        )
        return all_views(Conversation((ConversationTurn(words),), answer, trouble=words)) + rendering.heading(words)

    assert "<script" not in shown(HOSTILE) and shown(HOSTILE).count("&lt;script&gt;") >= 6
    assert tags(shown(HOSTILE)) == tags(shown("plain"))


def test_the_bars_of_a_turn_fill_its_column() -> None:
    answer = prediction(3, weights=(1 / 3, 1 / 3, 1 / 3))
    shown = rendering.show_timeline(Conversation((ConversationTurn("a"),) * 3, answer))
    columns = re.findall(r'class="m-stack".*?</div>', shown, re.DOTALL)
    assert len(columns) == 3
    for column in columns:
        heights = [float(height) for height in re.findall(r"height: ([\d.]+)%", column)]
        assert len(heights) == 3 and sum(heights) == pytest.approx(100, abs=0.1)
        assert all(color in column for color in ("#c06a14", "#3f76cf", "#22876a"))


def test_an_expert_the_model_lacks_is_not_shown() -> None:
    shown = rendering.show_timeline(Conversation((ConversationTurn("a"),), prediction(1, weights=(0, 1, 0))))
    assert "text" in shown and "speech" not in shown and "cross-modal" not in shown


def test_the_emotions_of_the_last_turn_are_sorted_by_probability() -> None:
    shown = rendering.show_last(Conversation((ConversationTurn("a"), ConversationTurn("b")), prediction(2)))
    assert re.findall(r"<dt>(\w+)</dt>", shown) == ["joy", "anger", "calm"]
    assert re.findall(r"width: ([\d.]+)%", shown) == ["62.50", "25.00", "12.50"]
    assert "turn 2" in shown


def test_what_decided_the_last_turn_is_drawn_as_bars() -> None:
    explanation = Explanation(
        ["speech", "text"],
        np.array([[0, 0], [-0.05, 0.475]], np.float32),
        np.array([0.625, 0.2], np.float32),
        np.array([[1, -1, -1], [0, -1, -1]], np.int32),
        np.array([[0.1, 0, 0], [-0.02, 0, 0]], np.float32),
    )
    turns = (ConversationTurn("a"), ConversationTurn("b"))
    shown = rendering.show_last(Conversation(turns, replace(prediction(2), explanation=explanation)))
    assert re.findall(r"<dt>(.*?)</dt>", shown)[3:] == ["the other turns alone", "its speech", "its text"]
    assert re.findall(r"width: ([\d.]+)%", shown)[3:] == ["20.00", "5.00", "47.50"]
    assert shown.count('class="m-against"') == 1 and "turn 1 (against it, 2 %)" in shown
    assert "m-why" not in rendering.show_last(Conversation(turns, prediction(2)))


def test_each_turn_has_its_emotion_and_all_probabilities() -> None:
    conversation = Conversation((ConversationTurn("Hello?"), ConversationTurn(None, b"x", 1.25)), prediction(2))
    timeline, talk = rendering.show_timeline(conversation), rendering.show_conversation(conversation)
    assert timeline.count("--share: 0.625") == timeline.count('class="m-chosen"') == 2
    assert "0123abcd" in timeline and "weights of experts" in timeline
    assert "not the probability that the expert is right" in timeline
    assert talk.count("<b>joy</b><span>62 %</span>") == 2
    assert "Hello?" in talk and "a recording of 1.2 s" in talk and "largest weight: cross-modal 50 %" in talk


@pytest.mark.parametrize(
    ("turn", "modalities", "description"),
    [
        (ConversationTurn("a", b"b"), "speech+text", "heard by speech and text"),
        (ConversationTurn("a"), "text", "heard by text (no audio)"),
        (ConversationTurn(None, b"b"), "speech", "heard by speech (no text)"),
        (ConversationTurn("a", b"b"), "text", "heard by text (audio not used)"),
        (ConversationTurn("a"), "none", "heard by nothing: judged by the turns around it (no audio, text not used)"),
    ],
)
def test_a_missing_modality_is_shown(turn: ConversationTurn, modalities: str, description: str) -> None:
    assert rendering.heard_by(turn, modalities) == description


def test_shares_are_described_in_words() -> None:
    assert [rendering.percent(share) for share in (0, 0.001, 0.62, 1)] == ["0 %", "<1 %", "62 %", "100 %"]


def test_non_finite_values_are_not_drawn() -> None:
    answer = replace(prediction(1, weights=(np.nan, np.nan, np.nan)), probabilities=np.full((1, 3), np.nan))
    shown = all_views(Conversation((ConversationTurn("a"),), answer))
    assert "nan" not in shown


@pytest.mark.parametrize(
    ("data", "rate"),
    [
        (clip(0.7), 16000),
        (clip(0.7, 48000, channels=2), 16000),
        (clip(0.7, 8000, "FLAC"), 8000),
        (clip(0.7, 44100, "OGG"), 16000),
    ],
)
def test_a_recording_becomes_flac(tmp_path: Path, data: bytes, rate: int) -> None:
    file = tmp_path / "recording"
    file.write_bytes(data)
    flac, seconds = take_recording(file)
    assert not file.exists()
    assert flac[:4] == b"fLaC" and seconds == pytest.approx(0.7, abs=0.01)
    wave, actual_rate = soundfile.read(io.BytesIO(flac))
    assert actual_rate == rate and wave.ndim == 1 and len(wave) == pytest.approx(0.7 * rate, abs=2)
    assert 0.28 < np.abs(wave).max() < 0.34


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "empty"), (b"no audio", "does not decode"), (clip(31), "at most 30 seconds")]
)
def test_an_invalid_recording_is_rejected_and_deleted(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "recording"
    file.write_bytes(data)
    with pytest.raises(AudioError, match=message):
        take_recording(file)
    assert not file.exists()
    with pytest.raises(AudioError, match=message):
        as_flac(data)


def test_labels_that_a_later_turn_changed_are_marked() -> None:
    predicted = {1: ["joy"], 2: ["joy", "calm"], 3: ["anger", "calm", "joy"], 4: ["anger", "joy", "joy", "calm"]}

    def ask(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
        return replace(prediction(len(turns)), predicted=predicted[len(turns)])

    turns = [ConversationTurn(str(number)) for number in range(4)]
    conversation = Conversation()
    for count in range(1, 5):
        conversation = judged(conversation, turns[:count], ask)
    changes = [conversation.last_change(turn) for turn in range(4)]
    assert changes == [LabelChange("joy", 2), LabelChange("calm", 3), None, None]
    talk, timeline = rendering.show_conversation(conversation), rendering.show_timeline(conversation)
    assert re.findall(r'm-changed">([^<]+)', talk) == ["was joy until turn 3", "was calm until turn 4"]
    assert re.findall(r'class="m-earlier"[^>]*title="([^"]+)"', timeline) == [
        "joy: 62 %, predicted until turn 3",
        "calm: 12 %, predicted until turn 4",
    ]
    assert "dashed frame" in timeline

    assert played(Conversation(), turns, ask).labels == conversation.labels
    shorter = judged(conversation, turns[:3], ask)  # removing a turn removes the change by it
    assert [shorter.last_change(turn) for turn in range(3)] == [LabelChange("joy", 2), None, None]
    at_once = judged(Conversation(), turns, ask)
    assert not any(at_once.last_change(turn) for turn in range(4))
    assert "dashed" not in rendering.show_timeline(at_once) and "m-changed" not in rendering.show_conversation(at_once)
    others = judged(conversation, [ConversationTurn("x"), *turns[1:]], ask)
    assert not any(others.last_change(turn) for turn in range(4))
    before = judged(Conversation(), turns[:1], answered)
    failed = played(before, [*turns, *turns], lambda given: ask(given[:4]))
    assert failed.turns == before.turns and "does not fit" in failed.trouble


def test_a_context_turn_has_no_emotion() -> None:
    def ask(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
        answer = prediction(len(turns))
        flags = np.array([[turn.predict] for turn in turns])
        return replace(
            answer,
            predicted=[label if turn.predict else "" for label, turn in zip(answer.predicted, turns, strict=True)],
            probabilities=answer.probabilities * flags,
            expert_weights=answer.expert_weights * flags,
        )

    from pipelines.cli.demo.page import added

    first = added(Conversation(), "How can I help?", None, ask, predict=False)
    assert first.turns == (ConversationTurn("How can I help?", predict=False),)
    talk = rendering.show_conversation(added(first, "How dare you!", None, ask))
    assert talk.count("<b>context</b><span></span>") == 1 and talk.count("<b>joy</b>") == 1
    assert talk.count("largest weight") == 1 and "m-chosen" not in rendering.show_timeline(first)


def test_a_rejected_turn_is_not_added() -> None:
    def refuse(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
        raise EndpointError("http://x answered 413: the request\nis too large.", "413")

    def misfit(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
        return prediction(len(turns) + 1)

    def garbled(turns: Sequence[ConversationTurn]) -> EndpointPrediction:
        raise KeyError("outputs")

    before = judged(Conversation(), [ConversationTurn("Hello?")], answered)
    assert len(before.turns) == 1 and not before.trouble
    for predict, message in (
        (refuse, "Http://x answered 413: the request is too large."),
        (misfit, "does not fit"),
        (garbled, "cannot be read"),
    ):
        after = judged(before, (*before.turns, ConversationTurn("b")), predict)
        assert after.turns == before.turns and after.answer is before.answer and message in after.trouble
        assert 'role="alert"' in rendering.show_trouble(after)
    assert judged(before, (), refuse) == Conversation()


def test_an_empty_turn_is_ignored() -> None:
    from pipelines.cli.demo.page import added, guarded

    assert added(Conversation(), "  ", None, answered).trouble == "Type what is said, or record it."
    assert added(Conversation(), " Hello ", None, answered).turns == (ConversationTurn("Hello"),)
    assert "Internal error" in guarded(Conversation(), lambda: Conversation(1 // 0)).trouble  # type: ignore[arg-type]


def image_file(folder: Path, name: str, size: tuple[int, int], form: str = "PNG") -> Path:
    file = folder / name
    PIL.Image.new("RGB", size, (90, 20, 200)).save(file, form)
    return file


def test_images_of_a_turn_are_read_scaled_and_deleted(tmp_path: Path) -> None:
    from pipelines.cli.demo.page import added

    small, large = image_file(tmp_path, "a.png", (40, 30)), image_file(tmp_path, "b.jpg", (1200, 600), "JPEG")
    content = small.read_bytes()
    after = added(Conversation(), None, None, answered, images={"face": [str(small), str(large)]})
    (turn,) = after.turns
    first, second = turn.others["face"]
    assert first == content and PIL.Image.open(io.BytesIO(second)).size == (384, 192)
    assert not small.exists() and not large.exists()
    shown = rendering.show_conversation(after)
    assert "face: 2 images" in shown and "recording" not in shown and "face not used" in shown
    assert rendering.heard_by(turn, "face") == "heard by face (no audio, no text)"


def test_images_that_cannot_be_read_are_refused_and_deleted(tmp_path: Path) -> None:
    from pipelines.cli.demo.page import added, guarded

    for content, message in (
        (b"GIF89a", "no JPEG or PNG image"),
        (claims(60000, 60000), "has more than 8294400 pixels"),
    ):
        file = tmp_path / "upload"
        file.write_bytes(content)
        images = {"face": [str(file)]}
        after = guarded(
            Conversation(), lambda given=images: added(Conversation(), "Well.", None, answered, images=given)
        )  # type: ignore[misc]
        assert not after.turns and message in after.trouble and not file.exists()
    with pytest.raises(UnreadableError, match="There are 65 images; a turn takes at most 64"):
        take_images(image_file(tmp_path, f"{number}.png", (2, 2)) for number in range(65))
    assert not list(tmp_path.iterdir())


def test_only_modalities_of_images_get_a_field() -> None:
    inputs = [{"name": name} for name in ("text", "audio", "face", "acoustic", "predict", "face_embedding")]
    limits = {"limit.face.frames": "64", "limit.acoustic.width": "16384"}
    assert image_modalities({"inputs": inputs, "properties": limits}) == ["face"]
    assert image_modalities({"inputs": inputs[:2]}) == []


def test_without_gradio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest)
    )
    with pytest.raises(UsageError, match=r"pip install 'mistere\[demo\]'") as raised:
        demo.demo(None, None, tmp_path, "127.0.0.1", 0)
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)


@needs_gradio
def test_errors_are_reported_before_the_page_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)

    def error_message(url: str | None, port: int = 0) -> str:
        with pytest.raises(MistereError) as raised:
            demo.demo(None, url, tmp_path, "127.0.0.1", port)
        return str(raised.value)

    assert "nothing answers" in error_message(f"http://me:secret@127.0.0.1:{free_port()}")
    assert "secret" not in error_message(f"http://me:secret@127.0.0.1:{free_port()}")
    assert "starts with http" in error_message("localhost:8080")
    assert "nothing is deployed" in error_message(None)
    with listen("127.0.0.1", 0) as listener:
        assert "cannot be used (address already in use)" in error_message(None, listener.getsockname()[1])
    with pytest.raises(UsageError, match="no such address"):
        listen("no.such.host.invalid", 0)


def test_the_address_on_the_page_holds_no_password() -> None:
    assert endpoint_of("http://me:secret@host:80/a?token=x") == "http://host:80/a"


@pytest.mark.parametrize(
    "path", ["/gradio_api/info", "/gradio_api/call/on_add", "/gradio_api/proxy=http://x", "/monitoring"]
)
def test_endpoints_of_gradio_are_disabled(path: str) -> None:
    assert _ask(path)[0]["status"] == 404


def test_the_page_loads_nothing_from_other_hosts() -> None:
    start, body = _ask("/")
    assert body["body"] == b'<meta name="a" content="b"/>'
    headers = dict(start["headers"])
    assert headers[b"content-length"] == b"28" and b"default-src 'self'" in headers[b"content-security-policy"]


LOCAL, PUBLIC = AllowedHosts("127.0.0.1"), AllowedHosts("0.0.0.0", "https://demo.example.org")


@pytest.mark.parametrize(
    ("hosts", "host", "origin", "status"),
    [
        (LOCAL, "127.0.0.1:7860", None, 200),
        (LOCAL, "localhost:7860", "http://localhost:7860", 200),
        (LOCAL, "[::1]:7860", "http://[::1]:7860", 200),
        (LOCAL, "LOCALHOST:9000", "http://localhost:9000", 200),  # a port that SSH forwards
        (LOCAL, "rebound.example:7860", "http://rebound.example:7860", 421),
        (LOCAL, "localhost.rebound.example", None, 421),
        (LOCAL, "127.0.0.1.rebound.example", None, 421),
        (LOCAL, "192.168.0.9:7860", None, 421),
        (LOCAL, "demo.example.org", None, 421),
        (LOCAL, "user@localhost@rebound.example", None, 421),
        (LOCAL, "", None, 421),
        (LOCAL, None, None, 421),
        (LOCAL, "[::1", None, 421),
        (LOCAL, "localhost:7860", "http://rebound.example:7860", 403),
        (LOCAL, "localhost:7860", "http://localhost:3000", 403),
        (LOCAL, "localhost:7860", "https://localhost:7860", 403),
        (LOCAL, "localhost:7860", "null", 403),
        (LOCAL, "localhost:7860", "", 403),
        (PUBLIC, "192.168.0.9:7860", "http://192.168.0.9:7860", 200),
        (PUBLIC, "demo.example.org", "https://demo.example.org", 200),
        (PUBLIC, "127.0.0.1:7860", "https://demo.example.org", 200),  # a proxy that sends its own Host
        (PUBLIC, "demo.example.org", "https://other.example.org", 403),
        (PUBLIC, "rebound.example", "https://demo.example.org", 421),
    ],
)
def test_only_the_page_itself_is_answered(
    hosts: AllowedHosts, host: str | None, origin: str | None, status: int
) -> None:
    given = [(b"host", host), (b"origin", origin)]
    headers = [(name, value.encode()) for name, value in given if value is not None]
    for path in ("/", "/gradio_api/queue/join"):
        assert _ask(path, headers, hosts)[0]["status"] == status


def test_repeated_hosts_and_websockets_are_refused() -> None:
    twice = [(b"host", b"localhost:7860"), (b"host", b"rebound.example")]
    assert _ask("/", twice)[0]["status"] == 421
    assert _ask("/", twice[:1], kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_a_public_url_is_an_address_without_a_path() -> None:
    for url in (
        "demo.example.org",
        "https://demo.example.org/page",
        "ftp://demo.example.org",
        "https://me@x",
        "https://",
    ):
        with pytest.raises(UsageError, match="--public-url"):
            check_public_url(url)
    check_public_url("https://demo.example.org/")


def _ask(
    path: str,
    headers: Sequence[tuple[bytes, bytes]] = ((b"host", b"localhost"),),
    hosts: AllowedHosts = LOCAL,
    kind: str = "http",
) -> list[dict[str, Any]]:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
        await send({"type": "http.response.body", "body": b'<meta name="a" content="b"/><meta\n', "more_body": True})
        await send({"type": "http.response.body", "body": b' content="https://elsewhere.example/x.jpg" />'})

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    scope = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(closed_page(inner, hosts)(scope, receive, send))
    return sent


def test_an_error_on_the_page_holds_no_password() -> None:
    client = DialogueClient(f"http://me:secret@127.0.0.1:{free_port()}", model_name="mistere")
    after = judged(Conversation(), [ConversationTurn("a")], partial(demo._ask, client))
    assert after.trouble == "The predictor does not answer (ConnectError): check that the server runs."


def test_errors_of_the_endpoint_are_on_the_page(server: Server) -> None:
    ask = partial(demo._ask, server.client)
    before = judged(Conversation(), [ConversationTurn("a", clip(1))], ask)
    after = judged(before, [*before.turns, ConversationTurn("b", as_flac(clip(9))[0])], ask)
    assert len(before.turns) == len(after.turns) == 1 and after.trouble.startswith("The predictor answered 4")
