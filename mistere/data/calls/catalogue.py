"""The effects of a call, in the order of reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.data.calls.channels import clipped, through_gsm, through_mulaw, through_opus, with_lost_packets
from mistere.data.calls.effect import Effect, Level, WaveChange
from mistere.data.calls.noises import in_a_room, with_babble, with_street
from mistere.data.calls.word_errors import with_word_errors


def _heard(effect: str, name: str, label: str, words: str, change: WaveChange) -> Level:
    return Level(effect, f"{effect}_{name}", label, words, wave=change)


def _codecs() -> tuple[Level, ...]:
    return (
        _heard("codec", "opus_16", "Opus 16", "Opus at about 16 kbit/s", lambda wave, *_: through_opus(wave, 16)),
        _heard(
            "codec", "mulaw", "µ-law", "a telephone's band and G.711 µ-law, 8 kHz", lambda wave, *_: through_mulaw(wave)
        ),
        _heard("codec", "gsm", "GSM", "a telephone's band and GSM 06.10", lambda wave, *_: through_gsm(wave)),
        _heard("codec", "opus_6", "Opus 6", "Opus at about 6 kbit/s", lambda wave, *_: through_opus(wave, 6)),
    )


def _packets(percent: int) -> Level:
    return _heard(
        "packet_loss",
        f"{percent}",
        f"{percent} %",
        f"{percent} % of the packets lost and concealed",
        lambda wave, draw, _: with_lost_packets(wave, percent / 100, draw),
    )


def _babble(decibels: int) -> Level:
    return _heard(
        "babble",
        f"{decibels}db",
        f"{decibels} dB",
        f"six other voices, together {decibels} dB below the speech"
        if decibels
        else "six other voices, as loud as the speech",
        lambda wave, draw, voices: with_babble(wave, decibels, draw, voices),
    )


def _street(decibels: int) -> Level:
    return _heard(
        "street",
        f"{decibels}db",
        f"{decibels} dB",
        f"a street {decibels} dB below the speech" if decibels else "a street as loud as the speech",
        lambda wave, draw, _: with_street(wave, decibels, draw),
    )


def _room(seconds: float) -> Level:
    return _heard(
        "reverberation",
        f"{round(1000 * seconds)}ms",
        f"{seconds:g} s",
        f"a room that echoes for {seconds:g} s",
        lambda wave, draw, _: in_a_room(wave, seconds, draw),
    )


def _clipping(percent: int) -> Level:
    return _heard(
        "clipping",
        f"{percent}",
        f"{percent} %",
        f"the loudest {percent} % of the samples clipped",
        lambda wave, *_: clipped(wave, percent / 100),
    )


def _words(percent: int) -> Level:
    return Level(
        "word_errors",
        f"word_errors_{percent}",
        f"{percent} %",
        f"transcripts with {percent} % word errors",
        text=lambda text, draw, words: with_word_errors(text, percent / 100, draw, words),
    )


def _turns(percent: int) -> Level:
    return Level(
        "missing_turns",
        f"missing_turns_{percent}",
        f"{percent} %",
        f"{percent} % of the turns lost",
        lost=percent / 100,
    )


EFFECTS: Final[dict[str, Effect]] = {
    effect.name: effect
    for effect in (
        Effect("codec", "Codecs", "speech", _codecs()),
        Effect("packet_loss", "Packets lost", "speech", tuple(map(_packets, (5, 10, 20)))),
        Effect("babble", "Other voices", "speech", tuple(map(_babble, (20, 10, 0))), needs_others=True),
        Effect("street", "Street noise", "speech", tuple(map(_street, (20, 10, 0)))),
        Effect("reverberation", "Reverberation", "speech", tuple(map(_room, (0.3, 0.6, 1.2)))),
        Effect("clipping", "Clipping", "speech", tuple(map(_clipping, (1, 5, 20)))),
        Effect("word_errors", "Word errors", "text", tuple(map(_words, (10, 20, 30)))),
        Effect("missing_turns", "Turns lost", "turns", tuple(map(_turns, (10, 25, 50)))),
    )
}
"""By name; those of :data:`mistere.config.calls.CallEffect`."""
LEVELS: Final[dict[str, Level]] = {level.name: level for effect in EFFECTS.values() for level in effect.levels}


def effects_named(names: Iterable[str] = ()) -> list[Effect]:
    """The effects of these names, in the order of reports; all without a name.

    Raises:
        UsageError: there is none of a name.
    """
    wanted = set(names) or set(EFFECTS)
    for name in sorted(wanted - set(EFFECTS)):
        raise UsageError(f"there is no effect {name!r}{did_you_mean(name, EFFECTS)}")
    return [effect for name, effect in EFFECTS.items() if name in wanted]
