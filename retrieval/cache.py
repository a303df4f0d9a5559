"""Where made or downloaded data is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for made data: `$DIALOG_RETRIEVAL_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("DIALOG_RETRIEVAL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "dialog-retrieval"
