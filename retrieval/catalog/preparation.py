"""Extract a catalogue's features once, in a process of its own where torch is not wanted.

python -m retrieval.catalog.preparation --root FOLDER --encoder efficientnet-lite0+color
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from retrieval.catalog.roles import Roles
from retrieval.datasets.catalog import is_extracted, open_catalogue


def prepare_apart(root: Path, encoder: str, roles: Roles) -> None:
    """Make the features unless they are there, progress on standard error.

    Raises:
        FileNotFoundError, ValueError: the catalogue cannot be read; see `open_catalogue`.
        RuntimeError: the extraction failed; its own message stands on standard error.
    """
    catalogue = open_catalogue(root, roles)
    if is_extracted(catalogue, encoder):
        return
    print(catalogue.summary(), file=sys.stderr)
    print(f"extracting {encoder} features (once)", file=sys.stderr)
    command = [sys.executable, "-m", "retrieval.catalog.preparation", "--root", str(root)]
    command += ["--encoder", encoder, "--roles", json.dumps(asdict(roles))]
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError(f"could not extract {encoder} features of {root}; see the message above")


def main() -> None:
    """Read the arguments and extract; exit code 2 with one sentence if that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--roles", type=json.loads, default={})
    args = parser.parse_args()
    try:
        from retrieval.catalog.encoding import extract_catalogue

        extract_catalogue(open_catalogue(args.root, Roles.of(**args.roles)), args.encoder)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
