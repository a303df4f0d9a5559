"""Compare agents turn by turn: benchmark --agents models/sl-10.pt models/rl-19.pt random"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scripts.common import DialogArgs, dialog_of, dialog_options, environment_of, run, writable

if TYPE_CHECKING:
    import numpy as np

    from agents.base import Agent
    from agents.evaluation import Played
    from agents.report import Limit, Summary
    from envs.dialog import Dialog
    from user_simulator import User


@dataclass(frozen=True)
class Args(DialogArgs):
    """Plays a fixed list of held-out dialogs with every agent, and writes what came of it."""

    agents: tuple[str, ...] = ("random", "image-only", "oracle")
    """`random`, `image-only`, `oracle`, a checkpoint, a Stable-Baselines3 zip, or
    `module:attribute`; `name=...` gives it a name in the table. `plan:` before a checkpoint
    looks ahead before it shows, with an imagined user; `once:` shows nothing twice; `bayes:`
    also weighs what it heard by how likely that user would have said it, and `plan-bayes:` looks
    ahead so."""
    plan_top_k: int = 4
    """Images, or slates, that `plan:` agents look ahead from."""
    plan_believed: int = 12
    """Images that they believe the target to be among."""
    plan_depth: int = 1
    """Turns that they play on."""
    plan_user: str | None = None
    """Whom they, and those that weigh, imagine: `neural`, `attribute` or `striking`; by default
    `--user` itself, who is imagined without `--noise`."""
    bayes_pool: int = 64
    """Images that `bayes:` and `plan-bayes:` agents weigh at each turn."""
    bayes_slips: float = 0.2
    """Share of sentences that they take for slips of the tongue."""
    pairs: int = 1000
    """Dialogs: pairs of target and first reference from the split."""
    turns: Annotated[int, tyro.conf.arg(aliases=("--max-turns",))] = 5
    """Turns of every dialog (T); none stops early, unless the user leaves (`--patience`)."""
    slate_by: tuple[str, ...] = ("greedy",)
    """With `--slate`: which of the best images a query shows: `greedy` (the best), `mmr` (maximal
    marginal relevance) or `medoids` (one of each group); of several, each agent plays each."""
    split: str = "test"
    """`test` (images never seen in training) or `train`."""
    ties: Literal["half", "optimistic"] = "half"
    """`half` of the ties count (a collapsed embedding scores chance), or `optimistic`."""
    seed: int = 0
    """Fixes the pairs, the users' words and the resampling."""
    bootstrap: int = 2000
    """Resamples of the 95% intervals."""
    index: str = "exact"
    """What searches the embeddings: `exact`, `faiss` or `milvus`. Agents that score every image
    themselves (`random`, `oracle`) do so."""
    index_uri: str = ""
    """Milvus: a file ending in .db, or an address such as http://localhost:19530; a new version of
    each agent's vectors is published there. Faiss: `flat`, `ivf`, `hnsw` or `pq`."""
    run_depth: int = 10
    """Images per query in the TREC run files."""
    out: Path = Path("runs/benchmark")
    """Folder of benchmark.json, .csv, .png and the run files."""
    overwrite: bool = False
    """Replace an earlier benchmark in that folder."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(compare_agents(args)))


def compare_agents(args: Args) -> str:
    """Play, write everything, and return the table for the terminal."""
    import json

    import numpy as np

    from agents.belief import Weighing
    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.loading import load_agent, named
    from agents.planning import Plan
    from agents.report import (
        compare,
        format_table,
        found_by_turn,
        plot,
        summarise,
        without_nan,
        write_csv,
    )
    from retrieval.devices import device_of
    from retrieval.files import atomic_write
    from retrieval.index import ExactIndex

    if (args.out / "benchmark.json").exists() and not args.overwrite:
        raise ValueError(f"{args.out} holds a benchmark; choose another --out or --overwrite")
    given = dict(named(agent) for agent in args.agents)
    if len(given) < len(args.agents):
        raise ValueError("two agents have the same name; give them names with name=...")
    dialog = dialog_of(args, args.split, args.turns)
    dialog = dialog.with_(index=ExactIndex(dialog.gallery.features, args.ties))
    device = device_of(args.device)
    plan = Plan(args.plan_top_k, args.plan_believed, args.plan_depth)
    weighing = Weighing(args.bayes_pool, args.bayes_slips)
    imagined = imagined_user(args)
    agents = {
        name: load_agent(what, dialog, args.seed, device, plan, imagined, weighing)
        for name, what in given.items()
    }
    depth = other_indexes(args, agents, dialog)
    agents = with_slates(agents, dialog, args.slate_by)
    writable(args.out)

    target, reference = evaluation_pairs(len(dialog.gallery), args.pairs, args.seed)
    played: dict[str, Played] = {}
    for name, agent in agents.items():
        played[name] = run_dialogs(
            dialog, agent, target, reference, args.seed, args.run_depth, ties=args.ties
        )
        print(f"played {len(target)} dialogs with {name}", flush=True)

    ranks = {name: one.ranks for name, one in played.items()}
    rng = np.random.default_rng([args.seed, 17])
    size = len(dialog.gallery)
    found = {name: found_by_turn(one.slates, target) for name, one in played.items()}
    drawn: dict[str, Any] = {
        "bootstrap": args.bootstrap, "rng": rng, "clusters": target, "found": found,
        "depth": depth,
    }  # fmt: skip
    summary = summarise(ranks, size, **drawn)
    compared = compare(ranks, size, **drawn)
    shares = add_shares(summary, dialog, played, target)
    limits = limit_lines(dialog, played)
    content = {
        **summary,
        "repeat_share": shares,
        "comparisons": compared,
        "limits": [limit._asdict() for limit in limits],
        "protocol": protocol(args, dialog, target),
    }
    with atomic_write(args.out / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=1))
    write_csv(args.out / "benchmark.csv", summary)
    with atomic_write(args.out / "ranks.npz") as temporary:
        shown = {f"found:{name}": table for name, table in found.items()}
        tables: dict[str, Any] = {"gallery_size": size, "target": target, **ranks, **shown}
        np.savez_compressed(temporary, **tables)
    write_runs(args.out, dialog, played, target, args.turns)
    plot(args.out / "benchmark.png", summary, limits)
    draw_example(args.out / "dialog.png", dialog, played, target)
    return (
        f"{format_table(summary, table_blocks(dialog))}\n\n"
        f"shown again, of all images shown before the target was found: "
        f"{', '.join(f'{name} {share:.3f}' for name, share in shares.items())}\n"
        f"{args.pairs} dialogs over {size} {args.split} images, user {args.user}, "
        f"seed {args.seed}\n"
        f"written: {args.out}/benchmark.json, .csv, .png, dialog.png and *.run.gz"
    )


def imagined_user(args: Args) -> User | None:
    """Whom agents that plan imagine, if not the one they talk to.

    Raises:
        ValueError: the environment brings a user of its own.
    """
    from dataclasses import replace

    if args.plan_user is None:
        return None
    changed = replace(args, user=args.plan_user, noise=0.0)
    if (own := dialog_options(changed)["user"]) != args.plan_user:
        raise ValueError(
            f"--plan-user {args.plan_user} does not go with {environment_of(args)}, which brings "
            f"the {own} user; leave it out, or choose the user by flag in another environment"
        )
    return dialog_of(changed, args.split, args.turns).user


def other_indexes(args: Args, agents: dict[str, Agent], dialog: Dialog) -> int | None:
    """Search with another index where one is asked for; the depth its ranks go down to, if any."""
    if args.index == "exact" and not args.index_uri:
        return None
    from agents.searching import search_with

    return search_with(agents, dialog.gallery.features, args.index, args.index_uri, args.ties)


def with_slates(
    agents: dict[str, Agent], dialog: Dialog, rules: tuple[str, ...]
) -> dict[str, Agent]:
    """Each agent that asks by query once per rule for slates, named after both if several.

    Raises:
        ValueError: rules without slates, or an unknown one.
    """
    from agents.slates import SlateAgent, asks_by_query
    from envs.slates import SLATES
    from retrieval.errors import unknown

    for rule in rules:
        if rule not in SLATES:
            raise unknown("rule for slates", rule, SLATES)
    if dialog.slate == 1:
        if tuple(rules) != ("greedy",):
            raise ValueError("--slate-by chooses slates; give --slate 4, say, too")
        return agents
    chosen: dict[str, Agent] = {}
    for name, agent in agents.items():
        if not asks_by_query(agent):
            chosen[name] = agent
            continue
        for rule in rules:
            label = f"{name}-{rule}" if len(rules) > 1 else name
            chosen[label] = SlateAgent(agent, rule)
    return chosen


def add_shares(
    summary: Summary, dialog: Dialog, played: dict[str, Played], target: np.ndarray
) -> dict[str, float]:
    """Put into the summary how many images came again at each turn, and how many users left.

    Returns:
        For each agent the share of images shown again over all turns.
    """
    from agents.report import repeat_share, repeats_by_turn

    for name, one in played.items():
        metrics = summary["agents"][name]
        metrics["repeats"] = repeats_by_turn(one.slates, target, one.left)
        if dialog.patience is not None:
            metrics["left"] = one.left.mean(0).tolist()
    return {name: repeat_share(one.slates, target, one.left) for name, one in played.items()}


def table_blocks(dialog: Dialog) -> tuple[str, ...]:
    """The blocks of the table for the terminal."""
    blocks = ("percentile", "recall@1", "recall@10", "mrr", "bri", "found")
    return blocks if dialog.patience is None else (*blocks, "left")


def protocol(args: Args, dialog: Dialog, target: np.ndarray) -> dict[str, Any]:
    """What the numbers depend on."""
    options = dialog_options(args)
    return {
        "environment": environment_of(args),
        "split": args.split,
        "gallery_size": len(dialog.gallery),
        "gallery_hash": dialog.gallery.content_hash,
        "user": options["user"],
        "noise": options.get("noise", 0.0),
        "encoder": options["encoder"],
        "pairs": len(target),
        "turns": args.turns,
        "seed": args.seed,
        "ties": args.ties,
        **({} if args.index == "exact" else {"index": f"{args.index} {args.index_uri}".strip()}),
        **told_of_plans(args),
        "reference_excluded": False,
        "bootstrap": args.bootstrap,
        **settings(args, dialog),
    }


def told_of_plans(args: Args) -> dict[str, Any]:
    """How agents that plan, or weigh, do so, if there are any."""
    from agents.loading import named, thinking

    ways = {thinking(named(agent)[1])[0] for agent in args.agents}
    whom = args.plan_user or dialog_options(args)["user"]
    told: dict[str, Any] = {}
    if ways & {"plan", "plan-bayes"}:
        told["plan"] = [args.plan_top_k, args.plan_believed, args.plan_depth, whom]
    if ways & {"bayes", "plan-bayes"}:
        told["bayes"] = [args.bayes_pool, args.bayes_slips, whom]
    return told


def settings(args: Args, dialog: Dialog) -> dict[str, Any]:
    """How the dialogs differ from one image a turn, shown to a patient user."""
    told: dict[str, Any] = {}
    if dialog.slate > 1:
        told |= {"slate": dialog.slate, "slate_by": list(args.slate_by), "ranks": "by the query"}
    if dialog.never_repeat:
        told["never_repeat"] = True
    if dialog.patience is not None:
        told |= {"patience": dialog.patience, "after_leaving": "not found, the last rank stays"}
    return told


def limit_lines(dialog: Dialog, played: dict[str, Played]) -> list[Limit]:
    """The limits that apply: counting bound, indistinguishability, version-space oracle."""
    import numpy as np

    from agents.report import Limit, counting_bound, indistinguishability_ceiling
    from envs.slates import SLATES

    turns = dialog.max_turns
    replies = len({said for one in played.values() for row in one.captions for said in row if said})
    lines = [
        Limit(
            f"counting bound at {replies} sentences", f"recall@{k}",
            # which image of a slate the user picks tells something, too
            counting_bound(len(dialog.gallery), replies * dialog.slate, turns, k),
        )
        for k in (1, 10)
    ]  # fmt: skip
    if dialog.gallery.attributes is not None:
        ceiling = indistinguishability_ceiling(dialog.gallery.attributes)
        lines.append(Limit("indistinguishability ceiling", "recall@1", [ceiling] * (turns + 1)))
    names = {"oracle", *(f"oracle-{rule}" for rule in SLATES)}
    oracles = [one for name, one in played.items() if name in names]
    if oracles:
        for k in (1, 10):
            by_turn = np.max([(one.ranks < k).mean(0) for one in oracles], axis=0)
            lines.append(Limit("version-space oracle", f"recall@{k}", np.asarray(by_turn).tolist()))
    return lines


def write_runs(
    folder: Path, dialog: Dialog, played: dict[str, Played], target: np.ndarray, turns: int
) -> None:
    """TREC files, one run per agent and the qrels they share."""
    import numpy as np

    from agents.report import write_qrels, write_run

    names = list(dialog.gallery.names)
    write_qrels(folder / "qrels.gz", target, names, turns)
    for name, one in played.items():
        order = -np.arange(one.candidates.shape[2], dtype=np.float32)
        scores = np.broadcast_to(order, one.candidates.shape)
        path = folder / f"{name}.run.gz"
        write_run(path, name, np.arange(len(target)), one.candidates, scores, names)


def draw_example(path: Path, dialog: Dialog, played: dict[str, Played], target: np.ndarray) -> None:
    """The first dialog as each agent played it, one strip under another."""
    if dialog.gallery.pictures is None:
        return
    import numpy as np
    from PIL import Image

    from agents.report.strip import draw_played
    from retrieval.files import atomic_write

    strips = [draw_played(dialog, one, 0, target[0]) for one in played.values()]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(strips)).save(temporary)


if __name__ == "__main__":
    main()
