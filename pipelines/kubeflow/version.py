"""The pipeline version that this tree and a profile make: compiled, named by Git, told apart by its content."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.common.code_digest import git_state
from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.kubernetes.images import IMAGES_LOCK
from pipelines.compile import compile_pipeline
from pipelines.images import lock_text, source_hash

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineVersion

    from pipelines.kubeflow.client import Pipelines

PIPELINE: Final = "mistere-retraining"
_DESCRIPTION: Final = "Retrains a model of emotions in conversations and, if the gate agrees, releases it."
_CONTENT: Final = re.compile(r"content sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Tree:
    """The code that a run starts from.

    Attributes:
        commit: in full; empty where there is no Git.
        dirty: whether it has changes that no commit holds.
        described: by ``git describe``; the hash of the source where there is no Git.
    """

    commit: str
    dirty: bool
    described: str


def this_tree() -> Tree:
    """The project's tree as it is."""
    commit, dirty = git_state()
    if not commit:
        return Tree("", dirty, f"src-{source_hash()}")
    described = subprocess.run(
        ["git", "describe", "--always", "--tags", "--dirty"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30, check=True,
    ).stdout.strip()  # fmt: skip
    return Tree(commit, dirty, described if described.endswith("-dirty") or not dirty else f"{described}-dirty")


def releasable_tree(*, allow_dirty: bool) -> Tree:
    """The project's tree, if a cluster may run it.

    Args:
        allow_dirty: whether changes that no commit holds are no reason against it.

    Raises:
        UsageError: they are one; or the images named are not built from this tree.
    """
    tree = this_tree()
    if not allow_dirty and (tree.dirty or not tree.commit):
        raise UsageError(
            "this tree has changes that no commit holds, so nobody could make its models again: commit them, or take the models "
            "for a trial with --allow-dirty."
            if tree.commit
            else "this tree is no Git repository, so its version has no name: run this in a clone, or use --allow-dirty."
        )
    if IMAGES_LOCK.read_text(encoding="utf-8") != lock_text():
        raise UsageError(
            f"{IMAGES_LOCK.relative_to(PROJECT_ROOT)} names images that are not built from this tree, so the cluster would run "
            "other code than this: `make compile`, commit, and build and push the images."
        )
    return tree


@dataclass(frozen=True)
class Version:
    """A compiled pipeline.

    Attributes:
        name: for people.
        content: SHA-256 of the package.
        package: KFP's YAML.
        commit: of the tree it was compiled from.
    """

    name: str
    content: str
    package: str
    commit: str

    @property
    def description(self) -> str:
        """Says what :func:`content_of` reads: the server gives a package back in another spelling."""
        return f"content sha256:{self.content}, commit {self.commit or 'unknown'}"

    @property
    def second_name(self) -> str:
        """For where the first is taken by a version with another content."""
        return f"{self.name}-{self.content[:8]}"


@cache
def compiled_version(profile: str, settings: tuple[str, ...], tree: Tree) -> Version:
    """Compile the pipeline as a cluster is to run it; several schedules often share one.

    Args:
        profile: settings to start from.
        settings: ``--set`` on top.
        tree: the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "retraining.yaml"
        compile_pipeline(profile, settings, file)
        package = file.read_text(encoding="utf-8")
    name = re.sub(r"[^a-z0-9.]+", "-", f"{tree.described}-{profile_name(profile)}".lower()).strip("-.")
    return Version(name, hashlib.sha256(package.encode()).hexdigest(), package, tree.commit)


def profile_name(profile: str) -> str:
    """What a profile is called, also one in a file of one's own."""
    return Path(profile).stem


def content_of(version: V2beta1PipelineVersion) -> str:
    """The digest of an uploaded version's package; empty where it does not say."""
    found = _CONTENT.search(version.description or "")
    return found[1] if found else ""


def uploaded(pipelines: Pipelines, version: Version) -> tuple[V2beta1PipelineVersion, bool]:
    """The version on the server.

    Args:
        pipelines: the server.
        version: what is to be there.

    Returns:
        It, and whether it was uploaded just now.
    """
    pipeline = pipelines.pipeline(PIPELINE, _DESCRIPTION)
    for name in (version.name, version.second_name):
        there = pipelines.version(pipeline, name)
        if there is None:
            there = pipelines.upload(pipeline, name, version.description, version.package)
            if content_of(there) == version.content:
                return there, True
        if content_of(there) == version.content:
            return there, False
    raise UsageError(
        f"the versions {version.name} and {version.second_name} of {PIPELINE} are on the server with another content: delete "
        "the second one there."
    )
