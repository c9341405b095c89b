"""The page itself: Gradio's inputs, and the pictures that :mod:`pipelines.cli.demo.rendering` draws."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.common.errors import MistereError
from pipelines.cli.demo import rendering
from pipelines.cli.demo.conversation import Ask, Conversation, ConversationTurn, judged, troubled
from pipelines.cli.demo.sound import MOST_SECONDS, take_recording

if TYPE_CHECKING:
    import gradio

_MOST_LETTERS = 2000
_MOST_WAITING = 16
_KEPT_SECONDS = 3600  # of a conversation that nobody goes on with
_SWEEP_SECONDS, _UPLOAD_SECONDS = 60, 600  # uploads that nobody added as a turn
_FONTS = ("system-ui", "Segoe UI", "DejaVu Sans", "sans-serif")
_MONOSPACE = ("ui-monospace", "DejaVu Sans Mono", "monospace")
_DEFECT = "Something went wrong here that should not: the terminal of mistere demo says what."


def build_page(ask: Ask, place: str, example: Sequence[ConversationTurn] = ()) -> gradio.Blocks:
    """The page, not yet served.

    Args:
        ask: turns → the model's answer.
        place: who is asked, in words.
        example: a conversation to try; without one there is no button for it.
    """
    import gradio as gr

    with gr.Blocks(
        title="Emotions in a conversation",
        analytics_enabled=False,
        delete_cache=(_SWEEP_SECONDS, _UPLOAD_SECONDS),
    ) as page:
        kept = gr.State(Conversation(), time_to_live=_KEPT_SECONDS)
        gr.HTML(rendering.heading(place), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                words = gr.Textbox(
                    label="What is said",
                    placeholder="How dare you!",
                    max_lines=4,
                    max_length=_MOST_LETTERS,
                    elem_id="words",
                )
                sound = gr.Audio(
                    label=f"How it is said (optional, {MOST_SECONDS:g} s at most)",
                    sources=["microphone", "upload"],
                    type="filepath",
                    buttons=[],
                    editable=False,
                    elem_id="sound",
                )
                trouble = gr.HTML(rendering.show_trouble(Conversation()), apply_default_css=False, elem_id="trouble")
                add = gr.Button("Add turn", variant="primary", elem_id="add")
                with gr.Row():
                    remove = gr.Button("Remove last", size="sm", min_width=90, elem_id="remove")
                    clear = gr.Button("Clear", size="sm", min_width=60, elem_id="clear")
                    try_it = gr.Button(
                        "Try an example", size="sm", min_width=90, elem_id="example", visible=bool(example)
                    )
                last = gr.HTML(rendering.show_last(Conversation()), apply_default_css=False, elem_id="last")
            with gr.Column(scale=6, min_width=320):
                timeline = gr.HTML(rendering.show_timeline(Conversation()), apply_default_css=False, elem_id="timeline")
                talk = gr.HTML(rendering.show_conversation(Conversation()), apply_default_css=False, elem_id="talk")

        def shown(conversation: Conversation) -> list[object]:
            show = (rendering.show_trouble, rendering.show_last, rendering.show_timeline, rendering.show_conversation)
            return [conversation, *(render(conversation) for render in show)]

        def on_add(conversation: Conversation, text: str | None, recording: str | None) -> list[object]:
            after = guarded(conversation, lambda: added(conversation, text, recording, ask))
            kept_back = (text, None) if after.trouble else (None, None)
            return [*shown(after), *kept_back]

        def on_remove(conversation: Conversation) -> list[object]:
            return shown(guarded(conversation, lambda: judged(conversation, conversation.turns[:-1], ask)))

        def on_clear() -> list[object]:
            return [*shown(Conversation()), None, None]

        def on_example(conversation: Conversation) -> list[object]:
            return shown(guarded(conversation, lambda: judged(conversation, example, ask)))

        results = [kept, trouble, last, timeline, talk]
        entered = [words, sound]
        for trigger in (add.click, words.submit):
            trigger(on_add, [kept, *entered], [*results, *entered], api_visibility="private", show_progress="minimal")
        remove.click(on_remove, kept, results, api_visibility="private", show_progress="minimal")
        clear.click(on_clear, None, [*results, *entered], api_visibility="private", show_progress="minimal")
        try_it.click(on_example, kept, results, api_visibility="private", show_progress="minimal")
    page.queue(max_size=_MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return page


def added(before: Conversation, text: str | None, recording: str | None, ask: Ask) -> Conversation:
    """The conversation with one more turn.

    Args:
        before: the conversation.
        text: what was typed.
        recording: the file of what was recorded; it is deleted.
        ask: turns → the model's answer.
    """
    words = (text or "").strip()
    audio, seconds = take_recording(Path(recording)) if recording else (None, 0.0)
    if not words and not audio:
        return troubled(before, "Write what is said, or record it.")
    return judged(before, (*before.turns, ConversationTurn(words or None, audio, seconds)), ask)


def guarded(before: Conversation, change: Callable[[], Conversation]) -> Conversation:
    """What ``change`` makes of the conversation; or, where that fails, the conversation with a sentence on why."""
    try:
        return change()
    except MistereError as error:
        return troubled(before, str(error))
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return troubled(before, _DEFECT)


def theme() -> gradio.themes.Base:
    """Colours as in the reports; fonts of the reader's machine only."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE
    )
