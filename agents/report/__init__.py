"""From tables of ranks to what is written down: numbers, intervals, run files and a plot."""

from agents.report.beyond import without_nan
from agents.report.display import format_table, plot
from agents.report.files import write_csv, write_qrels, write_run
from agents.report.limits import Limit, counting_bound, indistinguishability_ceiling
from agents.report.shows import found_by_turn, repeat_share, repeats_by_turn
from agents.report.statistics import compare, holm, summarise
from agents.report.summary import (
    COMPARED_METRICS,
    MEAN_METRICS,
    METRICS,
    Comparison,
    Interval,
    Summary,
)

__all__ = [
    "COMPARED_METRICS",
    "Comparison",
    "Interval",
    "Limit",
    "MEAN_METRICS",
    "METRICS",
    "Summary",
    "compare",
    "counting_bound",
    "format_table",
    "found_by_turn",
    "holm",
    "indistinguishability_ceiling",
    "plot",
    "repeat_share",
    "repeats_by_turn",
    "summarise",
    "without_nan",
    "write_csv",
    "write_qrels",
    "write_run",
]
