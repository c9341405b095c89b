"""Say that nobody attends to a release while live requests may reach a version that is not released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.registry.release.unfinished import UnfinishedRelease, unfinished_releases
from mistere.runs.webhook import escaped, section, try_to_post


def unattended_releases(store: ObjectStore, note: Callable[[str], object]) -> None:
    """Note each release whose process was killed, and each canary by hand that has stood for a day; the webhook is told too.

    Args:
        store: the object store.
        note: receives the sentences; also why they cannot be read, which fails nothing else.
    """
    try:
        releases = [one for one in unfinished_releases(store) if one.abandoned or one.stands_long]
    except MistereError as error:
        note(f"whether a release is unfinished is unknown: {error}")
        return
    for release in releases:
        note(release.sentence())
    if releases:
        try_to_post(_message(releases), note)


def _message(releases: list[UnfinishedRelease]) -> dict[str, Any]:
    sentences = [release.sentence() for release in releases]
    blocks = [section(f":rotating_light: {escaped(sentence)}") for sentence in sentences]
    return {"text": escaped(f"mistere: {sentences[0]}"), "blocks": blocks}
