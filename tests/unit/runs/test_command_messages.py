"""Options that messages name are options of the command that prints them, and numbers agree with their nouns."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from mistere.common.counting import counted, plural
from mistere.common.paths import PROJECT_ROOT
from mistere.corpora.importers import importers
from pipelines.cli.app import app

_LAYERS = ("mistere", "components", "pipelines")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_OTHER_PROGRAM = re.compile(r"\b(?:pip install|git|kubectl|dvc|cosign|mlflow|python -m \S+) [^;:)`]*")


def commands() -> dict[str, Any]:
    """Every command by its path."""

    def below(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        children: Mapping[str, Any] = getattr(command, "commands", {})
        if not children:
            yield path, command
        for name, child in children.items():
            yield from below(child, f"{path} {name}".strip())

    return dict(below(typer.main.get_command(app), ""))


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "--verbose",
    }


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def module_file(name: str) -> Path | None:
    path = PROJECT_ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


Name = tuple[Path, str]
"""A function, class or constant of a module."""


@cache
def definitions_of(file: Path) -> dict[str, list[ast.stmt]]:
    """The statements that define each name of a module."""
    defined: dict[str, list[ast.stmt]] = {}
    for node in tree_of(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    defined.setdefault(target.id, []).append(node)
    return defined


def imported_in(nodes: Iterable[ast.AST]) -> dict[str, Name]:
    """What imports bind to each name: a definition, or a whole module (with an empty name)."""
    bound: dict[str, Name] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _LAYERS:
            for alias in node.names:
                if whole := module_file(f"{node.module}.{alias.name}"):
                    bound[alias.asname or alias.name] = (whole, "")
                elif file := module_file(node.module):
                    bound[alias.asname or alias.name] = (file, alias.name)
    return bound


@cache
def imports_of(file: Path) -> dict[str, Name]:
    return imported_in(tree_of(file).body)


@cache
def references_of(name: Name) -> set[Name]:
    """The definitions that a definition uses."""
    file, _ = name
    used: set[Name] = set()
    for statement in definitions_of(file).get(name[1], []):
        nodes = list(ast.walk(statement))
        bound = imports_of(file) | imported_in(nodes)
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                target = bound.get(node.value.id)
                if target and not target[1]:
                    used.add((target[0], node.attr))
            elif isinstance(node, ast.Name):
                if node.id in bound:
                    used.add(bound[node.id])
                elif node.id in definitions_of(file):
                    used.add((file, node.id))
    return used


def reached_from(start: Name) -> set[Name]:
    reached: set[Name] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting += references_of(current)
    return reached


@cache
def messages_of(name: Name) -> list[str]:
    """The texts of a definition with more than one word; the values in an f-string are shown as ``{}``."""
    texts: list[str] = []
    if "--" not in name[0].read_text(encoding="utf-8"):
        return texts
    for statement in definitions_of(name[0]).get(name[1], []):
        nodes = list(ast.walk(statement))
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        skipped |= {id(part) for node in formatted for part in ast.walk(node) if part is not node}
        for node in nodes:
            if id(node) in skipped:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return [text for text in texts if " " in text.strip()]


def definition_of(function: Callable[..., Any]) -> Name:
    original = inspect.unwrap(function)
    return Path(original.__code__.co_filename), original.__name__


def foreign_options(text: str, own: set[str], every: Mapping[str, set[str]]) -> set[str]:
    """The options in a message that are neither of the command itself nor of the command that the message names."""
    foreign = set()
    rest = _OTHER_PROGRAM.sub("", text)
    for part in re.split(r"(?<![\w{])(?=(?:mistere|\{\}) [a-z])", rest):
        named = re.match(r"(?:mistere|\{\}) ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", part)
        words = named[1].split() if named else []
        path = next((known for known in (" ".join(words), *words[:1]) if known in every), None)
        foreign |= set(_OPTION.findall(part)) - (every[path] if path else own)
    return foreign


def test_messages_name_options_of_their_command() -> None:
    every = commands()
    options = {path: options_of(command) for path, command in every.items()}
    wrong: dict[tuple[str, str], list[str]] = {}
    checked = 0
    for path, command in every.items():
        imported = importers().get(path.removeprefix("data import "))
        for name in reached_from(definition_of(imported.function if imported else command.callback)):
            for text in messages_of(name):
                checked += "--" in text
                for option in foreign_options(text, options[path], options):
                    wrong.setdefault((option, f"{name[0].relative_to(PROJECT_ROOT)}: {text}"), []).append(path)
    assert checked > 60
    assert not wrong, "\n".join(f"{key}: {paths}" for key, paths in wrong.items())


_PLURAL = re.compile(
    r"^ (?:[a-z]+ )?(?:dialogues|utterances|rows|files|recordings|texts|turns|speakers|trials|folds|runs|events|nodes|models|columns|"
    r"lines|times|labels|schedules|expectations|processes|shards|splits)\b"
)
_NEVER_ONE = re.compile(
    r"[A-Z]{3}|limit|max_|most|half|micro|features|num_columns|soft|pods\.count|folds|^count$|^processes$"
    r"|len\((names|infos|matches|set\(names\b)|\.count\(name\)|^(split|modality|path|counts|[\w.]*name|embedder\.modality|', '\.join.*)$"
)
"""Constants, limits, texts, and counts of a message that is only printed for several."""


def test_numbers_agree_with_their_nouns() -> None:
    """A number before a plural goes through ``counted`` or ``plural``; no other code chooses between the two forms."""
    assert [counted(number, "process", "processes") for number in (0, 1, 2000)] == [
        "0 processes",
        "1 process",
        "2,000 processes",
    ]
    assert plural(1, "is", "are") == "is" and plural(1.0, "second") == "second" and plural(0.5, "second") == "seconds"
    wrong = []
    for file in (file for layer in _LAYERS for file in (PROJECT_ROOT / layer).rglob("*.py")):
        if not re.search(r"\} (?:[a-z]+ )?[a-z]+s\b", file.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(tree_of(file)):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, after in pairwise(node.values):
                if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                    continue
                number = ast.unparse(value.value)
                if _PLURAL.match(str(after.value)) and not _NEVER_ONE.search(number) and "counted(" not in number:
                    wrong.append(f"{file.relative_to(PROJECT_ROOT)}:{node.lineno} {{{number}}}{after.value}")
    assert not wrong, "\n".join(wrong)
