"""The images that the lock file names: whether nodes have them, or their registry does."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from mistere.common.errors import MistereError
from mistere.kubernetes.images import image
from pipelines.cli.doctor.groups.cluster import Cluster
from pipelines.cli.doctor.http_probe import Answer, ask
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, note, ok, skipped

_ROLES = ("pipeline", "train", "predictor")
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_NOWHERE = "localhost"  # what an engine calls the images that it has built and nobody has pushed
_REFERENCE = re.compile(
    r"^(?:(?P<host>localhost(?::\d+)?|[\w.-]+(?:\.[\w-]+|:\d+))/)?(?P<name>[\w./-]+?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>\w+:\w+))?$"
)


def subject(cluster: Cluster) -> Subject:
    """The checks of the images."""
    return Subject("Images", [Check(role, partial(_image, cluster, image(role))) for role in _ROLES])


def _image(cluster: Cluster, reference: str) -> CheckResult:
    """Nodes first: what they have is not pulled."""
    why = ""
    try:
        ready = cluster.nodes
        having = sum(_has(node, reference) for node in ready)
        if having:
            return ok(f"{reference} is on {having} of {len(ready)} nodes.")
        unknown = f"no node has {reference} yet"
    except (MistereError, SkippedError) as error:
        unknown, why = f"nodes cannot be asked for {reference}", f" ({str(error).rstrip('.')})"
    parts = _REFERENCE.match(reference)
    if parts is None:
        return failed(f"{reference} is no name of an image: `make compile` writes pipelines/images.lock.yaml anew.")
    if parts["host"] in {None, _NOWHERE}:
        sentence = f"{unknown}{why}, and its name tells no registry: load it into the nodes (`kind load docker-image {reference}`)."
        return skipped(sentence) if why else note(sentence)
    return _in_registry(reference, parts, unknown)


def _has(node: Any, reference: str) -> bool:
    """Whether a node lists the image; one without a registry is listed with that of the node's runtime before it."""
    names = [name for one in node.status.images or [] for name in one.names or []]
    return any(name == reference or name.endswith(f"/{reference}") for name in names)


def _in_registry(reference: str, parts: re.Match[str], unknown: str) -> CheckResult:
    host = parts["host"]
    scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
    url = f"{scheme}://{host}/v2/{parts['name']}/manifests/{parts['digest'] or parts['tag'] or 'latest'}"
    try:
        answer = ask(url, "the registry", headers={"Accept": _MANIFESTS}, method="HEAD")
        if answer.status == 401:
            answer = _with_token(url, answer)
    except MistereError:
        return skipped(f"{unknown}, and the registry {host} is not reached from here: nodes may still pull it.")
    if answer.status == 200:
        return ok(f"{reference} is in its registry.")
    if answer.status == 404:
        return failed(
            f"{reference} does not exist: build and push it (`make images`), or name one that does in the lock file."
        )
    if answer.status in {401, 403}:
        return skipped(
            f"{unknown}, and the registry {host} shows it to nobody without a login: nodes need the image pull secret."
        )
    return skipped(f"{unknown}, and the registry {host} has trouble of its own ({answer.status}).")


def _with_token(url: str, refusal: Answer) -> Answer:
    """Once more with the token that a registry gives to anybody."""
    from urllib.parse import urlencode

    from requests.utils import parse_dict_header

    kind, _, rest = refusal.headers.get("WWW-Authenticate", "").partition(" ")
    wanted = parse_dict_header(rest) if kind.lower() == "bearer" else {}
    realm = wanted.pop("realm", "")
    if not realm:
        return refusal
    given = ask(f"{realm}?{urlencode(wanted)}", "the registry").data
    token = given.get("token") or given.get("access_token")
    if not token:
        return refusal
    return ask(url, "the registry", headers={"Accept": _MANIFESTS, "Authorization": f"Bearer {token}"}, method="HEAD")
