"""The Gradio page: its inputs, and the views rendered by :mod:`pipelines.cli.demo.rendering`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.common.errors import MistereError
from mistere.serving.protocol import MAX_UTTERANCE_SECONDS
from pipelines.cli.demo import rendering
from pipelines.cli.demo.conversation import Ask, Conversation, ConversationTurn, judged, played, troubled
from pipelines.cli.demo.images import take_images
from pipelines.cli.demo.live import LiveAudio
from pipelines.cli.demo.sound import take_recording

if TYPE_CHECKING:
    import gradio

_MAX_CHARACTERS = 2000
_MAX_QUEUE = 16
_KEPT_SECONDS = 3600  # lifetime of an idle conversation
_SWEEP_SECONDS, _UPLOAD_SECONDS = 60, 600  # cleanup of uploads that were not added as a turn
_FONTS = ("system-ui", "Segoe UI", "DejaVu Sans", "sans-serif")
_MONOSPACE = ("ui-monospace", "DejaVu Sans Mono", "monospace")
_INTERNAL_ERROR = "Internal error: see the terminal of mistere demo for the traceback."


def build_page(
    ask: Ask,
    destination: str,
    example: Sequence[ConversationTurn] = (),
    images: Sequence[str] = (),
    live: LiveAudio | None = None,
) -> gradio.Blocks:
    """Build the page without serving it.

    Args:
        ask: maps turns to the model's prediction.
        destination: where the page sends its input, in words.
        example: a conversation to try; without one the button is hidden.
        images: the modalities of the model that take images, each of which gets a field.
        live: what answers the microphone; None for a page without one.
    """
    import gradio as gr

    with gr.Blocks(
        title="Emotions in a conversation",
        analytics_enabled=False,
        delete_cache=(_SWEEP_SECONDS, _UPLOAD_SECONDS),
    ) as page:
        state = gr.State(Conversation(), time_to_live=_KEPT_SECONDS)
        gr.HTML(rendering.heading(destination), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                words = gr.Textbox(
                    label="What is said",
                    placeholder="How dare you!",
                    max_lines=4,
                    max_length=_MAX_CHARACTERS,
                    elem_id="words",
                )
                sound = gr.Audio(
                    label=f"How it is said (optional, {MAX_UTTERANCE_SECONDS:g} s at most)",
                    sources=["microphone", "upload"],
                    type="filepath",
                    buttons=[],
                    editable=False,
                    elem_id="sound",
                )
                uploads = [
                    gr.File(
                        label=f"Images: {name} (optional, JPEG or PNG, in the order of time)",
                        file_count="multiple",
                        file_types=[".jpg", ".jpeg", ".png"],
                        type="filepath",
                        height=120,
                        elem_id=f"images-{number}",
                    )
                    for number, name in enumerate(images)
                ]
                context = gr.Checkbox(label="Context only: do not predict this turn", elem_id="context")
                trouble = gr.HTML(rendering.show_trouble(Conversation()), apply_default_css=False, elem_id="trouble")
                add = gr.Button("Add turn", variant="primary", elem_id="add")
                with gr.Row():
                    remove = gr.Button("Remove last", size="sm", min_width=90, elem_id="remove")
                    clear = gr.Button("Clear", size="sm", min_width=60, elem_id="clear")
                    try_it = gr.Button(
                        "Try an example", size="sm", min_width=90, elem_id="example", visible=bool(example)
                    )
                if live is not None:
                    gr.HTML(rendering.show_live(destination, live.has_interim), apply_default_css=False)
                last = gr.HTML(rendering.show_last(Conversation()), apply_default_css=False, elem_id="last")
            with gr.Column(scale=6, min_width=320):
                timeline = gr.HTML(rendering.show_timeline(Conversation()), apply_default_css=False, elem_id="timeline")
                talk = gr.HTML(rendering.show_conversation(Conversation()), apply_default_css=False, elem_id="talk")

        def shown(conversation: Conversation) -> list[object]:
            show = (rendering.show_trouble, rendering.show_last, rendering.show_timeline, rendering.show_conversation)
            return [conversation, *(render(conversation) for render in show)]

        emptied = [None] * len(uploads)

        def on_add(
            conversation: Conversation,
            text: str | None,
            recording: str | None,
            context_only: bool,
            *files: list[str] | None,
        ) -> list[object]:
            given = {name: paths for name, paths in zip(images, files, strict=True) if paths}
            after = guarded(
                conversation, lambda: added(conversation, text, recording, ask, predict=not context_only, images=given)
            )
            remaining_input = (text, None, context_only) if after.trouble else (None, None, False)
            return [*shown(after), *remaining_input, *emptied]

        def on_remove(conversation: Conversation) -> list[object]:
            return shown(guarded(conversation, lambda: judged(conversation, conversation.turns[:-1], ask)))

        def on_clear() -> list[object]:
            return [*shown(Conversation()), None, None, False, *emptied]

        def on_example(conversation: Conversation) -> list[object]:
            return shown(guarded(conversation, lambda: played(conversation, example, ask)))

        results = [state, trouble, last, timeline, talk]
        entered = [words, sound, context, *uploads]
        for trigger in (add.click, words.submit):
            trigger(on_add, [state, *entered], [*results, *entered], api_visibility="private", show_progress="minimal")
        remove.click(on_remove, state, results, api_visibility="private", show_progress="minimal")
        clear.click(on_clear, None, [*results, *entered], api_visibility="private", show_progress="minimal")
        try_it.click(on_example, state, results, api_visibility="private", show_progress="minimal")
    page.queue(max_size=_MAX_QUEUE, default_concurrency_limit=1, api_open=False)
    return page


def added(
    before: Conversation,
    text: str | None,
    recording: str | None,
    ask: Ask,
    *,
    predict: bool = True,
    images: Mapping[str, Sequence[str]] | None = None,
) -> Conversation:
    """Return the conversation with one more turn.

    Args:
        before: the conversation.
        text: the typed text.
        recording: path of the recording; the file is deleted.
        ask: maps turns to the model's prediction.
        predict: whether the turn is predicted, rather than context for the others only.
        images: paths of images by modality; the files are deleted.
    """
    words = (text or "").strip()
    audio, seconds = take_recording(Path(recording)) if recording else (None, 0.0)
    others = {name: take_images(map(Path, paths)) for name, paths in (images or {}).items()}
    if not words and not audio and not others:
        return troubled(before, "Type what is said, or record it.")
    return judged(before, (*before.turns, ConversationTurn(words or None, audio, seconds, predict, others)), ask)


def guarded(before: Conversation, change: Callable[[], Conversation]) -> Conversation:
    """Return the result of ``change``; if it fails, return the conversation with an error message."""
    try:
        return change()
    except MistereError as error:
        return troubled(before, str(error))
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return troubled(before, _INTERNAL_ERROR)


def theme() -> gradio.themes.Base:
    """The theme: the reports' colours, and only fonts installed on the client."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE
    )
