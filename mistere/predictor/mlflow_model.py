"""The loader of the ``python_function`` flavour: a released model behind ``mlflow.pyfunc.load_model``.

``MLmodel`` names this module, so a registered model holds no code and nothing pickled. It needs an environment with this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.artifacts.bundle_reference import REFERENCE_FILE, BundleReference
from mistere.common.errors import UsageError
from mistere.predictor.in_process import LoadedModel, load
from mistere.serving import protocol
from mistere.serving.client import EndpointPrediction
from mistere.serving.dialogue import DialogueTurn
from mistere.serving.vectors import read_vectors

if TYPE_CHECKING:
    from pandas import DataFrame

AFFECTS_RESULTS = False
"""No stage loads a model through MLflow."""

DIALOGUE, TURN, TEXT, AUDIO = "dialogue_id", "turn", "text", "audio"
"""Columns of the table; that of context turns, the further modalities' and those of vectors are named as in requests."""


class DialogueTableModel:
    """A released model that predicts a table with one row per utterance.

    Args:
        model: the opened bundle.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def predict(self, model_input: DataFrame, params: Mapping[str, Any] | None = None) -> DataFrame:
        """Predict each dialogue of a table, with the same numbers as the endpoint's answer.

        Args:
            model_input: a row per utterance with ``text`` (a string), ``audio`` (the bytes of an audio file), and each further modality
                of the model (a list of image files as bytes, or a list of numbers); for a model that takes vectors, with
                ``text_embedding`` and so on (a list of numbers). Each may be missing. Where ``predict`` is False, the row is context for
                its neighbours only. Rows with equal ``dialogue_id`` are one dialogue, in the order of ``turn``. Without ``dialogue_id``
                the table is one dialogue; without ``turn`` the order of the rows counts. Other columns are ignored.
            params: not used; MLflow passes it.

        Returns:
            A row per utterance, in the order and with the index of the input: ``label``, ``probabilities`` (in the order of the labels
            in ``MLmodel``), ``expert_weights`` and ``modalities_used``; for a model that transcribes ``text_source``, too. A row that is
            context has the label "" and zeros.

        Raises:
            UsageError: the table is empty, has another form, or has a dialogue with nothing that the model reads.
            AudioDecodeError: the audio of an utterance does not decode.
        """
        import pandas

        columns = [protocol.embedding_name(name) for name in self._model.vectors]
        columns = columns or [TEXT, AUDIO, *self._model.further_modalities]
        if not isinstance(model_input, pandas.DataFrame) or not set(columns) & set(model_input.columns):
            raise UsageError(
                f"the input is a table with a row per utterance and a column {' or '.join(columns)}, or several of them."
            )
        if model_input.empty:
            raise UsageError("the table has no rows.")
        rows: dict[int, dict[str, Any]] = {}
        for name, positions in _dialogues(model_input).items():
            try:
                prediction = self._prediction(model_input, positions, columns)
            except UsageError as error:
                raise UsageError(f"dialogue {name}: {error}" if name else str(error)) from error
            for index, position in enumerate(positions):
                rows[position] = {
                    "label": prediction.predicted[index],
                    "probabilities": [float(value) for value in prediction.probabilities[index]],
                    "expert_weights": [float(value) for value in prediction.expert_weights[index]],
                    "modalities_used": prediction.modalities[index],
                    **({"text_source": prediction.text_sources[index]} if prediction.text_sources else {}),
                }
        return pandas.DataFrame([rows[position] for position in range(len(model_input))], index=model_input.index)

    def _prediction(self, table: DataFrame, positions: Sequence[int], columns: Sequence[str]) -> EndpointPrediction:
        rows = [_values(table, position, columns) for position in positions]
        if not self._model.vectors:
            return self._model.predict(
                [
                    DialogueTurn(row.pop(TEXT, None), row.pop(AUDIO, None), row.pop(protocol.PREDICT), row)
                    for row in rows
                ]
            )
        dialogue = read_vectors(rows)
        return self._model.predict_vectors(
            replace(dialogue, encoder_digest=self._model.encoder_digest(dialogue.vectors))
        )


def _dialogues(table: DataFrame) -> dict[str, list[int]]:
    """The positions of each dialogue's rows, in the order of the turns."""
    import pandas

    names = [""] * len(table)
    if DIALOGUE in table.columns:
        if table[DIALOGUE].isna().any():
            raise UsageError(f"row {int(table[DIALOGUE].isna().to_numpy().argmax())} of the table has no {DIALOGUE}.")
        names = [str(name) for name in table[DIALOGUE]]
    dialogues: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        dialogues.setdefault(name, []).append(position)
    if TURN in table.columns:
        turns = pandas.to_numeric(table[TURN], errors="coerce").tolist()
        for name, positions in dialogues.items():
            numbers = [turns[position] for position in positions]
            if any(number != number for number in numbers) or len(set(numbers)) < len(numbers):
                where = f"dialogue {name}" if name else f"the table (without {DIALOGUE} it is one dialogue)"
                raise UsageError(f"{where} has a {TURN} that is missing, occurs twice or is not a number.")
            positions.sort(key=turns.__getitem__)
    return dialogues


def _values(table: DataFrame, position: int, columns: Sequence[str]) -> dict[str, Any]:
    """The values of one row, without those that are missing; ``predict`` is always there."""
    values: dict[str, Any] = {}
    for column in columns:
        value = table[column].iloc[position] if column in table.columns else None
        if not _is_missing(value):
            values[column] = value
    if not isinstance(values.get(TEXT, ""), str):
        raise UsageError(f"row {position} of the table: {TEXT} is a string, not {type(values[TEXT]).__name__}.")
    if not isinstance(values.get(AUDIO, b""), bytes):
        raise UsageError(
            f"row {position} of the table: {AUDIO} is the bytes of an audio file, not {type(values[AUDIO]).__name__}."
        )
    mark = table[protocol.PREDICT].iloc[position] if protocol.PREDICT in table.columns else True
    if not _is_missing(mark) and not isinstance(mark, bool | np.bool_):
        raise UsageError(f"row {position} of the table: {protocol.PREDICT} is true or false.")
    return {**values, protocol.PREDICT: _is_missing(mark) or bool(mark)}


def _is_missing(value: Any) -> bool:
    """Whether a value of a table is none: None, NaN, or pandas' own mark."""
    import pandas

    return bool(pandas.api.types.is_scalar(value) and pandas.isna(value))


def _load_pyfunc(path: str) -> DialogueTableModel:
    """Open the model in a folder; MLflow calls this function by its name.

    Args:
        path: the folder of a registered model, or a bundle's own.

    Raises:
        ArtifactError: the bundle is not in the store, or is incomplete or damaged.
    """
    folder = Path(path)
    if (folder / REFERENCE_FILE).is_file():
        return DialogueTableModel(load(BundleReference.read(folder).locate(folder)))
    return DialogueTableModel(load(folder))
