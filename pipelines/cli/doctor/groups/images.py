"""The images of the lock file: whether the nodes or a registry have them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.kubernetes.image_registry import RegistryError
from mistere.kubernetes.image_signatures import verify_image
from mistere.kubernetes.images import image
from pipelines.cli.doctor.groups.cluster import Cluster
from pipelines.cli.doctor.http_probe import Response, probe
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, note, ok, skipped

_ROLES = ("pipeline", "train", "predictor")
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_NOWHERE = "localhost"  # the registry name that container engines give to images that were built and not pushed
_REFERENCE = re.compile(
    r"^(?:(?P<host>localhost(?::\d+)?|[\w.-]+(?:\.[\w-]+|:\d+))/)?(?P<name>[\w./-]+?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>\w+:\w+))?$"
)


def group(cluster: Cluster) -> CheckGroup:
    """The checks of the images."""
    checks = [Check(role, partial(_image, cluster, image(role))) for role in _ROLES]
    if key := cluster.plan.config.deployment.image_key:
        checks.append(Check("signature of predictor", partial(_signature, image("predictor"), key)))
    return CheckGroup("Images", checks)


def _image(cluster: Cluster, reference: str) -> CheckResult:
    """Look on the nodes first: an image that they have is not pulled."""
    why = ""
    try:
        ready = cluster.nodes
        count = sum(_has(node, reference) for node in ready)
        if count:
            return ok(f"{reference} is on {count} of {counted(len(ready), 'node')}.")
        unknown = f"no node has {reference} yet"
    except (MistereError, SkippedError) as error:
        unknown, why = f"the nodes' images are unknown, so {reference} may be missing", f" ({str(error).rstrip('.')})"
    parts = _REFERENCE.match(reference)
    if parts is None:
        return failed(
            f"{reference} is not an image name: run `make compile` to write pipelines/images.lock.yaml again."
        )
    if parts["host"] in {None, _NOWHERE}:
        sentence = f"{unknown}{why}, and its name contains no registry: load it into the nodes (`kind load docker-image {reference}`)."
        return skipped(sentence) if why else note(sentence)
    return _in_registry(reference, parts, unknown)


def _signature(reference: str, key: str) -> CheckResult:
    """The signature that ``deploy_model`` requires, read from here with this machine's login."""
    try:
        verified = verify_image(reference, key)
    except RegistryError as error:
        return skipped(str(error))
    except MistereError as error:
        return failed(str(error))
    return ok(f"{verified} is signed by the key of deployment.image_key.")


def _has(node: dict[str, Any], reference: str) -> bool:
    """Whether a node lists the image; the container runtime may prefix a name without a registry with its default one."""
    names = [name for one in node.get("status", {}).get("images") or [] for name in one.get("names") or []]
    return any(name == reference or name.endswith(f"/{reference}") for name in names)


def _in_registry(reference: str, parts: re.Match[str], unknown: str) -> CheckResult:
    host = parts["host"]
    scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
    url = f"{scheme}://{host}/v2/{parts['name']}/manifests/{parts['digest'] or parts['tag'] or 'latest'}"
    try:
        answer = probe(url, "the registry", headers={"Accept": _MANIFESTS}, method="HEAD")
        if answer.status == 401:
            answer = _with_token(url, answer)
    except MistereError:
        return skipped(f"{unknown}, and the registry {host} cannot be reached from here: nodes may still pull it.")
    if answer.status == 200:
        return ok(f"{reference} is in its registry.")
    if answer.status == 404:
        return failed(
            f"{reference} does not exist: build and push it (`make images`), or name one that does in the lock file."
        )
    if answer.status in {401, 403}:
        return skipped(f"{unknown}, and the registry {host} requires a login: nodes need the image pull secret.")
    return skipped(f"{unknown}, and the registry {host} answers with an error ({answer.status}).")


def _with_token(url: str, refusal: Response) -> Response:
    """Repeat the request with the anonymous token of the registry."""
    from urllib.parse import urlencode

    from requests.utils import parse_dict_header

    kind, _, rest = refusal.headers.get("WWW-Authenticate", "").partition(" ")
    challenge = parse_dict_header(rest) if kind.lower() == "bearer" else {}
    realm = challenge.pop("realm", "")
    if not realm:
        return refusal
    answer = probe(f"{realm}?{urlencode(challenge)}", "the registry").data
    token = answer.get("token") or answer.get("access_token")
    if not token:
        return refusal
    return probe(url, "the registry", headers={"Accept": _MANIFESTS, "Authorization": f"Bearer {token}"}, method="HEAD")
