"""The digest of the code a stage runs: its modules, everything of ours they import, their templates, and the lock file.

Editing a line in one stage, or in a shared module, changes the keys of exactly the stages that run it. Imports are read
from the source (also those inside functions), not by importing, which would cost seconds.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from components.core.places import LOCK_FILE, PROJECT_ROOT

_OUTSIDE_STAGES = frozenset({"components.core.progress", "components.core.errors", "components.finetune_encoder.nodes"})
"""Modules that cannot change a result: how progress is shown, how a failure is worded, how nodes are asked to train."""
_TEMPLATE_FOLDER = "templates/*.html"


def _module_file(module: str) -> Path | None:
    base = PROJECT_ROOT.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


@cache
def _imports(file: Path) -> frozenset[str]:
    """Our own modules that a file imports; for a package that discovers its members, all of these."""
    found: set[str] = set()
    for node in _executed(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    if "pkgutil" in found and file.name == "__init__.py":
        package = ".".join(file.parent.relative_to(PROJECT_ROOT).parts)
        found.update(f"{package}.{member.stem}" for member in file.parent.glob("*.py"))
    return frozenset(name for name in found if name.split(".")[0] == "components")


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker looks at: they change no result."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)


@cache
def _templates(file: Path) -> tuple[Path, ...]:
    """The templates that a module names and that lie beside it, alone or in a folder ``templates``."""
    literals = {
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    found = {file.parent / name for name in literals if name.endswith((".html", ".md")) and "\n" not in name}
    if _TEMPLATE_FOLDER.split("/")[0] in literals:
        found.update(file.parent.glob(_TEMPLATE_FOLDER))
    return tuple(sorted(path for path in found if path.is_file()))


def closure(module: str) -> dict[str, Path]:
    """Every module of ours that ``module`` runs, itself and parent packages included, with its file."""
    pending, seen = [module], dict[str, Path]()
    while pending:
        name = pending.pop()
        file = _module_file(name)
        if name in seen or name in _OUTSIDE_STAGES or file is None:
            continue
        seen[name] = file
        pending.extend(_imports(file))
        pending.extend(name.rsplit(".", 1)[:1] if "." in name else [])
    return seen


def source_digest(module: str) -> str:
    """SHA-256 over the closure of ``module``, its templates and the lock file."""
    digest = hashlib.sha256(LOCK_FILE.read_bytes() if LOCK_FILE.is_file() else b"")
    for name, file in sorted(closure(module).items()):
        for part in (file, *_templates(file)):
            digest.update(name.encode() + b"\0" + hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


@cache
def git_state() -> tuple[str, bool]:
    """The commit of the project's tree and whether it has changes that no commit holds; ``("", False)`` without Git.

    A new file counts where code is discovered by its place: a gate rule or an encoder family that nobody has added yet.
    """
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no")
        new = _git("ls-files", "--others", "--exclude-standard", "--", "components", "pipelines")
    except (OSError, subprocess.SubprocessError):
        return "", False
    return commit, bool(changed.strip() or new.strip())


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
