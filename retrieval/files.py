"""Files that are either complete or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name, and give it its own name once it is complete.

    A reader, or a run that was stopped half way, never meets half a file. The temporary name
    lies in the same folder, which is made when missing, and keeps the suffix, so that writers
    that choose the format by suffix do the right thing.

    Args:
        path: Where the finished file goes; an older file there is replaced.

    Yields:
        The temporary path to write to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder) / "runs" / "note.txt") as temporary:
        ...         _ = temporary.write_text("done")
        ...     (Path(folder) / "runs" / "note.txt").read_text()
        'done'
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{uuid.uuid4().hex[:12]}.{final.name}")
    try:
        yield temporary
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
