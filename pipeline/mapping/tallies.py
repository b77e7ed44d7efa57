"""What was read of a table by a mapping, and what could not be."""

import collections
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.tables import raw_tables, schema
from pipeline.preprocessing.log_report import Counts, shortened

UNREADABLE = "unreadable_value"  # Reason of a row of which a required value cannot be read.
_EXAMPLES = 3


class Tally:
    """Counts what was read of a table, and what could not be."""

    def __init__(self, name: str, max_fraction: float) -> None:
        self.read = 0
        self._name, self._max_fraction = name, max_fraction
        self._reasons: Counts = collections.Counter()
        self._examples: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self._given: collections.Counter[str] = collections.Counter()
        self._unreadable: collections.Counter[str] = collections.Counter()
        self._values: dict[str, list[str]] = collections.defaultdict(list)

    def add_rejected(self, rows: pa.Table) -> None:
        """Counts rows that are set aside, as the source has them and with the column reason."""
        for reason in pc.unique(rows["reason"]).to_pylist():
            of_reason = rows.filter(pc.equal(rows["reason"], reason))
            self._reasons[self._name, reason] += of_reason.num_rows
            kept = self._examples[reason]
            examples = of_reason.drop_columns(["reason"]).slice(0, _EXAMPLES - len(kept))
            kept += [shortened(row) for row in examples.to_pylist()]

    def add_column(self, name: str, given: pa.ChunkedArray, is_unreadable: pa.ChunkedArray) -> None:
        """Counts the values of a column, and those of them that are unreadable."""
        self._given[name] += len(given) - given.null_count
        count = pc.sum(is_unreadable).as_py() or 0
        self._unreadable[name] += count
        if count and len(self._values[name]) < _EXAMPLES:
            some = pc.unique(given.filter(is_unreadable))[: _EXAMPLES - len(self._values[name])]
            self._values[name] += [repr(value)[:60] for value in some.to_pylist()]

    def verdict(self) -> tuple[list[str], list[str]]:
        """Returns (problems, notes) of the whole table."""
        problems: list[str] = []
        notes: list[str] = []
        contract = raw_tables.table_of(self._name)
        if not self.read:
            text = "its source has no rows (between --from and --until, if they are given)"
            return [f"{self._name}: {text}. Fill it, or leave the table out."], []
        for name, count in self._unreadable.items():
            text = (
                f"{self._name}.{name}: {count:,} of {self._given[name]:,} values cannot be read, "
                f"such as {', '.join(self._values[name])}"
            )
            column = contract.column(name)
            if count and column is not None and not column.required:
                is_many = count > self._max_fraction * self._given[name]
                hint = f". {_remedy(column)}" if is_many else "; they are left empty"
                (problems if is_many else notes).append(text + hint)
            elif count and column is not None:
                problems_or_notes = problems if self._is_lost() else notes
                problems_or_notes.append(f"{text}. {_remedy(column)}")
        for (_, reason), count in self._reasons.items():
            text = f"{self._name}: {count:,} of {self.read:,} rows are set aside as {reason}"
            if reason in schema.HARMLESS:
                notes.append(text)
            elif self._is_lost():
                rows = "".join(f"\n      for example {row}" for row in self._examples[reason])
                remedy = schema.REMEDIES.get(reason, "What cannot be read is told above.")
                problems.append(f"{text}. {remedy}{rows}")
            else:
                notes.append(f"{text}, such as {self._examples[reason][0]}")
        if self._is_lost():
            share = f"--max_rejected_fraction={self._max_fraction}"
            problems.append(f"{self._name}: that is more than {share}: mend it, or raise that.")
        return problems, notes

    def _is_lost(self) -> bool:
        lost = sum(n for (_, why), n in self._reasons.items() if why not in schema.HARMLESS)
        return lost > self._max_fraction * self.read or lost == self.read


def _remedy(column: raw_tables.Column) -> str:
    if column.is_time:
        return (
            "Say how they are written, such as format = '%d.%m.%Y %H:%M' (strptime), or unit = "
            "'ms' for numbers"
        )
    if pa.types.is_boolean(column.type):
        return f"Write a condition, such as {column.name} = \"Status = 'finished'\""
    return "Mend them in SQL, such as \"replace(Price, ',', '.')\""
