"""Restore the manifest that one field manager applied to a Kubernetes object, from ``metadata.managedFields``.

Fields of other managers and the cluster's defaults are left out: applying them would take over their ownership, and the next
apply without them would remove them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistere.common.parsing.documents import load_json


def applied_by(manager: str, live: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that ``manager`` applied last, with their current values.

    Args:
        manager: the field manager.
        live: the object as the API server returned it.

    Returns:
        A manifest; without any field but the object's identity if the manager applied nothing.
    """
    metadata = live["metadata"]
    manifest: dict[str, Any] = {}
    for entry in metadata.get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource"):
            manifest = _part(live, entry.get("fieldsV1") or {})
    identity = {"name": metadata["name"], "namespace": metadata["namespace"]}
    return {
        **manifest,
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {**manifest.get("metadata", {}), **identity},
    }


def _part(value: Any, fields: Mapping[str, Any]) -> Any:
    """The part of a value that a ``FieldsV1`` set selects; all of the value for an empty set."""
    below = {key: content for key, content in fields.items() if key != "."}
    if not below:
        return value
    if isinstance(value, list):
        return [_part(item, content) for key, content in below.items() for item in _items(value, key)]
    names = {key.removeprefix("f:"): content for key, content in below.items() if key.startswith("f:")}
    return {name: _part(value[name], content) for name, content in names.items() if name in value}


def _items(values: list[Any], key: str) -> list[Any]:
    """The items of a list that a key selects: ``k:{"name":"x"}`` by fields, ``v:…`` by value, ``i:2`` by index."""
    kind, _, selector = key.partition(":")
    if kind == "i":
        return values[int(selector) : int(selector) + 1]
    selector_fields = load_json(selector)
    if kind == "v":
        return [value for value in values if value == selector_fields]
    return [value for value in values if all(value.get(name) == content for name, content in selector_fields.items())]
