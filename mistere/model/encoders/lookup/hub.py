"""Models on the Hugging Face hub: their commit and their files, and each failure as one sentence.

A bare name (``bert-base-uncased``) means the hub unless a folder has it. What was downloaded before is used without a network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.lookup.checkpoint_size import StoredWeight

_SECONDS: Final = 10.0
_FILES: Final = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "spiece.model"]


def hub_commit(name: str) -> str:
    """The commit of a model's main branch from the hub, or else from its local cache; empty if neither has it."""
    from huggingface_hub import HfApi, constants

    try:
        return str(HfApi().model_info(name, timeout=_SECONDS).sha)
    except _errors():
        reference = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
        return reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""


def hub_snapshot(name: str) -> Path:
    """Download a model from the hub, safetensors only, into the hub's own cache.

    Args:
        name: ``NAME`` or ``NAME@REVISION``.

    Raises:
        UsageError: the hub has no such model or revision, refuses access, or cannot be reached.
        MistereError: the hub fails, or limits the rate of requests.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except _errors() as error:
        raise _failure(name, error) from error


def check_hub_model(name: str) -> None:
    """Check that :func:`hub_snapshot` can download a model, without downloading it.

    The hub describes a gated model to everybody and refuses its files only (huggingface.js issue 945), so a file is requested too.

    Args:
        name: ``NAME`` or ``NAME@REVISION``.

    Raises:
        UsageError: as for :func:`hub_snapshot`, or the model has no safetensors weights.
        MistereError: as for :func:`hub_snapshot`.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = name.partition("@")
    api = HfApi()
    try:
        info = api.model_info(repository, revision=revision or None, timeout=_SECONDS)
        files = [file.rfilename for file in info.siblings or [] if "/" not in file.rfilename]
        api.get_hf_file_metadata(url=hf_hub_url(repository, "config.json", revision=info.sha), timeout=_SECONDS)
    except EntryNotFoundError as error:
        raise UsageError(f"encoder {name}: the model on the hub has no config.json; choose another encoder.") from error
    except _errors() as error:
        if _is_cached(repository, revision):
            return
        raise _failure(name, error) from error
    if not any(file.endswith(".safetensors") for file in files):
        raise UsageError(
            f"encoder {name} has no safetensors weights; convert them to safetensors first: pickled weights are never loaded."
        )


@dataclass(frozen=True)
class HubCheckpoint:
    """What the hub says of a model's weights.

    Attributes:
        commit: the revision's commit.
        model_type: from its configuration; empty if the hub does not state it.
        files: bytes of the safetensors files by name.
        counts: numbers of weights by type, such as ``BF16``; empty if the hub does not state them.
    """

    commit: str
    model_type: str
    files: dict[str, int]
    counts: dict[str, int]


def hub_checkpoint(name: str) -> HubCheckpoint | None:
    """Ask the hub for the sizes and types of a model's weights; None if it does not answer.

    Args:
        name: ``NAME`` or ``NAME@REVISION``.
    """
    from huggingface_hub import HfApi

    repository, _, revision = name.partition("@")
    try:
        info = HfApi().model_info(repository, revision=revision or None, timeout=_SECONDS, files_metadata=True)
    except _errors():
        return None
    root = {file.rfilename: file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename}
    files = {file: size for file, size in root.items() if file.endswith(".safetensors")}
    model_type = str((info.config or {}).get("model_type", ""))
    counts = dict(info.safetensors.parameters) if info.safetensors else {}
    return HubCheckpoint(str(info.sha), model_type, files, counts)


def hub_configuration(name: str, commit: str) -> dict[str, Any]:
    """The ``config.json`` of a model; empty if the hub does not give it, or it is no object."""
    from huggingface_hub import hf_hub_download

    try:
        content = read_json(Path(hf_hub_download(name.partition("@")[0], "config.json", revision=commit)))
    except _errors():
        return {}
    return content if isinstance(content, dict) else {}


def hub_stored_weights(name: str, commit: str, files: Iterable[str]) -> list[StoredWeight] | None:
    """The tensors of safetensors files on the hub: their headers alone are downloaded.

    Returns:
        None if the hub does not give them, as those of a gated model without access.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    api, repository = HfApi(), name.partition("@")[0]
    failures: tuple[type[BaseException], ...] = (*_errors(), SafetensorsParsingError)
    tensors: list[StoredWeight] = []
    for file in files:
        try:
            header = api.parse_safetensors_file_metadata(repository, file, revision=commit, timeout=_SECONDS)
        except failures:
            return None
        tensors += [StoredWeight(key, one.dtype, one.parameter_count) for key, one in header.tensors.items()]
    return tensors


def _is_cached(repository: str, revision: str) -> bool:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, revision=revision or None, allow_patterns=_FILES, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def _errors() -> tuple[type[BaseException], ...]:
    """What ``huggingface_hub`` raises: its own errors, and those of its HTTP library, which are neither of them nor of the system."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = next(base for base in HfHubHTTPError.__bases__ if base.__name__ == "HTTPError")
    return (transport, OSError, ValueError, RuntimeError)


def _failure(name: str, error: BaseException) -> MistereError:
    """The sentence for an error, by the classes and statuses of ``huggingface_hub.utils.hf_raise_for_status``."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # why the hub was not asked, or did not answer
    if isinstance(error, GatedRepoError):
        return UsageError(f"encoder {name} is gated: accept its terms on the hub and set HF_TOKEN.")
    if isinstance(error, RevisionNotFoundError):
        return UsageError(
            f"encoder {name}: the hub has the model, but no revision {revision}; name a commit, branch or tag of it."
        )
    if isinstance(error, RepositoryNotFoundError):
        return UsageError(
            f"encoder {name}: there is no such folder and no such model on the hub; check the name, and if the model is private, set "
            "HF_TOKEN."
        )
    if isinstance(error, HFValidationError):
        return UsageError(
            f"encoder {name}: there is no such folder, and the hub has no names of this form; name a folder, or NAME@REVISION of a "
            "model on the hub."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in {401, 403}:
        return UsageError(f"encoder {name}: the hub refuses HF_TOKEN ({status}); set a token that may read the model.")
    if status:
        limited = ", or set HF_TOKEN for a higher limit" if status == 429 else ""
        return MistereError(f"encoder {name}: the hub answers with an error ({status}); try again later{limited}.")
    reason = (
        "HF_HUB_OFFLINE excludes the hub" if isinstance(error, OfflineModeIsEnabled) else "the hub cannot be reached"
    )
    return UsageError(
        f"encoder {name}: there is no such folder and {reason}; download it on a machine with a network "
        f"(hf download {repository}) and name its folder with path:DIR, or copy it into a bucket and name it with s3://."
    )
