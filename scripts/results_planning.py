"""What looking ahead while the dialog goes on adds to trained agents, on the map of
`results_dialogs`. Trains and plays what is missing, prints the table.

python -m scripts.results_planning --catalog-path ../shared/data/product_photos
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts import results_dialogs
from scripts.common import run
from scripts.dialog_map import GALLERIES, METRICS, SETTINGS, Cell, Setting
from scripts.results_css import call
from scripts.results_dialogs import AGAIN, PLAYED, cell_text, pooled

THINKERS = {"rl": "rl/rl-0.pt", "continued": "continued/sl-0.pt", "decodes": "decodes/sl-0.pt"}
AGAINST = ("continued", "once", "awake")
"""Supervised training continued, the same agent when it shows nothing twice, and the thinker
itself when it shows nothing twice: the last tells what the looking ahead is worth. With `--weigh`
`once` is the thinker itself, `awake` the thinker that weighs what it heard, and so does who looks
ahead, and `supervised` is `decodes` that weighs what it heard: the strongest that supervised
training comes to."""


STRANGERS = {
    "attribute-stranger": Setting(
        "speaks the truth, imagined as the neural user", "--user attribute"
    ),
    "striking-stranger": Setting(
        "names the most striking difference, imagined as the neural user", "--user striking"
    ),
}
"""Users whom the agents that plan do not know: they imagine the neural one.

Played with the agents of the setting `plain`. They say otherwise than the imagined user that an
image is the one, so that a find may not be noticed: read `found`, not the ranks after it."""


@dataclass(frozen=True)
class Args:
    """Where things are; what is there is not made again."""

    catalog_path: Path | None = None
    """One's own product photos (see the README); without it the gallery `catalog` is left out."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    out: Path = Path("runs/map")
    """The folder of `results_dialogs`, whose agents are taken, or trained where they are missing;
    receives a folder `planning-...` or
    `weighing-...` per cell."""
    only: tuple[str, ...] = ()
    """Names of galleries, settings and strangers; by default all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of training."""
    thinker: str = "rl"
    """Who looks ahead: `rl`, or of supervised training alone `continued`, or `decodes`, which has
    heard as many captions as `rl`."""
    weigh: bool = False
    """Who looks ahead also weighs what was heard by how likely the imagined user would have said
    it (`agents.belief`)."""
    pairs: int = 400
    """Dialogs that each agent plays on images never seen in training."""
    again: int = 0
    """With `--weigh`: so many other dialogs are played once more by those who weigh, with rows of
    their own: chance told apart."""
    parallel: int = 1
    """Cells played at a time, one thread each; agents are trained before, one after another."""
    table: bool = False
    """Only print what is there."""
    quick: bool = False
    """Tiny data and few dialogs, in a folder whose name ends in -quick: shows in a minute or two
    that all runs, not what it reaches."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(reproduce(args)))


def reproduce(args: Args) -> str:
    """Do what is missing, cell by cell, seeds last; returns the table.

    Raises:
        ValueError: a name that is no gallery's, setting's or stranger's, an unknown thinker, or
            other dialogs for those who do not weigh.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    for name in args.only:
        if name not in {**GALLERIES, **SETTINGS, **STRANGERS}:
            names = [*GALLERIES, *SETTINGS, *STRANGERS]
            raise unknown("gallery, setting or stranger", name, names)
    if args.thinker not in THINKERS:
        raise unknown("thinker", args.thinker, THINKERS)
    if args.again and not args.weigh:
        raise ValueError("--again plays more dialogs with those who weigh; give --weigh, too")
    trained = results_dialogs.Args(
        args.catalog_path, args.data_path, args.out, seeds=args.seeds, quick=args.quick,
        beside=("decodes",) if args.weigh or args.thinker == "decodes" else (),
    )  # fmt: skip
    if args.quick:
        trained = results_dialogs.as_quick(trained)
        args = as_quick(args, trained)
    wanted = list(cells(args))
    if not args.table:
        missing = [cell for cell in wanted if not is_played(cell, args)]
        for cell in dict.fromkeys(map(lived, missing)):  # in turn: cells share their agents
            results_dialogs.fill(cell, trained)
        with ThreadPoolExecutor(args.parallel) as pool:
            for done in [pool.submit(play, cell, args, trained) for cell in missing]:
                done.result()
    return table(wanted, args)


def as_quick(args: Args, trained: results_dialogs.Args) -> Args:
    """Arguments that only show that it runs."""
    from dataclasses import replace

    return replace(
        args, out=trained.out, data_path=trained.data_path, catalog_path=None,
        seeds=trained.seeds, pairs=12,
        only=args.only or ("css-3d", "noisy", "slate", "attribute-stranger"),
    )  # fmt: skip


def cells(args: Args) -> Iterator[Cell]:
    """The cells that were asked for, strangers among the settings: one seed before the next."""
    galleries = [name for name in GALLERIES if name in args.only] or list(GALLERIES)
    if args.catalog_path is None and "catalog" in galleries:
        galleries.remove("catalog")
    settings = [*SETTINGS, *STRANGERS]
    settings = [name for name in settings if name in args.only] or settings
    for seed in args.seeds:
        for setting in settings:
            for gallery in galleries:
                yield Cell(gallery, setting, seed)


def lived(cell: Cell) -> Cell:
    """The cell whose agents play: of strangers, the one of the plain setting."""
    return Cell(cell.gallery, "plain", cell.seed) if cell.setting in STRANGERS else cell


def play(cell: Cell, args: Args, trained: results_dialogs.Args) -> None:
    """Play a cell with agents that are there."""
    models, stranger = lived(cell).folder(args.out), STRANGERS.get(cell.setting)
    thinker = models / THINKERS[args.thinker]
    continued = models / "continued/sl-0.pt"
    if args.weigh:
        slower = f"continued={continued} once=once:{thinker}"
        agents = f"awake=bayes:{thinker} "
        agents += f"plan=plan-bayes:{thinker} " if plans(cell, args) else ""
        agents += f"supervised=bayes:{models / THINKERS['decodes']} " if rivals(args) else ""
    else:
        slower = f"continued={continued} once=once:{continued}"
        agents = f"awake=once:{thinker} plan=plan:{thinker} "
    setting = SETTINGS[lived(cell).setting]
    flags = setting.flags if stranger is None else stranger.flags
    if is_unknown(cell, args):
        flags += " --plan-user neural"
    for out, who, pairs, seed in (
        (folder(cell, args), f"{slower} {agents}", args.pairs, PLAYED),
        (again(cell, args), agents, args.again, AGAIN),
    ):
        if pairs and not (out / "benchmark.json").is_file():
            call(
                f"benchmark --agents {who} oracle {flags} {results_dialogs.world(cell, trained)} "
                f"--turns {setting.turns} --pairs {pairs} --seed {seed} --bootstrap 200 "
                f"--out {out}"
            )


def is_unknown(cell: Cell, args: Args) -> bool:
    """Whether the neural user is imagined in place of the one who speaks: of a stranger, and, to
    weigh words, of any user whose words have no likelihood."""
    return cell.setting in STRANGERS or (args.weigh and "--user" in SETTINGS[cell.setting].flags)


def plans(cell: Cell, args: Args) -> bool:
    """Whether somebody looks ahead; who weighs what was heard does not with slates."""
    return not args.weigh or "--slate" not in SETTINGS[lived(cell).setting].flags


def kind(args: Args) -> str:
    """What figures are called after."""
    return f"{'weighing' if args.weigh else 'planning'}-{args.thinker}"


def folder(cell: Cell, args: Args) -> Path:
    """Where a cell's figures lie."""
    return cell.folder(args.out) / kind(args)


def again(cell: Cell, args: Args) -> Path:
    """Where the figures of other dialogs lie."""
    return cell.folder(args.out) / f"{kind(args)}-again-{args.again}"


def is_played(cell: Cell, args: Args) -> bool:
    """Whether all figures of a cell are there."""
    places = [folder(cell, args), *([again(cell, args)] if args.again else [])]
    return all((place / "benchmark.json").is_file() for place in places)


def rivals(args: Args) -> tuple[str, ...]:
    """Who weighs what was heard beside the thinker."""
    return ("supervised",) if args.weigh and args.thinker != "decodes" else ()


def compared(cell: Cell, args: Args) -> list[tuple[str, str]]:
    """Who is held against whom in a cell's rows."""
    rows = [("plan", other) for other in (*AGAINST, *rivals(args))] if plans(cell, args) else []
    if args.weigh:
        rows += [("awake", other) for other in ("continued", "once", *rivals(args))]
    return rows


def table(wanted: Sequence[Cell], args: Args) -> str:
    """Agents that plan, or weigh, less others at the last turn, all seeds together.

    Intervals are over targets, with all that was played for each (2,000 resamples); beside the
    means stands in how many seeds the difference is positive. The same goes to a JSON file.
    """
    from retrieval.files import atomic_write

    head = ["gallery", "setting", "seeds", "agent", "against", *METRICS, "found by it",
            "found by the agent"]  # fmt: skip
    rows, kept = [head, ["---"] * len(head)], {}
    for gallery, setting in dict.fromkeys((cell.gallery, cell.setting) for cell in wanted):
        alike = [cell for cell in wanted if (cell.gallery, cell.setting) == (gallery, setting)]
        what = {**SETTINGS, **STRANGERS}[setting].what
        if is_unknown(alike[0], args) and setting not in STRANGERS:
            what += ", imagined as the neural user"
        everyone = compared(alike[0], args)
        awake = [pair for pair in everyone if pair[1] not in ("continued", "once")]
        others = f", {args.again:,} other dialogs"
        for place, more, pairs in ((folder, "", everyone), (again, others, awake)):
            paths = [place(cell, args) / "ranks.npz" for cell in alike]
            parts = [[path] for path in paths if path.is_file()]
            for who, against in pairs if parts else ():
                found = pooled(parts, against, who)
                kept[f"{gallery} {setting} {who} {against}{more}"] = found
                shares = [f"{100 * found['values'][name]['found']:.1f}" for name in (against, who)]
                figures = [cell_text(found, metric) for metric in METRICS]
                rows.append(
                    [gallery, what + more, str(len(parts)), who, against, *figures, *shares]
                )
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out / f"{kind(args)}.json") as temporary:
        temporary.write_text(json.dumps(kept, indent=1))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
