"""Single-turn protocols: what is searched, whether the reference is left out, what is a hit.

`evaluate` scores query vectors against image vectors under the protocol of the data set. The
similarity is the dot product and nothing is normalised here: the model says what its vectors'
lengths mean. Ties stand in the order of the gallery (see `retrieval.ranking`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from retrieval.datasets.base import ComposedSplit
from retrieval.datasets.fashion_iq import CATEGORIES
from retrieval.errors import unknown
from retrieval.ranking import rank_members, take_rows, top_images
from retrieval.reports import Report, Row, table, weighted_harmonic_mean, whm, whm_table

__all__ = [
    "Report",
    "evaluate",
    "sample_queries",
    "table",
    "weighted_harmonic_mean",
    "whm",
    "whm_table",
]

TIRG_CUTS = (1, 5, 10, 50, 100)


def evaluate(
    split: ComposedSplit, queries: np.ndarray, gallery: np.ndarray, protocol: str | None = None
) -> Report:
    """Score a split's queries under a protocol.

    Args:
        split: the images, the queries and what counts as a hit.
        queries: one vector per query (Q, D).
        gallery: one vector per image (N, D); larger dot products are closer.
        protocol: one of `PROTOCOLS`; by default the data set's own, which is "tirg" for data
            sets without a protocol of their own and for splits made by `sample_queries`.

    Raises:
        ValueError: an unknown protocol, vectors that do not fit the split, a split without
            queries or with hidden targets, or facts that the protocol needs and are not there.

    Example:
        >>> from retrieval.gallery import Triplet
        >>> split = ComposedSplit("css3d", "test", ("a", "b", "c"), ("red", "blue", "red"), None,
        ...                       (Triplet(0, "make it blue", 1),))
        >>> report = evaluate(split, np.array([[1.0, 0.2]]), np.array([[1, 0], [0, 1], [1, 1]]))
        >>> report["rows"][0]["recall"]["R@1"], report["rows"][0]["recall"]["R@5"]
        (0.0, 1.0)
    """
    if protocol is None:
        own = split.dataset in PROTOCOLS and "sampled" not in split.galleries
        protocol = split.dataset if own else "tirg"
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    case = Case(split, queries, gallery, protocol)
    hidden = sum(query.target < 0 for query in split.queries)
    if hidden:
        raise ValueError(
            f"the targets of {hidden} queries of {split.dataset} {split.split} are not published, "
            "so nothing can be scored; evaluate the val split, or submit the rankings"
        )
    return PROTOCOLS[protocol](case)


def sample_queries(
    split: ComposedSplit, rng: np.random.Generator, count: int = 10_000
) -> ComposedSplit:
    """Random training queries against their own targets, TIRG's stand-in for a training recall.

    Queries are drawn by the data set's training rule, or without replacement from its queries
    where it has no rule. The gallery is the list of their targets (a target drawn twice takes
    two places) and nothing is left out of a ranking.

    Raises:
        ValueError: there is nothing to draw from.
    """
    if split.sample is not None:
        drawn = split.sample(rng, count)
    elif split.queries:
        chosen = rng.choice(len(split.queries), min(count, len(split.queries)), replace=False)
        drawn = [split.queries[at] for at in chosen]
    else:
        raise ValueError(f"{split.dataset} {split.split} has no queries and no rule to draw them")
    targets = np.array([query.target for query in drawn], dtype=np.int64)
    return replace(split, queries=tuple(drawn), facts=(), galleries={"sampled": targets})


class Case:
    """A split with its vectors, and the few questions that protocols ask of them.

    Raises:
        ValueError: the vectors are not those of the split, or it has no queries.
    """

    def __init__(
        self, split: ComposedSplit, queries: np.ndarray, gallery: np.ndarray, protocol: str
    ):
        _check_vectors(split, queries, gallery)
        self.split, self.queries, self.gallery = split, queries, gallery
        self.protocol = protocol
        self.references = np.array([query.reference for query in split.queries], dtype=np.int64)
        self.targets = np.array([query.target for query in split.queries], dtype=np.int64)
        self.labels = _codes(split.labels)

    def members(self, name: str = "all") -> np.ndarray:
        """The rows of a named gallery; every image where "all" is not named."""
        if name == "all" and name not in self.split.galleries:
            return np.arange(len(self.split))
        if name not in self.split.galleries:
            raise unknown(f"gallery of {self.split.dataset}", name, self.split.galleries)
        return np.asarray(self.split.galleries[name])

    def top(self, asked: np.ndarray, members: np.ndarray, k: int, excluded: bool) -> np.ndarray:
        """The k best rows (Q', k) among `members` for some of the queries."""
        left_out = self.references[asked] if excluded else None
        return top_images(take_rows(self.queries, asked), self.gallery, k, members, left_out)

    def row(
        self, name: str, asked: np.ndarray, members: np.ndarray, cuts: Sequence[int], excluded: bool
    ) -> Row:
        """Recalls of some of the queries by label."""
        top = self.top(asked, members, max(cuts), excluded)
        found = _hits(self.labels, top, self.targets[asked])
        return _row(name, found, len(members), cuts, excluded)

    def by_fact(self, fact: str) -> dict[str, np.ndarray]:
        """The queries (positions) of every value of a fact, in order of appearance."""
        groups: dict[str, list[int]] = {}
        for at, value in enumerate(self.fact(fact)):
            groups.setdefault(str(value), []).append(at)
        return {value: np.array(positions) for value, positions in groups.items()}

    def fact(self, name: str) -> list[object]:
        facts = self.split.facts
        if not facts or name not in facts[0]:
            raise ValueError(
                f"the protocol {self.protocol} needs the {name} of every query, which "
                f"{self.split.dataset} {self.split.split} does not tell; choose its own protocol"
            )
        return [fact[name] for fact in facts]

    def image_sets(self) -> np.ndarray:
        return np.array(self.fact("members"), dtype=np.int64)  # (Q, 6)

    def report(
        self, rows: list[Row], score: float, score_name: str, notes: Sequence[str] = ()
    ) -> Report:
        return Report(
            dataset=self.split.dataset,
            split=self.split.split,
            protocol=self.protocol,
            rows=rows,
            score=score,
            score_name=score_name,
            skipped=dict(self.split.skipped),
            notes=list(notes),
        )


def _tirg(case: Case) -> Report:
    """Vo et al., CVPR 2019: every image but the reference is searched, an equal label is a hit.

    MIT-States also counts an equal adjective, or noun, of any of the top K. Queries drawn by
    `sample_queries` are searched among their own targets, and nothing is left out.
    """
    sampled = "sampled" in case.split.galleries
    members = case.members("sampled" if sampled else "all")
    asked = np.arange(len(case.targets))
    top = case.top(asked, members, max(TIRG_CUTS), excluded=not sampled)
    kinds = {"target": list(case.split.labels)}
    if case.split.dataset == "mitstates":
        adjectives, nouns = zip(*(_two_words(label) for label in case.split.labels), strict=True)
        kinds |= {"adjective": list(adjectives), "noun": list(nouns)}
    rows = [
        _row(
            name,
            _hits(_codes(labels), top, case.targets),
            len(members),
            TIRG_CUTS,
            excluded=not sampled,
        )
        for name, labels in kinds.items()
    ]
    notes = ["a hit is an image with the target's label"]
    if sampled:
        notes.append(f"queries are a random sample of {len(asked)}, searched among their targets")
    return case.report(rows, rows[0]["recall"]["R@1"], "R@1", notes)


def _fashion_iq(case: Case) -> Report:
    """Wu et al., CVPR 2021, and the VAL gallery: per category, the exact image, both galleries.

    The reference is left out of the ranking where the captions are joined as ComqueryFormer does,
    whose protocol that is; the start kit, CLIP4Cir and ComposeAE keep it. With all three
    categories, ComposeAE's merged gallery follows.
    """
    joining = str(case.fact("joining")[0])
    excluded = joining == "comqueryformer"
    rows, scores = [], []
    for gallery in ("original", "val"):
        own = [
            case.row(
                f"{category}, {gallery} gallery",
                asked,
                case.members(f"{gallery}/{category}"),
                TIRG_CUTS,
                excluded,
            )
            for category, asked in case.by_fact("category").items()
        ]
        mean = _mean(f"mean, {gallery} gallery", own, sum(row["images"] for row in own))
        scores.append((mean["recall"]["R@10"] + mean["recall"]["R@50"]) / 2)
        rows += own + ([mean] if len(own) > 1 else [])
    if set(case.by_fact("category")) == set(CATEGORIES):
        rows += _merged(case)
    notes = [
        _joining_note(joining),
        f"(R@10 + R@50) / 2 with the VAL gallery: {100 * scores[1]:.2f}",
    ]
    return case.report(rows, scores[0], "(R@10 + R@50) / 2, original gallery", notes)


def _compose_ae(case: Case) -> Report:
    """Anwaar et al., WACV 2021, on FashionIQ: one gallery of all categories, reference kept.

    Departures: the released R@100, which is R@50 because only 50 images are kept, is left out,
    and the counter of each category starts at zero for every K.
    """
    rows = _merged(case)
    score = (rows[-1]["recall"]["R@10"] + rows[-1]["recall"]["R@50"]) / 2
    joining = str(case.fact("joining")[0])
    return case.report(
        rows, score, "(R@10 + R@50) / 2, merged gallery", [_joining_note(joining)]
    )  # fmt: skip


def _merged(case: Case) -> list[Row]:
    everything = case.members("all")  # each image once: the released code drops repeats later
    rows = [
        case.row(f"{category}, merged gallery", asked, everything, TIRG_CUTS[:4], excluded=False)
        for category, asked in case.by_fact("category").items()
    ]
    return [*rows, _mean("mean, merged gallery", rows, len(everything))]


def _cirr(case: Case) -> Report:
    """Liu et al., ICCV 2021: the hard target, the reference left out, also within its image set."""
    asked, members = np.arange(len(case.targets)), case.image_sets()
    whole = case.row("target", asked, case.members(), (1, 5, 10, 50), excluded=True)
    ordered = rank_members(case.queries, case.gallery, members, case.references)  # (Q, 5)
    found = ordered == case.targets[:, None]
    subset = _row("target in its image set", found, members.shape[1], (1, 2, 3), True, "Rs@")
    score = (whole["recall"]["R@5"] + subset["recall"]["Rs@1"]) / 2
    return case.report([whole, subset], score, "(R@5 + Rs@1) / 2")


def _shoes(case: Case) -> Report:
    """Guo et al., NeurIPS 2018, as single queries: the exact image, with and without the reference.

    No publication at hand says whether the reference is left out, so both figures are given; the
    score is the one without it, as in the TIRG protocol.
    """
    asked, cuts = np.arange(len(case.targets)), (1, 10, 50)
    rows = [
        case.row(name, asked, case.members(), cuts, excluded)
        for name, excluded in (("target", True), ("target, reference kept", False))
    ]
    same = int((case.references == case.targets).sum())
    note = f"{same} queries ask for their own reference and cannot be met without it"
    score = float(np.mean(list(rows[0]["recall"].values())))
    return case.report(rows, score, "mean of R@1, R@10 and R@50", [note] if same else [])


def _youmakeup(case: Case) -> Report:
    """The YouMakeup VQA 2020 baseline: faces of one video; every video weighs the same.

    A query searches the distinct targets of its own video, less its reference. Videos with fewer
    than five distinct targets do not count.
    """
    cuts = (1, 2, 3, 5)
    videos = case.by_fact("video")
    rows = []
    for video, asked in videos.items():
        members = np.unique(case.targets[asked])
        if len(members) >= 5:
            rows.append(case.row(video, asked, members, cuts, excluded=True))
    if not rows:
        raise ValueError(
            f"none of the {len(videos)} videos of {case.split.dataset} {case.split.split} has five "
            "distinct targets; add videos of more steps"
        )
    mean = _mean("mean over videos", rows, sum(row["images"] for row in rows))
    note = f"{len(rows)} of {len(videos)} videos have five distinct targets and count"
    return case.report([mean], mean["recall"]["R@1"], "R@1", [note])


PROTOCOLS: dict[str, Callable[[Case], Report]] = {
    "tirg": _tirg,
    "fashion_iq": _fashion_iq,
    "composeAE": _compose_ae,
    "cirr": _cirr,
    "shoes": _shoes,
    "youmakeup": _youmakeup,
}
"""Protocols by name; a data set named like one is scored by it."""

EVALUATED_SPLIT = {"fashion_iq": "val", "fashionIQ": "val", "cirr": "val"}
"""The split that published figures are on, where it is not "test"."""


def _codes(labels: Sequence[str]) -> np.ndarray:
    """Labels as numbers (N): equal labels, equal numbers."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in labels], dtype=np.int64)


def _hits(codes: np.ndarray, top: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which of the best rows (Q, K) are called what the target is called; -1 is nothing."""
    return np.asarray((codes[top] == codes[targets][:, None]) & (top >= 0))


def _row(
    name: str,
    found: np.ndarray,
    images: int,
    cuts: Sequence[int],
    excluded: bool,
    prefix: str = "R@",
) -> Row:
    recall = {f"{prefix}{cut}": float(found[:, :cut].any(axis=1).mean()) for cut in cuts}
    reference = "left out" if excluded else "kept"
    return Row(name=name, queries=len(found), images=images, reference=reference, recall=recall)


def _mean(name: str, rows: Sequence[Row], images: int) -> Row:
    """Recalls averaged over rows, each weighing the same; queries are summed."""
    recall = {
        cut: float(np.mean([row["recall"][cut] for row in rows])) for cut in rows[0]["recall"]
    }
    return Row(
        name=name,
        queries=sum(row["queries"] for row in rows),
        images=images,
        reference=rows[0]["reference"],
        recall=recall,
    )


def _joining_note(joining: str) -> str:
    orders = "; both orders of every pair count" if joining == "comqueryformer" else ""
    return f"captions are joined as {joining} does{orders}"


def _two_words(label: str) -> tuple[str, str]:
    adjective, _, noun = label.partition(" ")
    return adjective, noun


def _check_vectors(split: ComposedSplit, queries: np.ndarray, gallery: np.ndarray) -> None:
    if not split.queries:
        raise ValueError(
            f"{split.dataset} {split.split} has no list of queries; draw some with sample_queries"
        )
    for what, vectors, expected in (
        ("queries", queries, len(split.queries)),
        ("images", gallery, len(split)),
    ):
        if len(vectors) != expected:
            raise ValueError(
                f"expected vectors of {expected} {what} of {split.dataset} {split.split}, "
                f"got {len(vectors)}; embed the same split"
            )
