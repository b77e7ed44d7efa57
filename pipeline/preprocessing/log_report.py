"""What is wrong with a log, all of it at once, as text for people."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Counts = collections.Counter[tuple[str, str]]  # (table, ``read``, ``accepted`` or reason) -> rows
_MAX_CHARACTERS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        table: Name of the table; "" for the whole log.
        text: Account of what is wrong and what to write instead.
        is_problem: Whether preprocessing refuses the log because of it.
        examples: Rows, as far as they help.
    """

    table: str
    text: str
    is_problem: bool
    examples: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        mark = "PROBLEM" if self.is_problem else "warning"
        where = f"{self.table}: " if self.table else ""
        rows = (f"\n           for example {dict(row)}" for row in self.examples)
        return f"{mark}  {where}{self.text}{''.join(rows)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogReport:
    """What the check of a log found.

    Attributes:
        findings: Findings, problems first.
        rows: Number of rows read, used, and set aside by reason, by table.
    """

    findings: Sequence[Finding]
    rows: Counts

    @property
    def problems(self) -> list[Finding]:
        """Findings because of which preprocessing refuses the log."""
        return [finding for finding in self.findings if finding.is_problem]

    def __str__(self) -> str:
        tables = dict.fromkeys(table for table, _ in self.rows)
        read = ", ".join(
            f"{table} {self.rows[table, 'accepted']:,} of {self.rows[table, 'read']:,}"
            for table in tables
        )
        count = len(self.problems)
        verdict = f"{count} problem{'' if count == 1 else 's'}" if count else "No problem"
        warnings = len(self.findings) - count
        lines = [f"Rows that can be used: {read or 'none'}.", *map(str, self.findings)]
        return "\n".join([*lines, f"{verdict}, {warnings} warning{'' if warnings == 1 else 's'}."])


def shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cuts what would flood a message: an id may have thousands of characters."""
    return {
        name: f"{value[:_MAX_CHARACTERS]}..."
        if isinstance(value, str) and len(value) > _MAX_CHARACTERS
        else value
        for name, value in row.items()
    }
