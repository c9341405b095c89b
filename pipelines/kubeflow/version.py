"""The pipeline version of this tree and a profile: compiled, named by Git, identified by the digest of its content."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.common.digests.code import git_state, name_files, uncommitted_files
from mistere.common.digests.git_problems import missing_commit
from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.stages import PipelineName
from mistere.kubernetes.images import IMAGES_LOCK
from pipelines.catalogue import PIPELINES
from pipelines.compile import compile_pipeline
from pipelines.images import lock_text, source_hash

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineVersion

    from pipelines.kubeflow.connection.client import Pipelines

_CONTENT: Final = re.compile(r"content sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Tree:
    """The state of the source tree that a run starts from.

    Attributes:
        commit: full hash; empty without Git.
        dirty: whether files that decide what a run computes have uncommitted changes.
        described: the output of ``git describe``; a hash of the source without Git.
        uncommitted: names these files, for a sentence.
    """

    commit: str
    dirty: bool
    described: str
    uncommitted: str = ""


def this_tree() -> Tree:
    """The current state of the project's tree."""
    commit, dirty = git_state()
    if not commit:
        return Tree("", dirty, f"src-{source_hash()}")
    described = subprocess.run(
        ["git", "describe", "--always", "--tags"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30, check=True,
    ).stdout.strip()  # fmt: skip
    if not dirty:
        return Tree(commit, dirty, described)
    return Tree(commit, dirty, f"{described}-dirty", name_files(uncommitted_files()))


def releasable_tree(*, allow_dirty: bool) -> Tree:
    """The project's tree, checked for use on a cluster.

    Args:
        allow_dirty: accept uncommitted changes.

    Raises:
        UsageError: the tree has uncommitted changes, or the locked images are not those of this tree.
    """
    tree = this_tree()
    if not allow_dirty and (tree.dirty or not tree.commit):
        if not tree.commit:
            reason, fix = missing_commit()
            raise UsageError(
                f"the version of this tree has no name because {reason}: {fix}, or submit a trial run with --allow-dirty."
            )
        raise UsageError(
            f"this tree has uncommitted changes{f' in {tree.uncommitted}' if tree.uncommitted else ''}, so its models could not be "
            "reproduced: commit them, or submit a trial run with --allow-dirty."
        )
    if IMAGES_LOCK.read_text(encoding="utf-8") != lock_text():
        raise UsageError(
            f"{IMAGES_LOCK.relative_to(PROJECT_ROOT)} names images that are not built from this tree, so the cluster would run "
            "other code: run `make compile`, commit, and build and push the images."
        )
    return tree


@dataclass(frozen=True)
class Version:
    """A compiled pipeline.

    Attributes:
        name: shown in the user interface.
        content: SHA-256 of the package.
        package: the pipeline as YAML.
        commit: of the tree that it was compiled from.
        pipeline: which pipeline it is.
    """

    name: str
    content: str
    package: str
    commit: str
    pipeline: PipelineName = "retraining"

    @property
    def description(self) -> str:
        """Contains the digest for :func:`content_of`, because the server returns the package in another format."""
        return f"content sha256:{self.content}, commit {self.commit or 'unknown'}"

    @property
    def label(self) -> str:
        """Name and digest: trees with uncommitted changes share a name."""
        return version_label(self.name, self.content)

    @property
    def second_name(self) -> str:
        """Used if a version with another content has the first name."""
        return f"{self.name}-{self.content[:8]}"


@cache
def compiled_version(
    profile: str, settings: tuple[str, ...], tree: Tree, pipeline: PipelineName = "retraining"
) -> Version:
    """Compile a pipeline for a cluster. Cached, because schedules often share a version.

    Args:
        profile: the base settings.
        settings: as for ``--set``.
        tree: the source tree.
        pipeline: which pipeline.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PIPELINES[pipeline].file
        compile_pipeline(profile, settings, file, pipeline)
        package = file.read_text(encoding="utf-8")
    name = re.sub(r"[^a-z0-9.]+", "-", f"{tree.described}-{profile_name(profile)}".lower()).strip("-.")
    return Version(name, hashlib.sha256(package.encode()).hexdigest(), package, tree.commit, pipeline)


def profile_name(profile: str) -> str:
    """The name of a profile; of a profile file, its stem."""
    return Path(profile).stem


def content_of(version: V2beta1PipelineVersion) -> str:
    """The digest of an uploaded version's package; empty if its description has none."""
    match = _CONTENT.search(version.description or "")
    return match[1] if match else ""


def version_label(name: str, content: str) -> str:
    """A version's name with the start of its content's digest, if that is known."""
    return f"{name} ({content[:12]})" if content else name


def ensure_uploaded(pipelines: Pipelines, version: Version) -> tuple[V2beta1PipelineVersion, bool]:
    """Upload a version unless the server has it.

    Args:
        pipelines: the server.
        version: the compiled pipeline.

    Returns:
        The version on the server, and whether it was uploaded now.
    """
    chosen = PIPELINES[version.pipeline]
    pipeline = pipelines.pipeline(chosen.server_name, chosen.description)
    for name in (version.name, version.second_name):
        on_server = pipelines.version(pipeline, name)
        if on_server is None:
            on_server = pipelines.upload(pipeline, name, version.description, version.package)
            if content_of(on_server) == version.content:
                return on_server, True
        if content_of(on_server) == version.content:
            return on_server, False
    raise UsageError(
        f"the versions {version.name} and {version.second_name} of {chosen.server_name} exist on the server with other contents: delete "
        "the second one there."
    )
