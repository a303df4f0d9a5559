"""What the commands share: which dialog, and how mistakes are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.dialog import Dialog
    from retrieval.catalog.roles import Roles
    from retrieval.gallery import Gallery, Triplet


CATALOG_COLUMNS = ("id_column", "attributes", "title", "table")


@dataclass(frozen=True)
class DataArgs:
    """Which data."""

    dataset: str = "css"
    """`css`, or `catalog`: one's own product photos with a table (see `--dataset-path`)."""
    dataset_path: Path | None = None
    """A catalogue's folder: pictures, and a table with a column of ids or file names."""
    id_column: str | None = None
    """A catalogue's column of ids or file names; by default the one that names most pictures."""
    attributes: str | None = None
    """A catalogue's columns to talk about, `a,b,c`; by default those with few short values."""
    title: str | None = None
    """A catalogue's column with the name in words; by default the wordiest."""
    table: str | None = None
    """A catalogue's table, where the folder holds several."""


@dataclass(frozen=True)
class DialogArgs(DataArgs):
    """Which dialogs to play."""

    env: str = "dialog/CSS-v0"
    """Any registered `dialog/...` id. The built-in ones need no data."""
    user: str = "neural"
    """Who speaks: `neural` (the relative captioner), `attribute` (true differences) or
    `striking` (of these always the most striking one)."""
    captioner: Path | None = None
    """The neural user's checkpoint; by default the data set's own, trained when missing."""
    noise: float | None = None
    """Probability that a caption is about a wrong image; by default the environment's."""
    encoder: str = "scene-cnn"
    """Whose features (see `extract_features`). For a catalogue `scene-cnn` stands for its own
    default: EfficientNet-Lite0 where it is installed, else a small network trained on it."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    slate: int | None = None
    """Images shown at each turn, of which the user picks one; by default the environment's."""
    never_repeat: bool = False
    """Leave out images that the dialog has shown before, as some environments do by themselves."""
    patience: int | None = None
    """The user leaves after so many turns without progress; by default the environment's."""
    device: str = "cpu"
    """Where agents and the neural user compute: `cpu`, or `cuda` for this process's GPU."""


def run(main: Callable[[], None], together: bool = False) -> None:
    """Run a command; a mistake of the caller's is one sentence and exit code 2.

    Args:
        main: what to do.
        together: whether processes that `torchrun` started do it as one
            (`retrieval.distributed`).
    """
    choose_threads(os.environ)  # before NumPy and PyTorch are loaded, which read it once
    import gymnasium as gym

    # where torchrun says how many processes it started
    several = together and int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if several:
            from retrieval.distributed import process_group

            with process_group():
                main()
        else:
            main()
    except KeyboardInterrupt:
        print("stopped; what was saved stays", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, RuntimeError, gym.error.Error) as error:
        if os.environ.get("DIALOG_RETRIEVAL_DEBUG"):
            raise
        who = f" (process {os.environ.get('RANK')})" if several else ""
        print(f"error{who}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def choose_threads(environment: MutableMapping[str, str]) -> None:
    """Share the cores out among the processes of one job, unless `OMP_NUM_THREADS` is set.

    Each process takes the cores that it may run on, divided by the processes that `torchrun`
    started on this machine. Jobs that know nothing of each other cannot share: give each
    `OMP_NUM_THREADS=1` where there are as many as cores (see SCALING.md).

    Args:
        environment: of the process; NumPy and PyTorch read it when they are loaded.
    """
    # Threads that spin while they wait slow two processes on two cores down tenfold.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    has_affinity = hasattr(os, "sched_getaffinity")  # not everywhere
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    processes = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))


def environment_of(args: DialogArgs) -> str:
    """The environment's id: that of a catalogue where `--dataset catalog` is all that was said.

    Raises:
        ValueError: the environment is not about the data set.
    """
    name = args.env.removeprefix("envs:")
    if args.dataset != "catalog" or name.startswith("dialog/Catalog"):
        return name
    if name != DialogArgs.env:
        raise ValueError(f"{args.env} is not about a catalogue; leave --env or --dataset out")
    return "dialog/Catalog-v0"


def dialog_options(args: DialogArgs) -> dict[str, Any]:
    """The arguments of `make_dialog` that an environment id and the flags stand for.

    Raises:
        ValueError: the id is none of this project's dialogs, or flags that do not go together.
    """
    import gymnasium as gym

    import envs
    from retrieval.errors import unknown

    name = environment_of(args)
    known = {key: spec.kwargs for key, spec in gym.registry.items() if key.startswith("dialog/")}
    if name not in known:
        raise unknown("environment", args.env, known or envs.ENVIRONMENTS)
    root: Path | None = args.dataset_path or args.data_path
    options = {**known[name], "user": args.user, "encoder": args.encoder, "root": root}
    if options.get("dataset") == "catalog":
        root = catalog_root(replace(args, dataset="catalog"), args.data_path)
        columns = {key: getattr(args, key) for key in CATALOG_COLUMNS}
        options |= {"root": root, **columns}
    else:
        catalog_root(args, args.data_path)  # refuses a catalogue's flags
    if name == "dialog/CSS-Scene-v0":  # it has no pictures for a captioner to see
        options |= {"encoder": "scene", "user": "attribute"}
    if known[name].get("user") == "striking":  # what this environment is about
        options["user"] = "striking"
    for setting in ("noise", "slate", "patience"):
        if getattr(args, setting) is not None:
            options[setting] = getattr(args, setting)
    if args.never_repeat:
        options["never_repeat"] = True
    options |= {"captioner": args.captioner, "device": args.device}
    return options


def dialog_of(args: DialogArgs, split: str, turns: int) -> Dialog:
    """The dialog of a split; a captioner that is missing is trained first.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see `envs.factory.make_dialog`.
    """
    from envs.factory import make_dialog

    options = dialog_options(args)
    if options.get("max_turns", turns) != turns:
        raise ValueError(
            f"{args.env} has dialogs of {options['max_turns']} turn, got {turns}; "
            "set the flags that count turns"
        )
    if options["user"] == "neural" and args.captioner is None:
        train_missing_captioner(options)
    return make_dialog(split=split, **{**options, "max_turns": turns})


def train_missing_captioner(options: dict[str, Any]) -> None:
    """Train the data set's own captioner unless it is there."""
    from envs.factory import captioner_path, products_captioner_path, products_encoder

    root, look, encoder = options["root"], options.get("look", "3d"), options["encoder"]
    of_catalog = options.get("dataset") == "catalog"
    path = products_captioner_path(root, encoder) if of_catalog else captioner_path(
        root, look, encoder
    )  # fmt: skip
    if path.is_file():
        return
    from user_simulator.quality import train_and_report, train_and_report_catalog

    print("no captioner yet: training one first (once)", file=sys.stderr)
    if of_catalog:
        train_and_report_catalog(root, products_encoder(encoder), roles_of(options), path)
    else:
        train_and_report(root, look, encoder, path)


def roles_of(options: Mapping[str, Any]) -> Roles:
    """The roles of a catalogue's columns among flags or the arguments of `make_dialog`."""
    from retrieval.catalog.roles import Roles

    return Roles.of(**{key: options.get(key) for key in CATALOG_COLUMNS})


def catalog_root(args: DataArgs, data_path: Path | None) -> Path | None:
    """The catalogue's folder where the flags are about one, else None.

    Raises:
        ValueError: an unknown data set, a catalogue without a folder, or flags of a catalogue
            without `--dataset catalog`.
    """
    from envs.factory import DATA_SETS
    from retrieval.errors import unknown

    if args.dataset not in DATA_SETS:
        raise unknown("data set of dialogs", args.dataset, DATA_SETS)
    root = args.dataset_path or data_path
    if args.dataset == "catalog":
        if root is None:
            raise ValueError("a catalogue needs its folder; give --dataset-path DIR")
        root = root.expanduser().absolute()
        if not root.is_dir():
            raise FileNotFoundError(f"expected a catalogue's folder, but there is no folder {root}")
        return root
    columns = [key for key in CATALOG_COLUMNS if getattr(args, key)]
    if columns:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in columns)
        raise ValueError(f"{flags} chooses columns of a catalogue; give --dataset catalog too")
    return None


def gallery_of(args: DialogArgs, split: str) -> tuple[Gallery, list[Triplet]]:
    """The gallery that the dialogs are about, and the captions that come with it."""
    from envs.factory import load_gallery, load_products

    options = dialog_options(args)
    if options.get("dataset") == "catalog":
        return load_products(options["root"], split, options["encoder"], roles_of(options))
    return load_gallery(options["root"], options.get("look", "3d"), split, options["encoder"])


def writable(folder: Path) -> None:
    """Make a folder and try it, so that hours of work do not end at a closed door.

    Raises:
        OSError: nothing can be written there.
    """
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
