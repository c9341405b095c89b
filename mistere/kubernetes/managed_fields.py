"""What one field manager applied to a Kubernetes object, read from ``metadata.managedFields``: enough to apply it again.

Fields that others set, and the defaults that the cluster filled in, are left out: applying them too would take them over, and the
next apply without them would remove them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def applied_by(manager: str, live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that ``manager`` applied last, with today's values.

    Args:
        manager: of the fields.
        live: the object as the API server answered it.

    Returns:
        A manifest; one that names the object alone where the manager applied nothing.
    """
    metadata = live["metadata"]
    manifest: dict[str, Any] = {}
    for entry in metadata.get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource"):
            manifest = _part(live, entry.get("fieldsV1") or {})
    named = {"name": metadata["name"], "namespace": metadata["namespace"]}
    return {
        **manifest,
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {**manifest.get("metadata", {}), **named},
    }


def _part(value: Any, fields: Mapping[str, Any]) -> Any:
    """The part of a value that a set of fields names; all of it where the set ends (``{}``)."""
    below = {key: content for key, content in fields.items() if key != "."}
    if not below:
        return value
    if isinstance(value, list):
        return [_part(item, content) for key, content in below.items() for item in _items(value, key)]
    names = {key.removeprefix("f:"): content for key, content in below.items() if key.startswith("f:")}
    return {name: _part(value[name], content) for name, content in names.items() if name in value}


def _items(values: list[Any], key: str) -> list[Any]:
    """The items of a list that a key means: ``k:{"name":"x"}`` by their fields, ``v:…`` by their value, ``i:2`` by place."""
    kind, _, said = key.partition(":")
    if kind == "i":
        return values[int(said) : int(said) + 1]
    wanted = json.loads(said)
    if kind == "v":
        return [value for value in values if value == wanted]
    return [value for value in values if all(value.get(name) == content for name, content in wanted.items())]
