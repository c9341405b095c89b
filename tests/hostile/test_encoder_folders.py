"""An encoder's folder from a stranger runs no code, and its files cannot take gigabytes or lengthen a text without bound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.config.encoder import TextConfig
from mistere.model.encoders.families import families
from mistere.model.encoders.pretrained import load_tokenizer
from mistere.model.encoders.sources import resolve_base

pytestmark = pytest.mark.training

_CODE = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Tokenizer", None]}


def _edit(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**content, **values}))

    return edit


def _replace(count: int, pattern: dict[str, str], content: str) -> Callable[[Path], None]:
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return _edit("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * count})


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


ENCODER_FAULTS: dict[str, Callable[[Path], None]] = {
    "`auto_map` of an unknown model": _edit("config.json", model_type="evil", auto_map=_CODE),
    "tokenizer that doubles a text 40 times": _replace(40, {"String": "a"}, "aa"),
    "tokenizer that replaces a letter by 1 MB": _replace(1, {"String": "a"}, "a" * 1_000_000),
    "tokenizer that inserts between all letters": _replace(1, {"String": ""}, "a" * 10_000),
    "tokenizer that replaces what a pattern finds": _replace(3, {"Regex": "."}, "aaaaaaaaaaaaa"),
    "tokenizer of 300 steps": _replace(300, {"String": "a"}, "b"),
    "deep `tokenizer.json`": _write("tokenizer.json", b"[" * 100_000),
    "deep `tokenizer_config.json`": _write("tokenizer_config.json", b'{"a":' * 200 + b"1" + b"}" * 200),
    "`tokenizer.json` that is a list": _write("tokenizer.json", b"[]"),
    "header of safetensors that names 1 GiB": _write("model.safetensors", (2**30).to_bytes(8, "little") + b"{}"),
    "tensor beyond the end of the file": _write(
        "model.safetensors",
        (63).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,39999996]}}'[:63],
    ),
    "emptied weights": _write("model.safetensors", b""),
    "pickled weights alone": lambda folder: (
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin") and None
    ),
}
"""What is done to a valid folder, by what is hostile in it."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "valid"
    next(cls for cls in families().values() if cls.kind == "text").write_random(folder, 0)
    canary = f"open({str(folder.parent / 'canary')!r}, 'w')\n"
    (folder / "evil.py").write_text(canary)
    return folder


@pytest.mark.parametrize("fault", ENCODER_FAULTS)
def test_hostile_folders_are_refused(fault: str, valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid, tmp_path / "copy")
    ENCODER_FAULTS[fault](tmp_path / "copy")
    with pytest.raises(UsageError) as refused:
        resolve_base(TextConfig(source=str(tmp_path / "copy")), "text", LocalStore(tmp_path / "store"))
    message = str(refused.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 800, message
    assert not (valid.parent / "canary").exists()


def test_code_of_a_folder_is_never_run(valid: Path, tmp_path: Path) -> None:
    """A known model with ``auto_map`` loads by transformers' own class, and its code is neither run nor copied."""
    shutil.copytree(valid, tmp_path / "copy")
    for name in ("config.json", "tokenizer_config.json"):
        _edit(name, auto_map=_CODE)(tmp_path / "copy")
    base = resolve_base(TextConfig(source=str(tmp_path / "copy")), "text", LocalStore(tmp_path / "store"))
    assert not list(base.path.glob("*.py"))
    assert load_tokenizer(base.path, "it")("hello")["input_ids"]
    _edit("tokenizer_config.json", tokenizer_class="Unknown", auto_map=_CODE)(tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"its tokenizer does not load \("):
        load_tokenizer(tmp_path / "copy", "it")
    assert not (valid.parent / "canary").exists()
