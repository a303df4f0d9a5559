"""What the commands share: which dialog, and how mistakes are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.dialog import Dialog
    from retrieval.gallery import Gallery, Triplet


@dataclass(frozen=True)
class DialogArgs:
    """Which dialogs to play."""

    env: str = "dialog/CSS-v0"
    """Any registered `dialog/...` id. The built-in ones need no data."""
    user: str = "neural"
    """Who speaks: `neural` (the relative captioner) or `attribute` (true differences)."""
    captioner: Path | None = None
    """The neural user's checkpoint; by default the data set's own, trained when missing."""
    noise: float | None = None
    """Probability that a caption is about a wrong image; by default the environment's."""
    encoder: str = "scene-cnn"
    """Whose features (see `extract_features`)."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""


def run(main: Callable[[], None]) -> None:
    """Run a command; a mistake of the caller's is one sentence and exit code 2."""
    # Threads that spin while they wait slow two processes on two cores down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import gymnasium as gym

    try:
        main()
    except KeyboardInterrupt:
        print("stopped; what was saved stays", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, RuntimeError, gym.error.Error) as error:
        if os.environ.get("DIALOG_RETRIEVAL_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def dialog_options(args: DialogArgs) -> dict[str, Any]:
    """The arguments of `make_dialog` that an environment id and the flags stand for.

    Raises:
        ValueError: the id is none of this project's dialogs.
    """
    import gymnasium as gym

    import envs
    from retrieval.errors import unknown

    name = args.env.removeprefix("envs:")
    known = {key: spec.kwargs for key, spec in gym.registry.items() if key.startswith("dialog/")}
    if name not in known:
        raise unknown("environment", args.env, known or envs.ENVIRONMENTS)
    options = {**known[name], "user": args.user, "encoder": args.encoder, "root": args.data_path}
    if name == "dialog/CSS-Scene-v0":  # it has no pictures for a captioner to see
        options |= {"encoder": "scene", "user": "attribute"}
    if args.noise is not None:
        options["noise"] = args.noise
    options["captioner"] = args.captioner
    return options


def dialog_of(args: DialogArgs, split: str, turns: int) -> Dialog:
    """The dialog of a split; a captioner that is missing is trained first.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see `envs.factory.make_dialog`.
    """
    from envs.factory import captioner_path, make_dialog

    options = dialog_options(args)
    if options.get("max_turns", turns) != turns:
        raise ValueError(
            f"{args.env} has dialogs of {options['max_turns']} turn, got {turns}; "
            "set the flags that count turns"
        )
    if options["user"] == "neural" and args.captioner is None:
        root, look, encoder = options["root"], options.get("look", "3d"), options["encoder"]
        path = captioner_path(root, look, encoder)
        if not path.is_file():
            from user_simulator.quality import train_and_report

            print("no captioner yet: training one first (once)", file=sys.stderr)
            train_and_report(root, look, encoder, path)
    return make_dialog(split=split, **{**options, "max_turns": turns})


def gallery_of(args: DialogArgs, split: str) -> tuple[Gallery, list[Triplet]]:
    """The gallery that the dialogs are about, and the captions that come with it."""
    from envs.factory import load_gallery

    options = dialog_options(args)
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
