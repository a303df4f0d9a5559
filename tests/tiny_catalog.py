"""A small shop drawn by hand: boxes and discs in four colours, plain or striped, with a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "Red": (200, 30, 30), "Navy Blue": (25, 25, 110), "Green": (40, 160, 50), "Grey": (128,) * 3,
}  # fmt: skip
KINDS = ("Boxes", "Discs", "Casual Shoes")
MAKERS = ("Acme", "Gini and Jony", "Sol Mar")
COLUMNS = ("sku", "kind", "colour", "for whom", "price", "name")


def picture(kind: str, colour: str, striped: bool, shade: float, size: int = 48) -> Image.Image:
    """A product on white; `shade` mixes its colour with white."""
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    mixed = tuple(round(one + (255 - one) * shade) for one in COLOURS[colour])
    place = {
        "Boxes": (10, 6, size - 10, size - 4),
        "Discs": (9, 9, size - 9, size - 9),
        "Casual Shoes": (3, 18, size - 3, size - 12),
    }[kind]
    (pen.ellipse if kind == "Discs" else pen.rectangle)(place, fill=mixed)
    for row in range(place[1] + 6, place[3] - 4, 6) if striped else ():
        pen.line((place[0] + 8, row, place[2] - 8, row), fill="black", width=2)
    return image


def products(count: int, seed: int = 0) -> list[dict[str, str]]:
    """The rows of the table."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        kind, colour = KINDS[rng.integers(3)], list(COLOURS)[rng.integers(4)]
        maker = MAKERS[rng.integers(3)]
        striped = rng.random() < 0.5
        whom = ("Men", "Women")[rng.integers(2)]
        rows.append(
            {
                "sku": str(1000 + number), "kind": kind, "colour": colour, "for whom": whom,
                "price": f"{rng.integers(5, 90)}.{rng.integers(10, 99)}",
                "name": f"{maker} {whom} {'Striped' if striped else 'Solid'} {colour} {kind}",
                "striped": "yes" if striped else "", "shade": str(0.5 * rng.random()),
            }
        )  # fmt: skip
    return rows


def make_shop(root: Path, count: int = 60, seed: int = 0, folder: str = "photos") -> list[dict]:
    """Write pictures and `catalog.csv`; returns the rows."""
    (root / folder).mkdir(parents=True)
    rows = products(count, seed)
    for row in rows:
        image = picture(row["kind"], row["colour"], bool(row["striped"]), float(row["shade"]))
        image.save(root / folder / f"{row['sku']}.png")
    write_table(root / "catalog.csv", rows)
    return rows


def write_table(
    path: Path, rows: list[dict], encoding: str = "utf-8", delimiter: str = ","
) -> None:
    """The table of some rows."""
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS] for row in rows)
