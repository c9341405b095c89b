"""Predict a dialogue with an exported model: onnxruntime, tokenizers and numpy, no PyTorch.

usage: python onnx_predict.py FOLDER DIALOGUE.json

FOLDER is what `mistere export` wrote; DIALOGUE.json is a list of {"text": ..., "audio": FILE.wav} (mono, 16 bit, at the model's rate).
"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if len(sys.argv) != 3 or not (Path(sys.argv[1]) / "manifest.json").is_file() or not Path(sys.argv[2]).is_file():
    sys.exit("usage: python onnx_predict.py FOLDER DIALOGUE.json; FOLDER is what mistere export wrote")
folder, dialogue = Path(sys.argv[1]), Path(sys.argv[2])
model = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
turns = json.loads(dialogue.read_text(encoding="utf-8"))


def text_inputs(text, settings, tokenizer):
    tokens = tokenizer.encode(text).ids
    if len(tokens) > settings["max_tokens"]:
        tokens = [*tokens[: settings["max_tokens"] - 1], tokens[-1]]
    every = np.ones((1, len(tokens)), bool)
    return {"input_ids": np.array([tokens], np.int64), "mask": every, "pooled": every}


def audio_inputs(file, settings):
    with wave.open(str(dialogue.parent / file)) as clip:
        if (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) != (settings["sampling_rate"], 1, 2):
            sys.exit(f"{file}: {settings['sampling_rate']} Hz, mono and 16 bit are expected")
        samples = np.frombuffer(clip.readframes(clip.getnframes()), "<i2").astype(np.float32) / 32768
    shortest, longest = (int(settings[name] * settings["sampling_rate"]) for name in ("min_seconds", "max_seconds"))
    samples = np.pad(samples[:longest], (0, max(0, shortest - len(samples))))
    return {"samples": samples[None]}


inputs = {"lengths": np.array([len(turns)], np.int64)}
for name, width in model["dimensions"].items():
    vectors, present = np.zeros((1, len(turns), width), np.float32), np.zeros((1, len(turns)), bool)
    encoder = model["encoders"][name]
    if encoder["text"] and encoder["text"]["context_turns"]:
        sys.exit("this model reads earlier turns with each utterance: mistere/model/encoders/inputs/token_window.py shows how")
    session = onnxruntime.InferenceSession(folder / encoder["graph"])
    tokenizer = Tokenizer.from_file(str(folder / encoder["text"]["tokenizer"])) if encoder["text"] else None
    for index, turn in enumerate(turns):
        value = turn.get("text" if tokenizer else "audio")
        if value:
            feed = text_inputs(value, encoder["text"], tokenizer) if tokenizer else audio_inputs(value, encoder["audio"])
            vectors[0, index], present[0, index] = session.run(None, feed)[0][0], True
    inputs |= {name: vectors, f"{name}_present": present}
mixture = onnxruntime.InferenceSession(folder / "mixture.onnx")
probabilities, weights, _ = mixture.run(None, inputs)
for turn, row, shares in zip(turns, probabilities[0], weights[0], strict=True):
    experts = ", ".join(f"{name} {share:.2f}" for name, share in zip(model["experts"], shares, strict=True))
    print(f"{model['labels'][row.argmax()]:<10} {row.max():.3f}  ({experts})  {turn.get('text', '')}")
