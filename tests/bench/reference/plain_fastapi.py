"""Reference server for the benchmark: the same bundle behind minimal FastAPI code.

usage: plain_fastapi.py BUNDLE PORT
"""

from __future__ import annotations

import base64
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from mistere.model.dialogue_model import UtteranceInput
from mistere.model.inference import load_bundle


class Turn(BaseModel):
    text: str | None = None
    audio: str | None = None


class Instance(BaseModel):
    utterances: list[Turn]


class Request(BaseModel):
    instances: list[Instance]


app = FastAPI()
model = load_bundle(sys.argv[1])


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
def predict(request: Request) -> dict[str, object]:
    dialogues = [
        [
            UtteranceInput(turn.text, base64.b64decode(turn.audio) if turn.audio else None)
            for turn in instance.utterances
        ]
        for instance in request.instances
    ]
    answers = model.predict(dialogues)
    return {
        "predictions": [
            {
                "label": [model.labels[index] for index in answer.probabilities.argmax(1)],
                "probabilities": answer.probabilities.tolist(),
                "expert_weights": answer.expert_weights.tolist(),
                "modalities_used": answer.modalities,
            }
            for answer in answers
        ]
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
