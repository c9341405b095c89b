"""The object store: each operation that a run needs, tried once with a small object."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from mistere.artifacts.object_store import ABSENT, ConflictError, ObjectStore, S3Store, open_store
from mistere.common.environment import STORE_VARIABLE
from mistere.common.errors import MistereError
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
            endpoint = _endpoint()
            probe(endpoint, "the S3 server", plan.clock)
        self._store = store
        return ok(f"{store.uri}{f' at {endpoint}' if endpoint else ''}.")

    def put(self) -> CheckResult:
        """Write an object."""
        self._try(lambda store: store.write(self._key, _CONTENT), "s3:PutObject")
        return ok("written.")

    def get(self) -> CheckResult:
        """Read the object."""
        data, _ = self._try(lambda store: store.read(self._key), "s3:GetObject")
        if data != _CONTENT:
            return failed(f"{self.plan.store} returned other content than was written: use a consistent store.")
        return ok("read.")

    def listing(self) -> CheckResult:
        """List the object."""
        if list(self._try(lambda store: list(store.keys(self._folder)), "s3:ListBucket")) != [self._key]:
            return failed(f"{self.plan.store} does not list an object that was just written: use a consistent store.")
        return ok("listed.")

    def conditional(self) -> CheckResult:
        """Conditional puts that must be refused, in both forms that the champion's pointer needs."""
        key = f"{self._folder}/conditional"
        first = self._try(lambda store: store.write(key, b"1", expected=ABSENT), "s3:PutObject")
        self._try(lambda store: store.write(key, b"2", expected=first), "s3:PutObject")
        for expected in (ABSENT, first):
            try:
                self._try(lambda store, seen=expected: store.write(key, b"3", expected=seen), "s3:PutObject")
            except ConflictError:
                continue
            return failed(
                f"{self.plan.store} accepts a put whose condition does not hold (If-Match, If-None-Match), so two releases could "
                "overwrite each other: use a store with conditional puts."
            )
        return ok("the second of two writers is refused.")

    def delete(self) -> CheckResult:
        """Delete the objects."""
        self._try(lambda store: store.delete(self._folder), "s3:DeleteObject")
        return ok("deleted.")

    def _try(self, work: Any, right: str) -> Any:
        assert self._store is not None
        try:
            return work(self._store)
        except ConflictError:
            raise
        except MistereError as error:
            raise MistereError(_explained(error, self.plan.store, right)) from error


def _explained(error: MistereError, store: str, right: str) -> str:
    """The store's error message, or a more specific one for known error codes."""
    response = getattr(error.__cause__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    if code == "RequestTimeTooSkewed":
        return f"the S3 server of {store} refuses this machine's clock: set it from the network (`timedatectl set-ntp true`)."
    if code in {"AccessDenied", "Forbidden", "403"}:
        return f"these credentials lack {right} on {store}: grant it to them, and to those in the secret of the runs."
    if code in {"ExpiredToken", "InvalidToken"}:
        return f"the credentials for {store} have expired: get new ones, with AWS_SESSION_TOKEN."
    if code == "NoSuchBucket":
        return f"the bucket of {store} does not exist: create it, or correct --store."
    return str(error)


def _endpoint() -> str:
    """The address that the S3 client uses: the environment's, or AWS's."""
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return str(boto3.client("s3").meta.endpoint_url)
    except (BotoCoreError, ValueError) as error:
        raise MistereError("no S3 client can be created: check AWS_ENDPOINT_URL and AWS_REGION.") from error


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
        ],
        first_required=True,
    )
