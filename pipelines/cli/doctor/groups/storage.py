"""The object store: each operation that a run needs, tried once with a small object."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from mistere.artifacts.object_store import ABSENT, ConflictError, ObjectStore, open_store
from mistere.artifacts.s3.store import S3Store
from mistere.common.environment import STORE_VARIABLE
from mistere.common.urls import redact_url
from pipelines.cli.doctor.groups.records import check_records, check_releases
from pipelines.cli.doctor.http_probe import probe
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, ok

_CONTENT = b"mistere doctor\n"


@dataclass
class Storage:
    """The store of a plan, and the key that the checks write to."""

    plan: Plan

    def __post_init__(self) -> None:
        self._folder = f"doctor/{uuid.uuid4().hex}"
        self._key = f"{self._folder}/probe"
        self._store: ObjectStore | None = None

    def reached(self) -> CheckResult:
        """Whether the store is named, answers, and can be reached by pods."""
        plan = self.plan
        if not plan.store:
            if plan.host:
                return failed(
                    f"no store is named: give s3://bucket/prefix with --store, {STORE_VARIABLE} or cluster.store."
                )
            raise SkippedError(f"no store is named (--store, {STORE_VARIABLE} or cluster.store).")
        if plan.host and not plan.store.startswith("s3://"):
            return failed(
                f"{plan.store} is a folder of this machine, which pods cannot reach: name s3://bucket/prefix."
            )
        store = open_store(plan.store)
        endpoint = ""
        if isinstance(store, S3Store):
            endpoint = store.endpoint
            probe(endpoint, "the S3 server", plan.clock)
        self._store = store
        return ok(f"{store.uri}{f' at {redact_url(endpoint)}' if endpoint else ''}.")

    def put(self) -> CheckResult:
        """Write an object."""
        self._opened.write(self._key, _CONTENT)
        return ok("written.")

    def get(self) -> CheckResult:
        """Read the object."""
        data, _ = self._opened.read(self._key)
        if data != _CONTENT:
            return failed(f"{self.plan.store} returned other content than was written: use a consistent store.")
        return ok("read.")

    def listing(self) -> CheckResult:
        """List the object."""
        if list(self._opened.keys(self._folder)) != [self._key]:
            return failed(f"{self.plan.store} does not list an object that was just written: use a consistent store.")
        return ok("listed.")

    def conditional(self) -> CheckResult:
        """Conditional puts that must be refused, in both forms that the champion's pointer needs."""
        key = f"{self._folder}/conditional"
        first = self._opened.write(key, b"1", expected=ABSENT)
        self._opened.write(key, b"2", expected=first)
        for expected in (ABSENT, first):
            try:
                self._opened.write(key, b"3", expected=expected)
            except ConflictError:
                continue
            return failed(
                f"{self.plan.store} accepts a put whose condition does not hold (If-Match, If-None-Match), so two releases could "
                "overwrite each other: use a store with conditional puts."
            )
        return ok("the second of two writers is refused.")

    def records(self) -> CheckResult:
        """Read what runs and releases have written."""
        return check_records(self._opened)

    def releases(self) -> CheckResult:
        """Look for releases that are not finished."""
        return check_releases(self._opened)

    def delete(self) -> CheckResult:
        """Delete the objects."""
        self._opened.delete(self._folder)
        return ok("deleted.")

    @property
    def _opened(self) -> ObjectStore:
        assert self._store is not None
        return self._store


def group(plan: Plan) -> CheckGroup:
    """The checks of the object store."""
    storage = Storage(plan)
    return CheckGroup(
        "Object store (with the credentials of this shell)",
        [
            Check("the store", storage.reached),
            Check("put", storage.put),
            Check("get", storage.get),
            Check("list", storage.listing),
            Check("conditional put", storage.conditional),
            Check("delete", storage.delete),
            Check("records", storage.records),
            Check("releases", storage.releases),
        ],
        first_required=True,
    )
