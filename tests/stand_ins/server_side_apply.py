"""Server-side apply as the API server does it: field managers, conflicts, and removal of fields without a manager.

Lists are atomic, as they are in custom resources whose schema says nothing else. The wording of conflicts is that of
kubernetes/apimachinery ``pkg/util/managedfields/internal/conflict.go``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

Path = tuple[str, ...]

_NOT_MANAGED = {
    ("apiVersion",),
    ("kind",),
    *(
        ("metadata", name)
        for name in (
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "managedFields",
        )
    ),
}


class ConflictsError(Exception):
    """Fields that other managers own.

    Args:
        conflicts: manager, operation and path of each field.
        version: the API version of the managers.
    """

    def __init__(self, conflicts: list[tuple[str, str, Path]], version: str) -> None:
        super().__init__()
        self._conflicts = [
            (f'"{manager}"' + (f" using {version}" if operation == "Update" else ""), f".{'.'.join(path)}")
            for manager, operation, path in conflicts
        ]

    @property
    def message(self) -> str:
        """The message of the API server."""
        if len(self._conflicts) == 1:
            ((manager, path),) = self._conflicts
            return f"Apply failed with 1 conflict: conflict with {manager}: {path}"
        lines = []
        for manager in sorted({manager for manager, _ in self._conflicts}):
            lines.append(f"conflicts with {manager}:")
            lines += [f"- {path}" for other, path in self._conflicts if other == manager]
        return f"Apply failed with {len(self._conflicts)} conflicts: " + "\n".join(lines)

    @property
    def causes(self) -> list[dict[str, str]]:
        """The causes in the details of the response."""
        return [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, path in self._conflicts
        ]


def leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Yield every field that a manifest sets."""
    if path in _NOT_MANAGED:
        return {}
    if isinstance(value, dict) and (value or not path):
        fields: dict[Path, Any] = {}
        for key, below in value.items():
            fields |= leaves(below, (*path, key))
        return fields
    return {path: value}


def apply(live: dict[str, Any], manifest: dict[str, Any], manager: str, force: bool) -> dict[str, Any]:
    """The object after ``manager`` applied a manifest."""
    result = copy.deepcopy(live)
    applied = leaves({key: value for key, value in manifest.items() if key != "status"})
    entries = _entries(live)
    clashes = []
    for path, value in applied.items():
        for (other, operation), owned in entries.items():
            if (other, operation) != (manager, "Apply") and path in owned and _at(live, path) != (True, value):
                clashes.append((other, operation, path))
    if clashes and not force:
        raise ConflictsError(clashes, live["apiVersion"])
    for other, _, path in clashes:
        for (name, _), owned in entries.items():
            if name == other:
                owned.discard(path)
    before = entries.pop((manager, "Apply"), set())
    for path in before - set(applied):
        if not any(path in owned for owned in entries.values()):
            _remove(result, path)
    for path, value in applied.items():
        _set(result, path, copy.deepcopy(value))
    entries[(manager, "Apply")] = set(applied)
    return _with_entries(result, entries)


def update(live: dict[str, Any], changed: dict[str, Any], manager: str) -> dict[str, Any]:
    """The object after ``manager`` wrote fields without server-side apply, which takes over their ownership."""
    result = copy.deepcopy(live)
    entries = _entries(live)
    mine = entries.setdefault((manager, "Update"), set())
    for path, value in leaves(changed).items():
        if _at(live, path) == (True, value):
            continue
        _set(result, path, copy.deepcopy(value))
        for owned in entries.values():
            owned.discard(path)
        mine.add(path)
    return _with_entries(result, entries)


def _entries(live: dict[str, Any]) -> dict[tuple[str, str], set[Path]]:
    return {
        (entry["manager"], entry["operation"]): set(_paths(entry["fieldsV1"]))
        for entry in live.get("metadata", {}).get("managedFields") or []
    }


def _with_entries(result: dict[str, Any], entries: dict[tuple[str, str], set[Path]]) -> dict[str, Any]:
    result["metadata"]["managedFields"] = [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": result["apiVersion"],
            "fieldsType": "FieldsV1",
            "fieldsV1": _fields(paths),
        }
        for (manager, operation), paths in sorted(entries.items())
        if paths
    ]
    return result


def _fields(paths: Iterable[Path]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for part in path:
            node = node.setdefault(f"f:{part}", {})
    return root


def _paths(fields: dict[str, Any], path: Path = ()) -> Iterable[Path]:
    for key, below in fields.items():
        inner = (*path, key.removeprefix("f:"))
        if below:
            yield from _paths(below, inner)
        else:
            yield inner


def _at(value: Any, path: Path) -> tuple[bool, Any]:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _set(value: dict[str, Any], path: Path, content: Any) -> None:
    for part in path[:-1]:
        value = value.setdefault(part, {})
    value[path[-1]] = content


def _remove(value: dict[str, Any], path: Path) -> None:
    if len(path) > 1:
        inner = value.get(path[0])
        if isinstance(inner, dict):
            _remove(inner, path[1:])
            if not inner:
                del value[path[0]]
    else:
        value.pop(path[0], None)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two objects are equal except for their version."""

    def content(value: dict[str, Any]) -> str:
        metadata = {key: field for key, field in value["metadata"].items() if key != "resourceVersion"}
        return json.dumps({**value, "metadata": metadata}, sort_keys=True)

    return content(left) == content(right)
