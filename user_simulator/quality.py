"""Train the captioner of a data set and report how well it plays the user."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from retrieval import distributed
from retrieval.catalog.pairs import CaptionedPairs
from retrieval.catalog.preparation import prepare_apart as prepare_catalogue
from retrieval.catalog.roles import Roles
from retrieval.datasets import catalog, css
from retrieval.devices import CPU
from retrieval.files import atomic_write
from retrieval.gallery import Gallery, Triplet
from retrieval.preparation import default_root, prepare_apart
from user_simulator.captioner import NeuralUser, RelativeCaptioner
from user_simulator.listening import CatalogListener, listener_of
from user_simulator.metrics import caption_report
from user_simulator.training import fit_captioner

CAPTIONS = 60_000
"""Relative captions that a catalogue's captioner learns from."""


def train_and_report(
    root: Path | None,
    look: str,
    encoder: str,
    path: Path,
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    hidden_size: int = 128,
    seed: int = 0,
    share: float = 1.0,
    device: torch.device = CPU,
) -> dict[str, float]:
    """Train on a CSS folder's train split, save, and report on the test split's pairs.

    Args:
        root: CSS folder, or None for the built-in data.
        look, encoder: whose pictures and features.
        path: the checkpoint; the report goes into it and beside it, as JSON.
        epochs, batch_size, learning_rate, hidden_size, seed: see `fit_captioner`.
        share: of the train captions to learn from, drawn with the seed.
        device: where it is trained; the report is made on the CPU.

    Raises:
        ValueError: the data has no relative captions or no grids, or a share of nothing.
    """
    root = (root or default_root()).expanduser().absolute()
    with distributed.writer_first():
        prepare_apart(root, look, encoder)
    gallery, triplets = css.load(root, "train", look, encoder)
    if not triplets or gallery.grids is None:
        raise ValueError(
            f"a captioner needs relative captions and spatial features; {root} with encoder "
            f"{encoder!r} lacks {'captions' if not triplets else 'spatial features'}"
        )
    captioner = fit_captioner(
        gallery, some_of(triplets, share, seed), epochs, batch_size, learning_rate, hidden_size,
        seed, device,
    )  # fmt: skip
    return _save_and_report(captioner, *css.load(root, "test", look, encoder), path)


def train_and_report_catalog(
    root: Path,
    encoder: str,
    roles: Roles,
    path: Path,
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    hidden_size: int = 128,
    seed: int = 0,
    share: float = 1.0,
    device: torch.device = CPU,
) -> dict[str, float]:
    """The same on one's own catalogue; see `train_and_report`.

    Args:
        root: the catalogue's folder.
        encoder: whose features.
        roles: columns whose part is given.
        path, epochs, batch_size, learning_rate, hidden_size, share, device: as there.
        seed: also of the captions drawn to learn from.

    Raises:
        FileNotFoundError, ValueError: see `retrieval.datasets.catalog.load`.
    """
    with distributed.writer_first():
        prepare_catalogue(root, encoder, roles)
    gallery, _ = catalog.load(root, "train", encoder, roles)
    assert gallery.attributes is not None
    speaker = CaptionedPairs(gallery.spoken, gallery.attributes)
    triplets = speaker(np.random.default_rng([seed, 31]), max(CAPTIONS, len(gallery)))
    captioner = fit_captioner(
        gallery, some_of(triplets, share, seed), epochs, batch_size, learning_rate, hidden_size,
        seed, device,
    )  # fmt: skip
    return _save_and_report(captioner, *catalog.load(root, "test", encoder, roles), path)


def some_of(triplets: Sequence[Triplet], share: float, seed: int) -> Sequence[Triplet]:
    """A random share of the triplets, in their order: what another user would have learned from.

    Raises:
        ValueError: the share is not above 0 and at most 1, or leaves nothing.
    """
    count = round(share * len(triplets))
    if not 0 < share <= 1 or count < 1:
        raise ValueError(f"expected a share above 0 and at most 1 of the captions, got {share}")
    if share == 1:
        return triplets
    chosen = np.random.default_rng([seed, 37]).permutation(len(triplets))[:count]
    return [triplets[row] for row in np.sort(chosen)]


def _save_and_report(
    captioner: RelativeCaptioner, test: Gallery, held_out: Sequence[Triplet], path: Path
) -> dict[str, float]:
    if not distributed.is_writer():
        return {}
    numbers = report(captioner, test, held_out)
    captioner.save(path, numbers)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1))
    print(format_report(numbers), file=sys.stderr)
    return numbers


def report(
    captioner: RelativeCaptioner, gallery: Gallery, triplets: Sequence[Triplet], seed: int = 0
) -> dict[str, float]:
    """How greedy captions of held-out pairs do against people's words and against the truth.

    N-gram scores (`caption_report`), `faithfulness` (share of captions that claim nothing
    false), `discrimination` (a listener picks the target among 10 distractors; chance 1/11),
    and the same two for the reference captions, as a ceiling. For a catalogue also, by kind of
    clause, `accuracy/lighter`, ...: the share of such clauses that hold ("much", "slightly" and
    the least difference worth saying included), `said/lighter`: how many there were, and of
    comparisons `direction/lighter`: the share that point the right way.
    """
    said: dict[tuple[int, int], list[str]] = {}
    for triplet in triplets:
        said.setdefault((triplet.reference, triplet.target), []).append(triplet.caption)
    pairs = np.array(list(said))
    user = NeuralUser(captioner, gallery)
    captions = user.describe(pairs[:, 0], pairs[:, 1], np.random.default_rng(seed))
    references = list(said.values())
    numbers = {"pairs": float(len(pairs)), **caption_report(captions, references)}
    listener = listener_of(gallery)
    human = [texts[0] for texts in references]
    for name, texts in (("", captions), ("reference_", human)):
        rng = np.random.default_rng(seed)
        numbers[f"{name}faithfulness"] = float(listener.faithful(texts, pairs).mean())
        numbers[f"{name}discrimination"] = float(listener.discriminates(texts, pairs, rng).mean())
    if isinstance(listener, CatalogListener):
        topics = listener.accuracy(captions, pairs, listener.language.topic)
        for topic, (share, count) in topics.items():
            numbers |= {f"accuracy/{topic}": share, f"said/{topic}": float(count)}
        for topic, share in listener.directions(captions, pairs).items():
            numbers[f"direction/{topic}"] = share
    return numbers


def format_report(numbers: dict[str, float]) -> str:
    """The report as a few lines for a terminal."""
    clauses = []
    for topic in (key.removeprefix("said/") for key in numbers if key.startswith("said/")):
        told = f"true {numbers[f'accuracy/{topic}']:.2f} of {numbers[f'said/{topic}']:.0f}"
        way = numbers.get(f"direction/{topic}")
        clauses.append(
            f"  {topic:<22} {told}" + (f", direction {way:.2f}" if way is not None else "")
        )
    return "\n".join(
        [
            f"captioner on {numbers['pairs']:.0f} held-out pairs:",
            "  BLEU-1..4 " + " ".join(f"{numbers[f'bleu_{n}']:.1f}" for n in range(1, 5))
            + f", CIDEr-D {numbers['cider_d']:.2f}",
            f"  {numbers['distinct_captions']:.0f} distinct captions "
            f"({numbers['distinct_share']:.2f} of all), {numbers['vocabulary']:.0f} words",
            f"  faithful {numbers['faithfulness']:.3f} "
            f"(reference captions {numbers['reference_faithfulness']:.3f})",
            f"  target picked among 10 distractors {numbers['discrimination']:.3f} "
            f"(reference captions {numbers['reference_discrimination']:.3f})",
            *clauses,
        ]
    )  # fmt: skip
