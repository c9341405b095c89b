"""Bundles made by hand whose digests are right and whose content is broken or hostile: refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistere.artifacts.io import MANIFEST, artifact_key, publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError
from mistere.model.inference import load_bundle
from tests.serving.conftest import make_bundle

Change = Callable[[Path, dict[str, Any]], None]
"""Changes the files of a bundle, and the fields of its manifest."""


def description(**changes: Any) -> Change:
    """Change fields of ``mixture.json``, or of the configuration in it."""

    def change(folder: Path, _: dict[str, Any]) -> None:
        content = json.loads((folder / "mixture.json").read_text())
        for name, value in changes.items():
            (content["config"] if name in content["config"] else content)[name] = value
        (folder / "mixture.json").write_text(json.dumps(content))

    return change


def text(name: str, content: str) -> Change:
    return lambda folder, _: (folder / name).write_text(content) and None


def weights(
    name: str, edit: Callable[[dict[str, torch.Tensor]], None], metadata: dict[str, str] | None = None
) -> Change:
    def change(folder: Path, _: dict[str, Any]) -> None:
        tensors = load_file(folder / name)
        edit(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, metadata=metadata)

    return change


def without(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def first(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Replace the first tensor of more than one dimension."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name, tensor in sorted(tensors.items()) if tensor.ndim > 1)
        tensors[name] = value(tensors[name])

    return edit


def fields(**changes: Any) -> Change:
    return lambda _, manifest: manifest.update(changes)


def encoder(**changes: Any) -> Change:
    """Change fields of the text encoder's description, or of its settings."""

    def change(_: Path, manifest: dict[str, Any]) -> None:
        described = manifest["encoders"]["text"]
        for name, value in changes.items():
            (described if name in described else described["settings"])[name] = value

    return change


MIXTURE, TUNED = "mixture.safetensors", "encoders/text.safetensors"
BUNDLES: Final[dict[str, Change]] = {
    "no JSON": text("mixture.json", "{"),
    "JSON of another kind": text("mixture.json", "[]"),
    "JSON without its keys": text("mixture.json", "{}"),
    "configuration that is a list": description(config=[]),
    "unknown setting": lambda folder, _: description(config={"surprise": 1})(folder, {}),
    "width beyond all memory": description(hidden=10**12),
    "a billion layers": description(gru_layers=10**9),
    "wider input than its weights": description(dimensions={"speech": 10**11, "text": 16}),
    "modality without weights": description(dimensions={"speech": 16, "text": 16, "video": 16}),
    "name of a modality with a dot": description(dimensions={"a.b": 16, "text": 16}),
    "negative number of classes": description(classes=-1),
    "more classes than its weights": description(classes=10**10),
    "no safetensors": text(MIXTURE, "no weights"),
    "weights of another shape": weights(MIXTURE, first(lambda tensor: tensor[:-1])),
    "weights with NaN": weights(MIXTURE, first(lambda tensor: tensor * float("nan"))),
    "weights with infinity": weights(MIXTURE, first(lambda tensor: tensor / 0)),
    "integers for weights": weights(MIXTURE, first(lambda tensor: tensor.long())),
    "missing weights": weights(MIXTURE, lambda tensors: without(tensors, min(tensors))),
    "surplus weights": weights(MIXTURE, lambda tensors: tensors.update(surplus=torch.zeros(1))),
    "encoder without safetensors": text(TUNED, "no weights"),
    "encoder's weights with NaN": weights(TUNED, first(lambda tensor: tensor * float("nan"))),
    "encoder's weights of another shape": weights(TUNED, first(lambda tensor: tensor[:-1])),
    "encoder without its head": weights(TUNED, lambda tensors: without(tensors, "head.2.weight")),
    "adapters of no module": weights(TUNED, lambda _: None, {"adapters": '{"backbone.nothing": 1.0}'}),
    "scales of adapters that are a list": weights(TUNED, lambda _: None, {"adapters": "[1]"}),
    "projection beyond all memory": encoder(projection=10**12),
    "negative width": encoder(projection=-1),
    "unknown family": encoder(family="surprise"),
    "negative temperature": fields(temperature=-1.0),
    "temperature of zero": fields(temperature=0.0),
    "too few labels": fields(labels=["calm"]),
    "labels twice": fields(labels=["calm", "calm", "calm"]),
    "other experts": fields(experts=["text"]),
    "no encoders": fields(encoders={}),
}
"""What is wrong with a bundle."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound bundle in its store."""
    return Path(make_bundle(tmp_path_factory.mktemp("bundles")))


QUICK = {
    "width beyond all memory",
    "a billion layers",
    "weights with NaN",
    "encoder without safetensors",
    "negative temperature",
}


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.long) for kind in BUNDLES]
)
def test_a_broken_bundle_is_refused_in_one_sentence(kind: str, sound: Path, tmp_path: Path) -> None:
    store = LocalStore(sound.parents[2])
    folder = tmp_path / "bundle"
    shutil.copytree(sound, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).unlink()
    BUNDLES[kind](folder, manifest)
    published = publish(store, ModelBundle.model_validate(manifest | {"files": {}, "digest": ""}), folder)
    with pytest.raises(ArtifactError) as refused:
        load_bundle(store.location(artifact_key("ModelBundle", published.digest)))
    message = str(refused.value)
    assert str(sound.parent) in message and "\n" not in message and message.endswith("."), message
    assert len(message) < 600, message


def test_a_sound_bundle_is_loaded(sound: Path) -> None:
    assert load_bundle(str(sound)).labels
