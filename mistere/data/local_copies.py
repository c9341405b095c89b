"""Files of a dataset version that this machine holds already: in the workspace, or in the cache of the user's DVC project.

A run uses them before it asks the remote, so a version that was never pushed can be used on the machine that made it. What a file
is worth is decided by its digest alone.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.common.digests.files import digest_once
from mistere.data.dvc_remote import RemoteData

if TYPE_CHECKING:
    from mistere.data.versions import PinnedData


@dataclass(frozen=True)
class LocalCopies:
    """Where copies may be.

    Attributes:
        cache: the cache of the user's DVC project.
        folder: the tracked folder in the workspace; None if it is not known.
    """

    cache: Path
    folder: Path | None = None

    def of_object(self, md5: str) -> Path:
        """The path of an object in DVC's cache."""
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def of_file(self, name: str, md5: str) -> list[Path]:
        """The paths of a file of the dataset: in DVC's cache, and in the workspace."""
        return [self.of_object(md5), *([self.folder / name] if self.folder else [])]


def use_local_copies(pinned: PinnedData) -> bool:
    """Copy the version's files from the workspace and DVC's cache into ours; nothing is fetched.

    Returns:
        Whether our cache now holds the whole version.

    Raises:
        UsageError: the digest is not that of a folder.
        DataError: the listing is invalid.
    """
    if pinned.copies is None:
        return False
    data, copies = RemoteData(pinned.remote, pinned.digest), pinned.copies
    if not data.adopt({pinned.digest: [copies.of_object(pinned.digest)]}):
        with tempfile.TemporaryDirectory() as scratch:
            listing = Path(scratch) / "listing"
            listing.write_bytes(_listing(copies.folder))
            if not data.adopt({pinned.digest: [listing]}):
                return False
    return data.adopt({md5: copies.of_file(name, md5) for name, md5 in data.listing().items()})


def _listing(folder: Path | None) -> bytes:
    """The listing that DVC writes for a folder as it is now."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    if folder is not None and folder.is_dir():
        for path in folder.rglob("*"):
            if path.is_file():
                tree.add(path.relative_to(folder).parts, None, HashInfo("md5", digest_once(path, "md5")))
    return tree.as_bytes()
