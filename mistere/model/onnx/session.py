"""A graph in ONNX Runtime, on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mistere.common.errors import ArtifactError, MissingPackageError, MistereError
from mistere.common.parsing.documents import first_line
from mistere.model.onnx.graph_check import check_graph

PACKAGES: Final = "onnx==1.23.2 onnxruntime==1.32.0"
"""What an export needs; computing a graph needs the second alone."""


def missing_package(what: str, name: str) -> MissingPackageError:
    """The error for a package that is not installed.

    Args:
        what: what needs it, as the subject of the message.
        name: the package.
    """
    return MissingPackageError(f"{what} needs {name}, which is not installed: pip install {PACKAGES}.")


def check_packages() -> None:
    """Check that both packages of an export are installed, before it takes any time.

    Raises:
        MissingPackageError: one is not.
    """
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise missing_package("an export", name)


class GraphSession:
    """A graph that is ready to compute.

    Args:
        path: its file.
        threads: of an operation.
        inputs: names of the inputs that it must have.
        outputs: names of the outputs that it must have.

    Raises:
        ArtifactError: the file is refused, or is another graph.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        check_graph(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("an ONNX model", "onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # By the file's name, ONNX Runtime may take it for another format, which `check_graph` cannot read.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Threads that spin between operations take the cores from the server's other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many classes, all derived from Exception alone
            raise ArtifactError(f"{path} does not load ({first_line(error)})", "export the model again") from error
        names = {one.name for one in self._session.get_inputs()}, {one.name for one in self._session.get_outputs()}
        if names != (set(inputs), set(outputs)):
            raise ArtifactError(
                f"{path} has the inputs and outputs {sorted(names[0])} and {sorted(names[1])}, not those of its manifest",
                "export the model again",
            )
        self._outputs = list(outputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs, in the order in which they were named.

        Raises:
            MistereError: the graph cannot be computed.
        """
        try:
            arrays: list[np.ndarray] = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise MistereError(f"the graph cannot be computed ({first_line(error)}).") from error
        return arrays
