"""The digest of the code that a stage computes with: the meaning of its modules, their templates, and the lock file.

The digest covers the syntax tree of every module that the stage reaches, without docstrings, comments and positions, so
that editing a docstring reruns nothing and editing a constant reruns exactly the stages that reach it. Imports are read
from the source (those inside functions too), because importing would take seconds.

A module that computes nothing (progress, tracking, reports, the registry) says so itself with ``AFFECTS_RESULTS = False``
at its top level, a package in its ``__init__.py`` for everything in it. Such modules are in no stage's digest.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from mistere.common.names import shown
from mistere.common.paths import LOCK_FILE, PROJECT_ROOT, is_checkout

AFFECTS_RESULTS = False
"""How keys are computed changes no result; another way of computing them gives other keys by itself."""

LAYERS = ("mistere", "components", "pipelines")
NOT_IN_IMAGES = frozenset(
    {"images.lock.yaml", "retraining.yaml", "scoring.yaml", "monitoring.yaml", "distillation.yaml", "schedules.yaml"}
)
"""Files in the folders of the layers that no image holds: what ``mistere compile`` writes, and the schedules."""
BUILD_FILES = (
    "docker/Dockerfile", "docker/install.sh", "docker/index.sh", "docker/debian_install.sh", "docker/debian_packages.py",
    "docker/*.lock", "pyproject.toml", "requirements*.lock",
)  # fmt: skip
"""Glob patterns of the other files that an image is built from."""
_NAMES_A_VERSION = ("pipelines/images.lock.yaml", "**/*.dvc", ".dvc/config")
"""Glob patterns of the files that name the images and the data of a run."""
_MOST_NAMED = 3
_OPT_OUT = "AFFECTS_RESULTS"
_TEMPLATE_FOLDER = "templates/*.html"
_TEMPLATE_ENDINGS = (".html", ".md")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of a syntax tree that hold statements, or clauses that hold statements."""
_NO_MEANING = frozenset({"ctx", "type_comment", "kind"})
"""Fields of a syntax tree that repeat what its structure says, or hold comments."""


def code_meaning(source: str) -> str:
    """The syntax tree of Python source as canonical text, without docstrings, comments and positions.

    The text is the same under every Python version that this project supports: fields that a version adds are empty for
    code that older versions parse, and empty fields are left out.

    Args:
        source: Python source code.

    Raises:
        SyntaxError: the source does not parse.
    """
    parts: list[str] = []
    _dump(ast.parse(source), parts.append)
    return "".join(parts)


def _dump(node: object, add: Callable[[str], None]) -> None:
    """Add the text of a node. Half a million nodes for the project, so there is no generator for each of them."""
    if isinstance(node, ast.AST):
        add(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None or name in _NO_MEANING:
                continue
            if isinstance(node, ast.JoinedStr):
                # Python 3.12.1 adds empty text to the format specifications of f-strings; other versions do not.
                value = [part for part in value if not (isinstance(part, ast.Constant) and part.value == "")]
            if value != []:
                add(f" {name}=")
                _dump(value, add)
        add(")")
    elif isinstance(node, list):
        add("[")
        for item in node:
            if not _is_docstring(item):
                _dump(item, add)
        add("]")
    else:
        add(f"{type(node).__name__}:{node!r}")


def _is_docstring(node: object) -> bool:
    """Whether a statement is a string and nothing else: a docstring, of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _module_file(module: str) -> Path | None:
    base = PROJECT_ROOT.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _affects_results(module: str) -> bool:
    """Whether neither a module nor a package that it is in opts out with ``AFFECTS_RESULTS = False``."""
    file = _module_file(module)
    if file is not None:
        for node in _tree(file).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=False)) if name == _OPT_OUT:
                    return False
    parent = module.rpartition(".")[0]
    return not parent or _affects_results(parent)


@cache
def _imports(file: Path) -> frozenset[str]:
    """Our own modules that a file imports; for a package that discovers its members, all of these."""
    imported: set[str] = set()
    for node in statements(_tree(file)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    if "pkgutil" in imported and file.name == "__init__.py":
        package = ".".join(file.parent.relative_to(PROJECT_ROOT).parts)
        imported.update(f"{package}.{member.stem}" for member in file.parent.glob("*.py") if member != file)
    return frozenset(name for name in imported if name.split(".")[0] in LAYERS)


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement but those that only a type checker reads: they change no result.

    Nine of ten nodes of a tree are expressions, which hold no statements.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        for field in _BLOCKS:
            pending.extend(getattr(node, field, ()))


@cache
def _templates(file: Path) -> tuple[Path, ...]:
    """The templates that a module names and that lie beside it, alone or in a folder ``templates``."""
    text = file.read_text(encoding="utf-8")
    if not any(word in text for word in (*_TEMPLATE_ENDINGS, _TEMPLATE_FOLDER.split("/")[0])):
        return ()
    literals = {
        node.value for node in ast.walk(_tree(file)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {file.parent / name for name in literals if name.endswith(_TEMPLATE_ENDINGS) and "\n" not in name}
    if _TEMPLATE_FOLDER.split("/")[0] in literals:
        named.update(file.parent.glob(_TEMPLATE_FOLDER))
    return tuple(sorted(path for path in named if path.is_file()))


def closure(module: str, *, computing: bool = True) -> dict[str, Path]:
    """Every module of ours that ``module`` reaches, itself and parent packages included, with its file.

    Args:
        module: dotted name to start from.
        computing: leave out modules that opt out with ``AFFECTS_RESULTS = False``, and what only they reach.
    """
    pending, reached = [module], dict[str, Path]()
    while pending:
        name = pending.pop()
        file = _module_file(name)
        if name in reached or file is None or (computing and not _affects_results(name)):
            continue
        reached[name] = file
        pending.extend(_imports(file))
        pending.extend(name.rsplit(".", 1)[:1] if "." in name else [])
    return reached


@cache
def _file_digest(file: Path) -> bytes:
    """Digest of a file's meaning if it is Python, of its bytes otherwise."""
    text = code_meaning(file.read_text(encoding="utf-8")).encode() if file.suffix == ".py" else file.read_bytes()
    return hashlib.sha256(text).digest()


def source_digest(module: str) -> str:
    """SHA-256 over the closure of ``module``, its templates and the versions of the dependencies."""
    digest = hashlib.sha256(_dependencies())
    for name, file in sorted(closure(module).items()):
        for part in (file, *_templates(file)):
            digest.update(name.encode() + b"\0" + _file_digest(part))
    return digest.hexdigest()


@cache
def _dependencies() -> bytes:
    """The lock file; where the project is installed without one, the versions that are installed beside it."""
    if LOCK_FILE.is_file():
        return LOCK_FILE.read_bytes()
    installed = {f"{package.name}=={package.version}" for package in distributions()}
    return "\n".join(sorted(installed)).encode()


def tree_digest(files: list[Path]) -> str:
    """SHA-256 over files of the project: paths, and for each its meaning if it is Python, its bytes otherwise."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(PROJECT_ROOT).as_posix().encode() + b"\0" + _file_digest(path))
    return digest.hexdigest()


@cache
def git_state() -> tuple[str, bool]:
    """The commit of the project's tree and whether :func:`uncommitted_files` finds any; ``("", False)`` without Git.

    :func:`mistere.common.digests.git_problems.missing_commit` says why there is no commit. An installed package has no commit, also where a repository of someone else surrounds its site-packages.
    """
    if not is_checkout():
        return "", False
    try:
        commit = _git("rev-parse", "HEAD").strip()
        _git(
            "ls-files", "--error-unmatch", "pyproject.toml"
        )  # fails in an archive that lies in a repository of someone else
        return commit, bool(uncommitted_files())
    except (OSError, subprocess.SubprocessError):
        return "", False


@cache
def uncommitted_files() -> tuple[str, ...]:
    """The files with uncommitted changes that decide what a run computes, relative to the project's tree.

    These are the files that an image is built from, and those that name the images and the data. An untracked file
    counts in the folders that code is discovered in: it may be a gate rule or an encoder family. Documentation, tests
    and the ``.gitignore`` that ``dvc add`` writes change no model.

    Raises:
        OSError: Git is not installed.
        subprocess.SubprocessError: Git fails.
    """
    not_code = NOT_IN_IMAGES - {Path(name).name for name in _NAMES_A_VERSION}
    left_out = [f":(exclude,glob)**/{name}" for name in sorted(not_code)]
    others = [f":(glob){pattern}" for pattern in (*BUILD_FILES, *_NAMES_A_VERSION)]
    status = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--")
    changed = _git(*status, *LAYERS, *others, *left_out).split("\0")
    new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *LAYERS, *left_out).split("\0")
    return tuple(sorted({*(entry[3:] for entry in changed if entry), *(name for name in new if name)}))


def name_files(files: Sequence[str]) -> str:
    """The first files by name, and how many more there are: ``a.py, b.py, c.py and 2 more``."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return f"{', '.join(name if name.isprintable() else shown(name) for name in files[:_MOST_NAMED])}{more}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=True,
    ).stdout  # fmt: skip
