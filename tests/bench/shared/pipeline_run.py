"""A run of the pipeline that a benchmark starts from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.registry.release.champion import read_champion


def deployed_by_run(output: Path, *settings: str) -> str:
    """Run the profile ``sample``; work that was finished there before is found again.

    Args:
        output: the output directory.
        settings: ``SECTION.KEY=VALUE`` each.

    Returns:
        The location of the bundle that it deployed.

    Raises:
        MistereError: it deployed none.
    """
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "mistere", "run", "--profile", "sample", "--data", "data.dvc"]
    code = subprocess.run([*command, "--output", str(output), *options], check=False).returncode
    store = LocalStore(output / "store")
    champion = read_champion(store).champion
    if champion is None:
        raise MistereError(
            f"the run in {output} ended with exit code {code} and deployed no model: its report says why."
        )
    return store.location(f"artifacts/ModelBundle/{champion.bundle_digest}")
