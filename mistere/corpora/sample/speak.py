"""The speech synthesizer as a separate process: ``python -m mistere.corpora.sample.speak``.

espeak-ng is under the GPL, so it is loaded in this process only, and the rest of the project communicates with it over pipes. The
library keeps state between utterances; to make the audio of an utterance independent of the ones before it, a fresh fork of the
initialised library speaks each.

Protocol: one JSON object per line on standard input (``text``, ``variant``, ``rate``, ``pitch``, ``range``). On standard
output the sample rate in Hz as a little-endian uint32, then for each request, in order, the byte count as a uint32 and
that many bytes of 16-bit little-endian mono PCM.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Any

from mistere.common.parsing.documents import load_json

_SYNCHRONOUS_RETRIEVAL = 2
_CHARS_UTF8 = 1
_END_PAUSE = 0x1000
_POSITION_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_NOISE_SEED = 7
_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """espeak-ng through ctypes.

    Raises:
        RuntimeError: the library does not start.
    """

    def __init__(self, library: Path, data: Path) -> None:
        self._variants = data / "voices" / "!v"
        self._library = ctypes.CDLL(str(library))
        self._samples = bytearray()
        self._callback = _ON_SAMPLES(self._collect)  # keep a reference: the library calls it later
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 0, str(data.parent).encode(), 0))
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {data}")
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._samples += ctypes.string_at(samples, 2 * count)
        return 0

    def speak(self, text: str, variant: str, rate: int, pitch: int, range: int) -> bytes:
        """Speak one utterance; returns 16-bit mono PCM at :attr:`sample_rate`."""
        self._samples.clear()
        library = self._library
        if hasattr(library, "espeak_ng_SetRandSeed"):
            library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
        # The library silently falls back to the plain voice if it does not know a variant.
        if not (self._variants / variant).is_file() or library.espeak_SetVoiceByName(f"en-us+{variant}".encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice variant {variant!r}")
        for parameter, value in ((_RATE, rate), (_VOLUME, 100), (_PITCH, pitch), (_RANGE, range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _END_PAUSE
        if library.espeak_Synth(encoded, len(encoded), 0, _POSITION_CHARACTER, 0, flags, None, None) != 0:
            raise RuntimeError(f"espeak-ng could not speak {text!r}")
        library.espeak_Synchronize()
        return bytes(self._samples)


def speak_in_fork(synthesizer: Synthesizer, request: dict[str, Any]) -> bytes:
    """Speak in a child process, so that every utterance starts from the same state of the library."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receive)
            with os.fdopen(send, "wb") as pipe:
                pipe.write(synthesizer.speak(**request))
            status = 0
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        speech = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0 or not speech:
        raise RuntimeError(f"espeak-ng gave no sound for {request['text']!r}")
    return speech


def main() -> int:
    """Serve requests until standard input ends."""
    import espeakng_loader

    try:
        library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        synthesizer = Synthesizer(Path(library), Path(data))
        out = sys.stdout.buffer
        out.write(struct.pack("<I", synthesizer.sample_rate))
        out.flush()
        for line in sys.stdin:
            speech = speak_in_fork(synthesizer, load_json(line))
            out.write(struct.pack("<I", len(speech)) + speech)
            out.flush()
    except BrokenPipeError:
        return 1
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
