"""Which turns of a table are context: those of roles that are not predicted and, if allowed, those without a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.corpora.import_report import some

_MOST_ROLES = 10


@dataclass(frozen=True, slots=True)
class ContextRule:
    """Which turns are context, so that they have no label.

    Attributes:
        predict_roles: turns of other roles are, whatever their label; empty if roles do not matter.
        unlabelled: whether a turn without a label is too, rather than an error.
    """

    predict_roles: Sequence[str] = ()
    unlabelled: bool = False

    def label(self, label: str | None, role: str | None, where: str, cell: str) -> str | None:
        """The label of a turn; None if it is context.

        Raises:
            DataError: there is none, and the turn is not context.
        """
        if self.predict_roles and role not in self.predict_roles:
            return None
        if label is None and not self.unlabelled:
            raise DataError(
                f"{where}: there is no label{cell}; every utterance needs one, unless --unlabelled context makes those without it "
                "context."
            )
        return label

    def notes(self, context: Sequence[str | None]) -> list[str]:
        """How many turns are context, and why, in sentences.

        Args:
            context: the role of each context turn.
        """
        others = sum(role not in self.predict_roles for role in context) if self.predict_roles else 0
        notes = []
        if others:
            notes.append(
                f"{counted(others, 'turn')} of other roles than {' and '.join(self.predict_roles)} {plural(others, 'is', 'are')} "
                "context; labels there are left out."
            )
        if unlabelled := len(context) - others:
            notes.append(f"{counted(unlabelled, 'turn')} without a label {plural(unlabelled, 'is', 'are')} context.")
        return notes


NO_CONTEXT: Final = ContextRule()
"""Every turn needs a label."""


def check_roles(predict_roles: Sequence[str], roles: Sequence[str | None]) -> None:
    """Check that every role that is to be predicted occurs.

    Args:
        predict_roles: what the user typed.
        roles: the role of each turn.

    Raises:
        UsageError: one does not.
    """
    occurring = sorted({role for role in roles if role is not None})
    for role in predict_roles:
        if role not in occurring:
            raise UsageError(
                f"--predict-role {role}: no turn has this role; those that occur are {some(occurring, _MOST_ROLES) or 'none'}."
            )
