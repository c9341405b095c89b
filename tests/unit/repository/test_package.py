"""The wheel in an environment of its own, which cannot see the checkout: what works there, and what says that it needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

from mistere.common.paths import PROJECT_ROOT
from mistere.serving.client import DialogueClient
from tests.local.servers import free_port
from tests.local.workshop import make_dataset
from tests.serving.conftest import make_bundle
from tests.unit.artifacts.embeddings_folder import write_embeddings

LAYERS = ("mistere", "components", "pipelines")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy as ``pip install .`` builds it."""
    copy = tmp_path_factory.mktemp("source")
    for layer in LAYERS:
        shutil.copytree(PROJECT_ROOT / layer, copy / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "mistere_launcher.py", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT_ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(copy / "dist"), str(copy)], check=True, timeout=300)
    return next((copy / "dist").glob("mistere-*.whl"))


class Installed:
    """An environment with the wheel, and this one's third-party packages.

    A line of a ``.pth`` file adds this environment's site-packages to the path without its own ``.pth`` files, so the
    checkout that is installed editable there is not found.
    """

    def __init__(self, directory: Path, wheel: Path) -> None:
        venv.create(directory, with_pip=False)
        self.python = directory / "bin" / "python"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*pip, str(wheel)], check=True, timeout=300)
        (self.packages,) = directory.glob("lib/python*/site-packages")
        (self.packages / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.command = str(directory / "bin" / "mistere")

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.elsewhere,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def mistere(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.command, *arguments, **variables)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.long
def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packaged = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(PROJECT_ROOT).as_posix()
        for layer in LAYERS
        for path in (PROJECT_ROOT / layer).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - packaged == set()
    assert {name.split("/")[0] for name in packaged if ".dist-info" not in name} == {*LAYERS, "mistere_launcher.py"}


@pytest.mark.long
def test_it_runs_the_code_of_the_wheel(installed: Installed) -> None:
    for module in LAYERS:
        done = installed.run(str(installed.python), "-c", f"import {module}; print({module}.__file__)")
        assert done.stdout.startswith(str(installed.packages)), done.stdout + done.stderr
    version = installed.mistere("--version")
    assert version.returncode == 0 and f"installed in {installed.packages}" in version.stdout, version.stderr
    for command in ((installed.command, "--help"), (str(installed.python), "-m", "mistere", "-h")):
        assert "Commands:" in installed.run(*command).stdout
    assert "meld" in installed.mistere("data", "import", "--help").stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "suffix", [pytest.param("/__init__.py", id="folder"), pytest.param(".py", id="file", marks=pytest.mark.long)]
)
def test_the_command_names_a_foreign_package_mistere(installed: Installed, tmp_path: Path, suffix: str) -> None:
    module = tmp_path / f"mistere{suffix}"
    module.parent.mkdir(exist_ok=True)
    module.write_text("raise RuntimeError('the package of a user')\n")
    done = installed.mistere("--version", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    location = module.parent if suffix == "/__init__.py" else module
    assert f"imports the package 'mistere' from {location}, " in done.stderr and "PYTHONPATH" in done.stderr


def test_the_command_runs_a_checkout_on_the_path(installed: Installed) -> None:
    done = installed.mistere("--version", PYTHONPATH=str(PROJECT_ROOT))
    assert done.returncode == 0 and str(installed.packages) not in done.stdout, done.stderr


@pytest.mark.long
def test_train_and_data_check_work_elsewhere(installed: Installed, tmp_path: Path) -> None:
    write_embeddings(tmp_path / "embeddings")
    done = installed.mistere(
        "train",
        "--embeddings",
        str(tmp_path / "embeddings"),
        "--profile",
        "tiny",
        "--set",
        "mixture.epochs=3",
        "--output",
        str(tmp_path / "train"),
    )
    assert done.returncode == 0 and (tmp_path / "train" / "metrics.json").is_file(), done.stdout + done.stderr
    checked = installed.mistere("data", "check", str(make_dataset(tmp_path / "tones")), "--profile", "tiny")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (installed.elsewhere / "output" / "check").is_dir()


@pytest.mark.long
def test_serve_and_predict_work_elsewhere_beside_decoys(installed: Installed, tmp_path: Path) -> None:
    for name in ("components", "pipelines", "mistere"):
        (installed.elsewhere / name).mkdir()
        (installed.elsewhere / name / "__init__.py").write_text("raise RuntimeError('the package of a user')\n")
    port, grpc = free_port(), free_port()
    command = [
        installed.command,
        "serve",
        make_bundle(tmp_path, ("text",)),
        "--port",
        str(port),
        "--grpc-port",
        str(grpc),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=installed.elsewhere, env=installed.environment, stdout=log, stderr=log)
    try:
        deadline, client = time.monotonic() + 240, DialogueClient(f"http://127.0.0.1:{port}")
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.wait_ready(1)
                break
            except Exception:
                continue
        assert server.poll() is None, (tmp_path / "log").read_text()
        (tmp_path / "dialogue.json").write_text('[{"text": "Where have you been?"}]')
        done = installed.mistere(
            "predict", "--dialogue", str(tmp_path / "dialogue.json"), "--url", f"http://127.0.0.1:{port}"
        )
        assert done.returncode == 0 and "been?" in done.stdout and "model version" in done.stdout, (
            done.stdout + done.stderr
        )
    finally:
        server.terminate()
        server.wait(30)
        for name in ("components", "pipelines", "mistere"):
            shutil.rmtree(installed.elsewhere / name)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("bench",), marks=pytest.mark.long),
        ("submit", "--host", "http://127.0.0.1:1", "--store", "s3://bucket/prefix"),
        pytest.param(("schedule", "diff", "schedules.yaml"), marks=pytest.mark.long),
        pytest.param(("schedule", "apply", "schedules.yaml"), marks=pytest.mark.long),
        pytest.param(("replay", "1", "--store", ".", "--tracking", "sqlite:///mlflow.db"), marks=pytest.mark.long),
    ],
)
def test_commands_that_need_a_checkout_report_it(installed: Installed, arguments: tuple[str, ...]) -> None:
    done = installed.mistere(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "needs a checkout of the project" in done.stderr and str(installed.packages) in done.stderr


def test_the_name_of_images_needs_a_checkout(installed: Installed) -> None:
    done = installed.run(str(installed.python), "-m", "pipelines.images", "--tag")
    assert done.returncode == 2 and "needs a checkout of the project" in done.stderr


def test_the_digest_of_code_covers_the_installed_versions(installed: Installed) -> None:
    """Without a lock file, a stage's key changes with the versions that are installed."""
    code = (
        "from mistere.common.digests.code import source_digest, git_state, _dependencies\n"
        "import importlib.metadata as m\n"
        "assert git_state() == ('', False)\n"
        "assert f\"numpy=={m.version('numpy')}\".encode() in _dependencies()\n"
        "print(source_digest('components.train_moe.run'))"
    )
    done = installed.run(str(installed.python), "-c", code)
    assert len(done.stdout.strip()) == 64, done.stderr
