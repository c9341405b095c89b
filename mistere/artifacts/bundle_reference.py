"""The reference to a bundle: what a registered model of MLflow holds instead of the bundle's files.

MLflow writes into the folder of a model that it loads, and a bundle's folder must not change. The reference also keeps base weights,
which bundles share, in the store.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.io import MANIFEST, artifact_key
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.environment import STORE_VARIABLE
from mistere.common.errors import ArtifactError
from mistere.common.names import OneLine, Segment

AFFECTS_RESULTS = False
"""No stage opens a bundle by such a reference."""

REFERENCE_FILE = "bundle_reference.json"


class BundleReference(BaseModel):
    """A bundle and the store that holds it.

    Attributes:
        bundle_digest: digest of the bundle.
        store: the store's URI when the model was registered.
    """

    model_config = ConfigDict(extra="forbid")

    bundle_digest: Segment
    store: OneLine

    def write(self, folder: Path) -> None:
        """Write ``bundle_reference.json`` to a folder."""
        (folder / REFERENCE_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> BundleReference:
        """Read the reference in a folder.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        path = folder / REFERENCE_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{path} is missing or holds no reference to a bundle", "load the model from the MLflow registry again"
            ) from error

    def locate(self, folder: Path) -> str:
        """The bundle's location in the first store that has it.

        These are the store that encloses the folder (so that a copied output folder uses its own files), the one that
        ``MISTERE_STORE`` names, and the recorded one. Which of them it is does not matter, because a bundle is verified by its digest.

        Args:
            folder: the folder with the reference.

        Raises:
            ArtifactError: no store has the bundle.
        """
        key = artifact_key(ModelBundle.__name__, self.bundle_digest)
        for parent in folder.resolve().parents:
            if (parent / key / MANIFEST).is_file():
                return str(parent / key)
        stores = [uri for uri in (os.environ.get(STORE_VARIABLE, ""), self.store) if uri]
        for uri in stores:
            store = open_store(uri)
            if store.exists(f"{key}/{MANIFEST}"):
                return store.location(key)
        raise ArtifactError(
            f"bundle {self.bundle_digest[:12]} is not in {' or '.join(stores)}",
            f"set {STORE_VARIABLE} to the store that holds it",
        )
