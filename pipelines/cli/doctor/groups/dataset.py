"""The dataset: its version, and whether the remote holds all of its files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mistere.artifacts.s3.probe import check_access, use_data_endpoint
from mistere.common.counting import counted, plural
from mistere.common.errors import MistereError
from mistere.common.paths import cache_directory
from mistere.common.urls import redact_url
from mistere.data.dataset import load_info
from mistere.data.dvc_remote import dvc_project, read_listing
from mistere.data.local_copies import use_local_copies
from mistere.data.versions import PinnedData, pin
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok


class Dataset:
    """The dataset of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def pinned(self) -> CheckResult:
        """Whether the source is valid, and which version it names."""
        source = Path(self._plan.config.data.source)
        if source.is_dir():
            load_info(source / "dataset.yaml")
            return ok(f"{source}, a folder: a run takes a snapshot of it.")
        remote = redact_url(self._data.remote)
        if self._plan.on_a_cluster and not self._data.remote.startswith("s3://"):
            return failed(
                f"{source} is kept in {remote}, which pods cannot reach: make an s3:// remote the default one "
                "(`dvc remote add --default NAME s3://…`, `dvc push`)."
            )
        return ok(f"{source} is {self._data.digest}, kept in {remote}.")

    def complete(self) -> CheckResult:
        """Whether the remote holds the listing and every file in it; only the listing is downloaded."""
        if Path(self._plan.config.data.source).is_dir():
            return ok("nothing to download.")
        from dvc.exceptions import DvcException

        remote, digest = self._data.remote, self._data.digest
        use_data_endpoint(self._data.endpoint)
        if remote.startswith("s3://"):
            check_access(remote, listing=True)
        try:
            with dvc_project(cache_directory("doctor"), remote) as repo:
                objects = repo.cloud.get_remote_odb("data")
                if not objects.exists(digest):
                    return self._lacking(f"does not hold {digest}")
                content = objects.fs.cat_file(objects.oid_to_path(digest))
                listing = read_listing(content, f"the listing {digest} in {redact_url(remote)}")
                missing = [name for name, md5 in listing.items() if not objects.exists(md5)]
        except (DvcException, OSError, ValueError) as error:
            if remote.startswith("s3://"):
                check_access(remote, listing=True)  # DVC gives no reason
            raise MistereError(
                f"the remote {redact_url(remote)} cannot be read ({type(error).__name__}): check its address, and that this "
                "shell's credentials may read it."
            ) from error
        if missing:
            return self._lacking(f"lacks {len(missing)} of {counted(len(listing), 'file')}, {missing[0]} among them")
        return ok(f"{counted(len(listing), 'file')} of {digest[:12]} {plural(len(listing), 'exists', 'exist')}.")

    def _lacking(self, what: str) -> CheckResult:
        """The result for an incomplete remote: a note if a run on this machine can use the files that are here."""
        remote = redact_url(self._data.remote)
        if not self._plan.on_a_cluster and use_local_copies(self._data):
            return note(
                f"the remote {remote} {what}; runs on this machine use the copies here, and others need `dvc push`."
            )
        return failed(f"the remote {remote} {what}: run `dvc push`.")

    @cached_property
    def _data(self) -> PinnedData:
        return pin(self._plan.config.data.source, snapshots="", for_cluster=self._plan.on_a_cluster)


def group(plan: Plan) -> CheckGroup:
    """The checks of the dataset."""
    dataset = Dataset(plan)
    return CheckGroup(
        "Data", [Check("version", dataset.pinned), Check("remote", dataset.complete)], first_required=True
    )
