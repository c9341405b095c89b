"""Commands, options, settings, targets, modules, files and links in the README and docs/ exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import click
import pytest
import typer
import yaml

from mistere.config.description import models_in, settings_of
from mistere.config.modalities import DEFAULT_MODALITIES, sections_with
from mistere.config.predictor_options import VARIABLE_PREFIX
from pipelines.cli.app import app
from pipelines.profiles import PIPELINE_CONFIG, load_profile

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
"""The changelog also names removed things."""
_FENCE = re.compile(r"^( *)(```+|~~~+)(\w*)[^\n]*\n(.*?)^\1\2", re.DOTALL | re.MULTILINE)
_PACKAGES = re.compile(r"^\| (\d) \| `(\w+)` \|", re.MULTILINE)


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[str]:
    return [match[4] for match in _FENCE.finditer(read(name)) if match[3] in languages]


def shell_lines(name: str) -> list[str]:
    return [
        line.strip()
        for block in blocks(name, "bash", "console", "text", "yaml")
        for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    ]


def spans(name: str) -> list[str]:
    """Return the inline code outside of code blocks, without line breaks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _FENCE.sub("", read(name)))]


def named_commands() -> list[tuple[str, str]]:
    start = re.compile(r"(?:^|[\s|&(/])(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?mistere ((?:-{0,2}[a-z][^|&;#>]*))")
    commands = set()
    for name in CURRENT:
        for line in shell_lines(name):
            typed = re.match(r"(?:- )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?mistere (\S.*)", line)
            match = typed or (start.search(line) if ".venv/bin/mistere" in line else None)
            if match:
                commands.add((name, re.split(r"\s[>|&;#]", match[1])[0].strip()))
        commands |= {
            (name, match[1].strip())
            for span in spans(name)
            if (match := re.match(r"(?:[A-Z_]+=\S+ )*mistere (.+)", span))
        }
    return sorted(commands)


COMMANDS = named_commands()
COMMAND_TREE: click.Command = typer.main.get_command(app)
PROFILES = [
    (name, content)
    for name in CURRENT
    for block in blocks(name, "yaml")
    if isinstance(content := yaml.safe_load(block), dict)
    and set(content) <= {*sections_with(DEFAULT_MODALITIES), "modalities", "cluster", "seed"}
]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the words name, and its arguments."""
    command = COMMAND_TREE
    while hasattr(command, "commands"):
        while words and words[0].startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
            assert words[0] in known, f"there is no option {words[0]}"
            words = words[1:]
            if not words:
                return command, []
        if not words:
            return command, []
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def setting_exists(path: list[str]) -> bool:
    """Return whether a dotted path names a section or a setting; any key of a mapping is accepted."""
    owner: Any = PIPELINE_CONFIG
    for part in path:
        if get_origin(owner) is dict:
            owner = get_args(owner)[1]
        elif hasattr(owner, "model_fields") and part in owner.model_fields:
            owner = owner.model_fields[part].annotation
        else:
            return False
    return True


def new_files(name: str) -> set[str]:
    """Return the files that a page has the reader create: blocks with a title."""
    return set(re.findall(r'^```\w+ title="([^"]+)"', read(name), re.MULTILINE))


def test_the_readme_names_every_command_and_links_every_guide() -> None:
    readme = read("README.md")
    commands = getattr(COMMAND_TREE, "commands", {})
    assert len(commands) > 20
    assert [name for name, command in commands.items() if not command.hidden and f"`mistere {name}" not in readme] == []
    guides = [f"docs/guides/{page.name}" for page in (ROOT / "docs" / "guides").glob("*.md")]
    assert [guide for guide in guides if f"({guide})" not in readme] == []


def test_commands_and_profiles_are_extracted() -> None:
    assert len(COMMANDS) > 60 and len(PROFILES) >= 2


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[f"{name}: {command}" for name, command in COMMANDS])
def test_command_exists_with_its_options_and_settings(name: str, command: str) -> None:
    words = [word for word in shlex.split(command) if word not in {"…", "..."}]
    if words[:2] == ["data", "import"] and len(words) > 2 and f"importers/{words[2]}.py" in "".join(new_files(name)):
        return
    if words and words[0] == "bench" and len(words) > 1 and words[1] != "NAME":
        assert (ROOT / "tests" / "bench" / f"{words[1]}.py").is_file()
        return
    parsed, rest = command_of(words)
    known = {option for parameter in parsed.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }
    used = {word.partition("=")[0] for word in rest if word.startswith("--") and word != "--"}
    assert used <= known, f"mistere {command}: no {used - known}"
    settings = [value for option, value in pairwise(rest) if option == "--set"]
    profile = next((value for option, value in pairwise(rest) if option == "--profile"), "sample")
    load_profile(
        "sample" if profile.startswith("$") else profile,
        [setting for setting in settings if "=" in setting and "…" not in setting],
    )


@pytest.mark.parametrize(("name", "content"), PROFILES, ids=[f"{name}: {'+'.join(c)}" for name, c in PROFILES])
def test_profile_is_valid(name: str, content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    load_profile(str(tmp_path / "own.yaml"), [])


@pytest.mark.parametrize("name", CURRENT)
def test_settings_exist(name: str) -> None:
    pattern = re.compile(rf"^((?:{'|'.join([*sections_with(DEFAULT_MODALITIES), 'cluster'])})(?:\.[\w-]+)+)(?:=.*)?$")
    settings = [match[1] for span in spans(name) if (match := pattern.match(span))]
    unknown = {
        setting
        for setting in settings
        if not setting_exists(setting.split("."))
        and not setting.endswith((".dvc", ".json", ".yaml", ".npy", ".onnx", ".NAME"))
        and not any(setting.rsplit(".", 1)[1] in block for block in blocks(name, "python"))
    }
    assert not unknown


@pytest.mark.parametrize("name", CURRENT)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", read_makefile(), re.MULTILINE))
    typed = [match[1] for line in shell_lines(name) if (match := re.match(r"(?:\S+=\S+ )*make ([a-z0-9-]+)", line))]
    typed += [match[1] for span in spans(name) if (match := re.match(r"(?:\S+=\S+ )*make ([a-z0-9-]+)", span))]
    assert set(typed) <= targets


def read_makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CURRENT)
def test_paths_exist(name: str) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", read(name))
    paths = re.findall(
        r"(?<![\w/.-])(?:mistere|components|pipelines|manifests|docker|tests|docs|\.github|\.dvc)/[\w./-]*[\w/]", text
    )
    created = new_files(name) | {str(parent) for file in new_files(name) for parent in Path(file).parents}
    exempt = {"mistere/data", "mistere/store", "mistere/pipeline-python"}  # inside a bucket, an image
    missing = {
        path
        for path in paths
        if not (ROOT / path).exists()
        and path.rstrip("/") not in created | exempt
        and not re.match(r"mistere/\d+$", path)
        and path != ".dvc/config.local"
    }
    assert not missing


@pytest.mark.parametrize("name", CURRENT)
def test_modules_that_are_run_exist(name: str) -> None:
    modules = re.findall(r"python3? -m ((?:mistere|components|pipelines|tests)[\w.]*)", read(name))
    assert all(importlib.util.find_spec(module) for module in modules)


@pytest.mark.parametrize("name", CURRENT)
def test_environment_variables_exist(name: str) -> None:
    known = set(reference().variables()) | {"MISTERE_PROFILE"}  # a variable of the CI workflows
    known |= set(re.findall(r'"(MISTERE_TEST_[A-Z]+)"', read("tests/contract/conftest.py")))
    assert set(re.findall(r"\bMISTERE_[A-Z_]+\b", read(name))) <= known


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_outside_the_site_have_existing_targets(name: str) -> None:
    """Links between pages of docs/ are checked by ``make docs``."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(name)) + re.findall(
        r'(?:src|srcset)="([^":]+)"', read(name)
    )
    assert targets or name != "README.md"
    assert not {target for target in targets if not (ROOT / target).exists()}


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 200


def test_prohibited_uses_are_named_in_each_document() -> None:
    for name in ("README.md", "docs/index.md", "components/register_model/model_card.md"):
        text = " ".join(read(name).split())
        assert re.search(r"at work or in education", text) and "5(1)(f)" in text and "50(3)" in text, name


def reference() -> ModuleType:
    """The generator of the reference pages."""
    return hook("reference")


def hook(name: str) -> ModuleType:
    """A module of ``docs/hooks``."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_tables_of_many_columns_name_their_cells_and_break_where_parts_end() -> None:
    head = "<thead><tr><th>what</th><th>file</th><th>date</th><th>share</th></tr></thead>"
    row = "<tr><td>a</td><td><code>mistere/reports/page.html --to x</code></td><td>2026-11-29</td><td>5 %</td></tr>"
    table = hook("tables").readable(f"<table>{head}<tbody>{row}</tbody></table>")
    assert table.startswith("<table data-list>") and '<td>a</td><td data-name="file">' in table
    assert 'mistere/<wbr>reports/<wbr>page.<wbr>html <span class="whole">--to</span> x' in table
    assert '<span class="whole">2026-11-29</span>' in table and "5\N{NO-BREAK SPACE}%" in table
    narrow = "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table>"
    assert hook("tables").readable(narrow) == narrow


def test_reference_lists_each_command_setting_and_variable() -> None:
    module = reference()
    commands, settings, codes = module.command_line(), module.settings(), module.exit_codes()
    assert "## mistere schedule apply" in commands and "`--quarantine`" in commands
    assert "`mixture.learning_rate`" in settings and "`speech.lora.rank`" in settings
    assert "`cluster.steps.STEP.memory`" in settings and "`gate.min_class_f1`" in settings
    assert "POST /v1/models/" in module.rest() and "| 5 | different |" in codes
    assert module.variables_in_code() <= {*module.variables(), VARIABLE_PREFIX}


def test_settings_have_a_description() -> None:
    described = [
        setting
        for name, field in PIPELINE_CONFIG.model_fields.items()
        for section in models_in(field.annotation)
        for setting in settings_of(section, f"{name}.")
    ]
    assert len(described) > 150 and not [setting.name for setting in described if not setting.meaning]


def test_quoted_error_messages_exist() -> None:
    """The code or the Makefile contains each message of the troubleshooting page."""
    code = read_makefile() + "".join(
        re.sub(r'"\s*\n\s*[frb]*"', "", file.read_text(encoding="utf-8"))
        for layer in ("mistere", "components", "pipelines")
        for file in sorted((ROOT / layer).rglob("*.py"))
    )
    page = read("docs/operations/troubleshooting.md")
    messages = [
        message
        for message in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
        if message != "message contains" and not message.startswith("status ")
    ]
    assert len(messages) > 25
    assert not [message for message in messages if message not in code]


def test_package_table_matches_the_tree_and_the_import_contract() -> None:
    text = read("docs/architecture.md")
    rows = [(int(number), package) for number, package in _PACKAGES.findall(text)]
    packages = {path.name for path in (ROOT / "mistere").iterdir() if (path / "__init__.py").is_file()}
    assert {package for _, package in rows} == packages and len(rows) == len(packages)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["mistere"])
    expected = [set(re.split(r" [|:] ", layer)) for layer in reversed(layers)]
    assert [{package for number, package in rows if number == index + 1} for index in range(len(layers))] == expected


def test_large_folders_are_explained() -> None:
    """The architecture gives a reason for each folder with more than a dozen modules."""
    section = read("docs/architecture.md").split("### Size of folders")[1].split("\n## ")[0]
    large = {
        f"{folder.relative_to(ROOT)}/"
        for layer in ("mistere", "components", "pipelines")
        for folder in [ROOT / layer, *(ROOT / layer).rglob("*")]
        if folder.is_dir()
        and folder.name != "__pycache__"
        and sum(path.name != "__init__.py" for path in folder.glob("*.py")) > 12
    }
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == large


def test_stage_table_lists_each_stage() -> None:
    stages = {path.parent.name for path in (ROOT / "components").glob("*/component.py")}
    table = read("docs/concepts.md").split("## The pipeline")[1].split("## Caching")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == stages


def test_menu_lists_each_page_and_the_site_is_strict() -> None:
    text = read("mkdocs.yml")
    assert "strict: true" in text and "font: false" in text and "anchors: warn" in text
    listed = set(re.findall(r"[\w/-]+\.md", text))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | set(reference().PAGES)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: make setup-dev")
def test_site_builds_offline_and_rejects_a_dead_link(tmp_path: Path) -> None:
    def build(configuration: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mkdocs", "build", "-f", str(configuration), "-d", str(tmp_path / "site")]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)

    assert (result := build(ROOT / "mkdocs.yml")).returncode == 0, result.stdout + result.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="?(https?://[^">\s]+)', page.read_text(encoding="utf-8")
        )
        assert not [url for url in loaded if "canonical" not in url], page
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(ROOT / "docs"), str(copy)], check=True)
    (copy / "concepts.md").write_text("# Concepts\n\n[gone](no-such-page.md)\n")
    text = (
        read("mkdocs.yml")
        .replace("docs_dir: docs", f"docs_dir: {copy}")
        .replace("docs/hooks", str(ROOT / "docs/hooks"))
    )
    (tmp_path / "mkdocs.yml").write_text(text)
    assert "no-such-page.md" in (result := build(tmp_path / "mkdocs.yml")).stderr and result.returncode != 0
