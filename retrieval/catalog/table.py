"""Read the table of a catalogue as shops export it: any encoding, any delimiter, missing cells."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t", "|")
MISSING = frozenset(
    {"", "na", "n/a", "n.a.", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "unknown"}
)
"""Cells that say nothing, in lower case."""
_LONGEST_CELL = 1 << 24


@dataclass(frozen=True)
class Table:
    """The rows of a catalogue's table; a missing cell is "".

    Args:
        columns: the header's names, made unique and never empty.
        rows: the cells, one tuple per row, as many as there are columns.
        encoding: how the bytes were read.
        delimiter: what stood between the cells.
        dropped: rows left out, reason to number.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    encoding: str = "utf-8"
    delimiter: str = ","
    dropped: Mapping[str, int] = field(default_factory=dict)

    def column(self, name: str) -> list[str]:
        """All cells of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def find_table(root: Path, name: str | None = None) -> Path:
    """The table of a catalogue's folder: the one named, `catalog.csv`, or the only one there.

    Raises:
        FileNotFoundError: there is no such folder or no table in it.
        ValueError: several tables, and none is named.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"expected a catalogue's folder, but there is no folder {root}")
    if name is not None:
        if not (root / name).is_file():
            raise FileNotFoundError(f"there is no table {name} in {root}; check --table")
        return root / name
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    tables = [path for path in found if path.suffix.lower() != ".txt"] or found
    for path in tables:
        if path.name.lower() == "catalog.csv":
            return path
    if not tables:
        raise FileNotFoundError(
            f"expected a table (catalog.csv, or one other .csv or .tsv) in {root}, but there is "
            "none; export one with a column of ids or file names"
        )
    if len(tables) > 1:
        raise ValueError(
            f"{root} holds {len(tables)} tables ({', '.join(path.name for path in tables[:5])}); "
            "say which one with --table"
        )
    return tables[0]


def read_table(path: Path) -> Table:
    """Read a table of text with a header line.

    Encodings: UTF-8 and UTF-16 by their marks, UTF-8 if the bytes are valid, else cp1252, else
    latin-1, which reads anything. The delimiter is the one that gives the most rows as many
    cells as the header. Short rows are filled up with missing cells; rows with more cells than
    the header cannot be told apart and are dropped, and counted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, has no second column or no row.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    text, encoding = _decode(path.read_bytes())
    text = text.replace("\x00", "")
    declared = None
    if text[:4].lower() == "sep=":  # as spreadsheets declare it
        first, _, text = text.partition("\n")
        declared = first.rstrip("\r")[4:5]
    if not text.strip():
        raise ValueError(f"the table {path} is empty; expected a header line and one row a product")
    delimiter = declared or max(DELIMITERS, key=lambda one: _regularity(text, one))
    lines = [row for row in _cells(text, delimiter, path) if any(cell.strip() for cell in row)]
    header, body = lines[0], lines[1:]
    while len(header) > 1 and not header[-1].strip() and all(len(r) < len(header) for r in body):
        header = header[:-1]
    if not body:
        raise ValueError(f"the table {path} has a header but no rows; expected one row a product")
    dropped: Counter[str] = Counter()
    rows = []
    for row in body:
        if any(cell.strip() for cell in row[len(header) :]):
            dropped["rows with more cells than the header"] += 1
            continue
        padded = [*row, *[""] * len(header)][: len(header)]
        rows.append(tuple(_cell(cell) for cell in padded))
    return Table(_header(header), tuple(rows), encoding, delimiter, dict(dropped))


def _decode(data: bytes) -> tuple[str, str]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace"), "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def _regularity(text: str, delimiter: str) -> int:
    """How many of the first rows have as many cells as the header, if that is more than one."""
    sample = text[:200_000]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    try:
        rows = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
    except csv.Error:
        return 0
    return sum(length == rows[0] for length in rows) if rows and rows[0] > 1 else 0


def _cells(text: str, delimiter: str, path: Path) -> list[list[str]]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"cannot read the table {path} ({error}); export it again") from error
    finally:
        csv.field_size_limit(before)


def _cell(cell: str) -> str:
    """A cell without odd spaces; "" when it says nothing."""
    clean = " ".join(cell.split())
    return "" if clean.lower() in MISSING else clean


def _header(cells: list[str]) -> tuple[str, ...]:
    """The column names, unique and never empty."""
    names: list[str] = []
    for number, cell in enumerate(cells, start=1):
        name = " ".join(cell.split()) or f"column {number}"
        copies, unique = 1, name
        while unique in names:
            copies += 1
            unique = f"{name} ({copies})"
        names.append(unique)
    return tuple(names)
