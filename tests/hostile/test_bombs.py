"""Small inputs that would take gigabytes or minutes are refused before they are parsed, with one sentence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mistere.artifacts.io import verify_directory
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, DataError, MistereError, UsageError
from mistere.common.parsing.documents import MAX_DEPTH, MAX_NODES, ParseError, load_json, load_yaml
from mistere.common.paths import PROJECT_ROOT
from mistere.config.encoder import TextConfig
from mistere.corpora.tables.rows import read_rows
from mistere.data.dataset import load_info
from mistere.data.dvc_remote import read_listing
from mistere.data.versions import pin
from mistere.model.encoders.sources import resolve_base
from mistere.registry.release.champion import CHAMPION_KEY, read_champion
from mistere.serving.example_dialogue import DIALOGUE, FOLDER, read_example
from pipelines.cli.commands.predict import read_dialogue
from pipelines.kubeflow.schedules.schedule_file import read_schedules
from pipelines.profiles import load_profile

_ALIASES = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
YAML = {
    "nested lists": "[" * 100_000,
    "nested mappings": "\n".join(" " * i + "a:" for i in range(2000)),
    "aliases of aliases": _ALIASES,
    "alias of itself": "&a [*a]",
    "many aliases of a long text": f'a: &a "{"x" * 100_000}"\nb: [{",".join(["*a"] * 20_000)}]',
    "unknown alias": "*a",
    "number to the base of 60": ":".join(["1"] * 100_000),
    "long number": "1" * 5000,
    "long hexadecimal number": "0x" + "f" * 100_000,
    "impossible date": "2001-99-99",
    "impossible time": "2001-01-01T25:00:00Z",
    "damaged base64": '!!binary "a"',
    "Python object": '!!python/object/apply:os.system ["touch canary"]',
    "two documents": "a\n---\nb",
    "NUL": "a\0b",
    "not UTF-8": b"\xff",
    "list as a key": "? [a]\n: b",
    "mapping as a key": "? {a: b}\n: c",
    "merge of a number": "{<<: 3}",
    "wrong ordered mapping": "!!omap [1]",
    "more than 4 MiB": "x" * (4 * 2**20 + 1),
    "more than 200,000 values": "[" + "1," * (MAX_NODES + 1) + "]",
}
"""YAML by what is hostile in it."""
JSON = {
    "nested lists": "[" * 100_000,
    "nested objects": '{"a":' * 500 + "1" + "}" * 500,
    "deeper than the limit": "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
    "half of a surrogate pair": '{"a": ["\\ud800"]}',
    "half of a surrogate pair as a key": '{"\\uDC00": 1}',
    "long number": "1" * 5000,
    "not UTF-8": b'"\xff"',
    "truncated": '{"a": 1',
    "emptied": "",
}
"""JSON by what is hostile in it."""


@pytest.mark.parametrize(
    ("load", "documents"), [pytest.param(load_yaml, YAML, id="yaml"), pytest.param(load_json, JSON, id="json")]
)
def test_hostile_documents_are_refused(
    load: Callable[[str | bytes], object], documents: dict[str, str | bytes]
) -> None:
    for kind, content in documents.items():
        started = time.process_time()
        with pytest.raises(ParseError) as refused:
            load(content)
        message = str(refused.value)
        assert message and "\n" not in message and len(message) <= 200, kind
        assert time.process_time() - started < 3, kind


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("", None),
        ("[1.5e+3, 0x1f, 1_000, 1:30, 2001-02-03]", [1.5e3, 31, 1000, 90, date(2001, 2, 3)]),
        ("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), None),
    ],
)
def test_ordinary_yaml_is_read_as_pyyaml_does(content: str, value: object) -> None:
    loaded = load_yaml(content)
    if value is not None or not content:
        assert loaded == value


def test_ordinary_json_is_read() -> None:
    assert load_json('{"a": ["\\ud83d\\ude00", 1, null]}') == {"a": ["😀", 1, None]}
    assert load_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def dataset_yaml(text: str, folder: Path) -> None:
    (folder / "dataset.yaml").write_text(text)
    load_info(folder / "dataset.yaml")


def profile(text: str, folder: Path) -> None:
    (folder / "mine.yaml").write_text(text)
    load_profile(str(folder / "mine.yaml"))


def setting(text: str, folder: Path) -> None:
    load_profile("tiny", [f"speech.source={text}"])


def dvc_file(text: str, folder: Path) -> None:
    (folder / "data.dvc").write_text(text)
    pin(str(folder / "data.dvc"), str(folder / "remote"))


def schedules(text: str, folder: Path) -> None:
    (folder / "schedules.yaml").write_text(text)
    read_schedules(folder / "schedules.yaml")


def dvc_listing(text: str, folder: Path) -> None:
    read_listing(text.encode(), "the listing")


def jsonl_table(text: str, folder: Path) -> None:
    (folder / "table.jsonl").write_text(text)
    read_rows(folder / "table.jsonl", {}, text_only=True)


def manifest(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    verify_directory(folder, BaseEncoder)


def champion(text: str, folder: Path) -> None:
    store = LocalStore(folder)
    store.write(CHAMPION_KEY, text.encode())
    read_champion(store)


def example_dialogue(text: str, folder: Path) -> None:
    (folder / FOLDER).mkdir()
    (folder / DIALOGUE).write_text(text)
    read_example(folder)


def encoder_config(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")
    resolve_base(TextConfig(source=str(folder)), "text", LocalStore(folder / "store"))


def dialogue_file(text: str, folder: Path) -> None:
    (folder / "dialogue.json").write_text(text)
    read_dialogue(folder / "dialogue.json")


DOCUMENT_ENTRANCES: dict[str, tuple[Callable[[str, Path], None], type[MistereError], dict[str, str | bytes]]] = {
    "`dataset.yaml`": (dataset_yaml, DataError, YAML),
    "profile": (profile, UsageError, YAML),
    "`--set`": (setting, UsageError, YAML),
    "`.dvc` file": (dvc_file, UsageError, YAML),
    "schedule file": (schedules, UsageError, YAML),
    "DVC listing": (dvc_listing, DataError, JSON),
    "table in JSON lines": (jsonl_table, DataError, JSON),
    "manifest of an artifact": (manifest, ArtifactError, JSON),
    "champion pointer": (champion, ArtifactError, JSON),
    "example dialogue of a bundle": (example_dialogue, ArtifactError, JSON),
    "`config.json` of an encoder": (encoder_config, UsageError, JSON),
    "dialogue file of `mistere predict`": (dialogue_file, UsageError, JSON),
}
"""Every entrance of a document: what reads it, the class of its error, and the documents."""


def _short(documents: dict[str, str | bytes]) -> dict[str, str]:
    """The documents that every entrance gets: text, and not those that are hostile by their size alone."""
    return {kind: content for kind, content in documents.items() if isinstance(content, str) and len(content) < 300_000}


DOCUMENT_COUNTS = {
    "YAML loader": len(YAML),
    "JSON loader": len(JSON),
    **{entrance: len(_short(documents)) for entrance, (_, _, documents) in DOCUMENT_ENTRANCES.items()},
}
"""Number of documents by entrance."""


@pytest.mark.parametrize("entrance", DOCUMENT_ENTRANCES)
def test_entrances_refuse_hostile_documents(entrance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read, expected, documents = DOCUMENT_ENTRANCES[entrance]
    for number, (kind, content) in enumerate(_short(documents).items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(MistereError) as refused:
            read(content, folder)
        message = str(refused.value)
        assert isinstance(refused.value, expected), f"{entrance}, {kind}: {message}"
        assert "\n" not in message and message.endswith(".") and len(message) < 900, f"{entrance}, {kind}: {message}"
    assert not (tmp_path / "canary").exists()


def test_only_the_loaders_parse_yaml_and_json(code_modules: dict[Path, str]) -> None:
    parses = re.compile(
        r"\byaml\.(safe_load|load|unsafe_load|full_load|compose|parse)(_all)?\(|\bjson\.loads?\(|\bread_json\(pd"
    )
    for path, text in code_modules.items():
        name = path.relative_to(PROJECT_ROOT).as_posix()
        if name not in PARSERS:
            assert not parses.search(text), f"{name} parses YAML or JSON itself: use mistere.common.parsing.documents."


PARSERS = {
    "mistere/common/parsing/documents.py": "the loaders",
    "mistere/predictor/protocol/openapi.py": "its own document, a file of the package",
    "pipelines/compile.py": "what this process has just compiled: two documents, larger than any that a user writes",
}
"""Modules that may parse themselves, and why."""
