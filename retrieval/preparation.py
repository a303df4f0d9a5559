"""Make what the built-in galleries need, once: pictures, scene encoder, features.

    python -m retrieval.preparation --root FOLDER --look 3d --encoder scene-cnn

`envs` runs this as a process of its own, so that a program that only plays dialogs never
imports torch.
"""

from __future__ import annotations

import argparse
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.cache import cache_folder
from retrieval.features import has_features
from retrieval.rendering.build import BuildSpec, build, is_complete

SCENE = "scene"  # the encoder that needs no pictures: one-hot scenes


def default_root() -> Path:
    """The folder of the built-in CSS data."""
    return cache_folder() / BuildSpec().name


def is_prepared(root: Path, look: str, encoder: str) -> bool:
    """Whether a dialog on this data could start at once."""
    made = is_complete(root) or root != default_root()  # other folders are the caller's own
    return made and (
        encoder == SCENE
        or all(has_features(root, f"{look}_{split}", encoder) for split in ("train", "test"))
    )


def prepare_apart(root: Path, look: str, encoder: str) -> None:
    """Prepare in a process of its own, its progress on standard error.

    Raises:
        RuntimeError: it failed; its own message stands on standard error.
    """
    if is_prepared(root, look, encoder):
        return
    print(f"preparing CSS {look} in {root} (once, a minute or two)", file=sys.stderr)
    command = [sys.executable, "-m", "retrieval.preparation"]
    command += ["--root", str(root), "--look", look, "--encoder", encoder]
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError(f"could not prepare CSS {look} in {root}; see the message above")


def prepare(root: Path, look: str, encoder: str) -> None:
    """Make the built-in data if it is missing, and extract an encoder's features."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(root.parent / f".{root.name}.lock"):
        if root == default_root():
            build(root)
        if encoder != SCENE:
            from retrieval.encoders.training import extract_css

            extract_css(root, look, encoder)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let one process at a time through; the others wait for it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Read the arguments and prepare; exit code 2 with one sentence if that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--look", default="3d", choices=("3d", "2d"))
    parser.add_argument("--encoder", default="scene-cnn")
    args = parser.parse_args()
    try:
        prepare(args.root, args.look, args.encoder)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
