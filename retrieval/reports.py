"""What an evaluation found: plain values, text tables, and the weighted harmonic mean of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

WHM_NOTE = (
    "WHM is a reconstruction: its formula is not published; here it is the weighted harmonic mean "
    "of a figure on training queries and the same figure on test queries"
)


class Row(TypedDict):
    """One line of a report: recalls are fractions, by name ("R@10")."""

    name: str
    queries: int
    images: int
    reference: str
    recall: dict[str, float]


class Report(TypedDict):
    """What a protocol found; plain values, so that JSON can hold it.

    `score` is the one number to choose a model by and `score_name` says which; `skipped` is what
    the split left out; `notes` is what a reader of the figures has to know.
    """

    dataset: str
    split: str
    protocol: str
    rows: list[Row]
    score: float
    score_name: str
    skipped: dict[str, int]
    notes: list[str]


class WhmRow(TypedDict):
    """A weighted harmonic mean beside the two figures it is made from."""

    name: str
    recall: str
    train: float
    test: float
    whm: float


class WhmReport(TypedDict):
    """Weighted harmonic means of two reports."""

    note: str
    weights: list[float]
    rows: list[WhmRow]


def table(report: Report) -> str:
    """A report as text: recalls in percent, one line per row."""
    names = list(dict.fromkeys(name for row in report["rows"] for name in row["recall"]))
    head = ["", "queries", "images", "reference", *names]
    lines = [
        [
            row["name"],
            str(row["queries"]),
            str(row["images"]),
            row["reference"],
            *(
                f"{100 * row['recall'][name]:.2f}" if name in row["recall"] else ""
                for name in names
            ),
        ]
        for row in report["rows"]
    ]
    title = f"{report['dataset']} {report['split']}, protocol {report['protocol']}"
    score = f"{report['score_name']}: {100 * report['score']:.2f}"
    left_out = [f"left out: {count} {reason}" for reason, count in report["skipped"].items()]
    return "\n".join([title, *_columns([head, *lines]), score, *report["notes"], *left_out])


def flat(report: Report) -> dict[str, float]:
    """Every recall of a report by one name, for a log.

    Example: `{"dress, original gallery/R@10": 0.29, ...}`.
    """
    return {
        f"{row['name']}/{name}": value
        for row in report["rows"]
        for name, value in row["recall"].items()
    }


def weighted_harmonic_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    r"""The harmonic mean, with weights: low wherever one value is low.

    .. math:: WHM(v; w) = \sum_i w_i / \sum_i (w_i / v_i)

    and 0 if any value is 0. A reconstruction: the paper on gradient augmentation (GA, IEEE
    Transactions on Multimedia 25, pp. 7415-7427) names such a measure of generalisation, but no
    text that could be reached has its formula.

    Raises:
        ValueError: lengths differ, a value is negative, or a weight is not positive.

    Example:
        >>> round(weighted_harmonic_mean([0.9, 0.3], [1, 2]), 4)
        0.3857
    """
    if len(values) != len(weights) or not values:
        raise ValueError(f"expected one weight per value, got {len(weights)} for {len(values)}")
    if min(values) < 0 or min(weights) <= 0:
        raise ValueError(
            f"expected values of at least 0 and weights above 0, got {list(values)} and "
            f"{list(weights)}"
        )
    if min(values) == 0:
        return 0.0
    shares = sum(weight / value for weight, value in zip(weights, values, strict=True))
    return float(sum(weights) / shares)


def whm(train: Report, test: Report, weights: tuple[float, float] = (1.0, 1.0)) -> WhmReport:
    """Weighted harmonic means of every recall that a training and a test report share.

    Args:
        train: on training queries, for example of `sample_queries`.
        test: on test queries, under the same protocol.
        weights: of training and test; (1, 2) favours the test.

    Raises:
        ValueError: the reports have no recall in common.
    """
    training, testing = flat(train), flat(test)
    shared = [name for name in testing if name in training]
    if not shared:
        raise ValueError(
            f"the reports of {train['protocol']} on {train['split']} and {test['protocol']} on "
            f"{test['split']} share no recall; evaluate both under one protocol"
        )
    rows = []
    for key in shared:
        name, _, recall = key.rpartition("/")
        values = training[key], testing[key]
        mean = weighted_harmonic_mean(values, weights)
        rows.append(WhmRow(name=name, recall=recall, train=values[0], test=values[1], whm=mean))
    return WhmReport(note=WHM_NOTE, weights=list(weights), rows=rows)


def whm_table(report: WhmReport) -> str:
    """Weighted harmonic means as text, in percent, beside the figures they are made from."""
    train, test = report["weights"]
    head = ["", "", f"train (weight {train:g})", f"test (weight {test:g})", "WHM"]
    lines = [
        [row["name"], row["recall"]]
        + [f"{100 * value:.2f}" for value in (row["train"], row["test"], row["whm"])]
        for row in report["rows"]
    ]
    return "\n".join([*_columns([head, *lines]), report["note"]])


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
