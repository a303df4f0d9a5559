"""Which column of a table plays which part: the id, the title, the attributes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.catalog.table import Table
from retrieval.errors import unknown
from retrieval.text import words

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MOST_VALUES = 200
"""A column with more different values than this is no attribute, unless it is named as one."""
MOST_WORDS = 4
"""Values of more words are not said: captions are short."""


@dataclass(frozen=True)
class Roles:
    """The roles a user gives to columns; what is not given is found from the cells.

    Args:
        id_column: the column of ids or file names.
        attributes: the columns people talk about.
        title: the column with the product's name in words.
        table: the table's file name in the catalogue's folder.

    Example:
        >>> Roles.of(attributes="colour, kind").attributes
        ('colour', 'kind')
    """

    id_column: str | None = None
    attributes: tuple[str, ...] | None = None
    title: str | None = None
    table: str | None = None

    @classmethod
    def of(
        cls,
        id_column: str | None = None,
        attributes: str | Sequence[str] | None = None,
        title: str | None = None,
        table: str | None = None,
    ) -> Roles:
        """Roles as commands and `gymnasium.make` give them: attributes also as "a,b,c"."""
        names = attributes.split(",") if isinstance(attributes, str) else attributes
        chosen = tuple(name.strip() for name in names if name.strip()) if names else None
        return cls(id_column or None, chosen or None, title or None, table or None)


@dataclass(frozen=True)
class Cast:
    """The roles as played: every one is a column of the table.

    Args:
        id_column: names the products.
        attributes: the columns people talk about.
        title: the product's name in words, or None.
    """

    id_column: str
    attributes: tuple[str, ...]
    title: str | None


class PictureFiles:
    """The picture files of a folder, and how a cell names one of them.

    A cell may hold a path below the folder, a file name, or a file name without its suffix (an
    id), in any case of letters; of an address the last part counts.

    Args:
        root: the catalogue's folder, searched with all folders below it.
    """

    def __init__(self, root: Path):
        self.root = root
        found = (path for path in root.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
        self.names = sorted(
            path.relative_to(root).as_posix()
            for path in found
            if path.is_file() and not path.name.startswith(".")  # as some archives leave them
        )
        self._by_key: dict[str, str] = {}
        for name in reversed(self.names):  # of two with the same key the first name wins
            self._by_key[Path(name).stem.lower()] = name
        for name in reversed(self.names):
            self._by_key[Path(name).name.lower()] = name
        for name in reversed(self.names):
            self._by_key[Path(name).with_suffix("").as_posix().lower()] = name
        for name in self.names:
            self._by_key[name.lower()] = name

    def named(self, cell: str) -> str | None:
        """The file, relative to the folder, that a cell names, or None."""
        whole = cell.lower().replace("\\", "/").removeprefix("./")
        last = whole.rsplit("/", 1)[-1].split("?", 1)[0]
        for key in (whole, last, last.removesuffix(".0")):  # "17.0": an id read as a number
            if key in self._by_key:
                return self._by_key[key]
        stem = last.rsplit(".", 1)[0]  # the table may speak of .png where .jpg lies
        return self._by_key.get(stem)


def cast_of(table: Table, roles: Roles, files: PictureFiles) -> Cast:
    """Give every role a column.

    The id is the column whose cells name the most pictures; the title the one with the most
    words, if those are mostly letters and mostly different; attributes are short values in
    letters that come more than once.

    Raises:
        ValueError: a column given does not exist, or no column names pictures.
    """
    for name in (roles.id_column, roles.title, *(roles.attributes or ())):
        if name is not None and name not in table.columns:
            raise unknown("column", name, table.columns)
    id_column = roles.id_column or _id_column(table, files)
    if not any(files.named(cell) for cell in table.column(id_column) if cell):
        raise ValueError(
            f"no cell of column {id_column!r} names a picture in {files.root} "
            f"({len(files.names)} pictures there); give the right one with --id-column"
        )
    others = [name for name in table.columns if name != id_column]
    title = roles.title or _title(table, [n for n in others if n not in (roles.attributes or ())])
    attributes = roles.attributes
    if attributes is None:
        attributes = tuple(n for n in others if n != title and _is_attribute(table.column(n)))
    return Cast(id_column, attributes, title)


def phrase(cell: str) -> str:
    """A cell as it is said: lower-case words without accents; "" if it cannot be.

    "and" joins clauses, so it is left out of values.

    Example:
        >>> phrase("Bleu Foncé"), phrase("Black & White"), phrase("T-Shirts / Tops")
        ('bleu fonce', 'black white', 't shirts tops')
    """
    plain = unicodedata.normalize("NFKD", cell.replace("ß", "ss"))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return " ".join(word for word in words(kept.replace("'", "")) if word != "and")


def _id_column(table: Table, files: PictureFiles) -> str:
    """The column most of whose cells name a picture of their own."""
    if not files.names:
        raise ValueError(
            f"expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {files.root} or below, "
            "found none"
        )
    scores = {}
    for name in table.columns:
        named = {files.named(cell) for cell in table.column(name) if cell}
        scores[name] = len(named - {None})
    best = max(scores, key=lambda name: scores[name])  # the first of equals
    if not scores[best]:
        raise ValueError(
            f"no column of the table names the pictures in {files.root}; expected one with file "
            f"names or ids (columns: {', '.join(table.columns[:12])})"
        )
    return best


def _title(table: Table, candidates: Sequence[str]) -> str | None:
    """The column of names in words, if there is one."""
    lengths = {}
    for name in candidates:
        cells = [cell for cell in table.column(name) if cell]
        said = [words(cell) for cell in cells]
        count = sum(map(len, said)) / max(1, len(said))
        different = len(set(cells)) / max(1, len(cells))
        if 2 <= count <= 20 and different > 0.3 and _is_letters(cells):
            lengths[name] = count
    return max(lengths, key=lambda name: lengths[name]) if lengths else None


def _is_attribute(cells: Sequence[str]) -> bool:
    """Whether people could say these values: few, repeated, short and in letters."""
    filled = [phrase(cell) for cell in cells if cell]
    counts: Mapping[str, int] = Counter(filled)
    if len(counts) < 2 or len(counts) > min(MOST_VALUES, max(2, len(filled) // 2)):
        return False
    short = sum(len(value.split()) <= MOST_WORDS for value in filled)
    return short >= 0.8 * len(filled) and _is_letters(filled)


def _is_letters(cells: Sequence[str]) -> bool:
    """Whether most cells hold more letters than digits."""
    lettered = sum(
        sum(map(str.isalpha, cell)) > sum(map(str.isdigit, cell)) for cell in cells
    )  # fmt: skip
    return lettered > len(cells) / 2
