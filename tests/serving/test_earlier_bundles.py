"""A bundle of an earlier release still loads and gives the same predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mistere.artifacts.io import MANIFEST
from mistere.artifacts.manifest import canonical_digest
from mistere.model.dialogue_model import UtteranceInput
from mistere.model.inference import load_bundle


def copy_with_earlier_manifest(location: Path) -> Path:
    """A copy of a bundle with the manifest of schema version 1, in which the fields of identities were not nested."""
    store = location.parents[2]
    manifest: dict[str, Any] = json.loads((location / MANIFEST).read_text(encoding="utf-8"))
    manifest["schema_version"] = 1
    for encoder in manifest["encoders"].values():
        identity = encoder.pop("identity")
        encoder |= {
            "source": identity["source"],
            "precision": identity["precision"],
            "encoder_digest": identity["digest"],
        }
    manifest["provenance"] = {"run_id": "old", "profile": "sample", "commit": "c" * 40, "dirty": True, "image": ""}
    outside = {"digest", "made_by", "inputs", "provenance"}
    manifest["digest"] = canonical_digest({name: value for name, value in manifest.items() if name not in outside})
    copy = store / "artifacts" / "ModelBundle" / manifest["digest"]
    shutil.copytree(location, copy)
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def test_a_bundle_of_an_earlier_release_gives_the_same_predictions(bundle: str) -> None:
    current, earlier = load_bundle(bundle), load_bundle(str(copy_with_earlier_manifest(Path(bundle))))
    assert earlier.bundle.digest != current.bundle.digest
    assert earlier.encoder_digests == current.encoder_digests == {"speech": "s" * 64, "text": "t" * 64}
    provenance = earlier.bundle.provenance
    assert provenance is not None and provenance.run.run_id == "old" and provenance.run.dirty
    dialogue = [UtteranceInput("Where have you been?"), UtteranceInput("At home, why?")]
    (current_prediction,), (earlier_prediction,) = current.predict([dialogue]), earlier.predict([dialogue])
    np.testing.assert_array_equal(current_prediction.probabilities, earlier_prediction.probabilities)
