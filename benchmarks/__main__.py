"""All benchmarks, one after another, each in a process of its own: python -m benchmarks

Every file of this folder with a `main` is one. One thread per process unless the environment says
otherwise (`OMP_NUM_THREADS`): ratios of one thread's work are stable, and two processes on two
cores do not fight. What they wrote is put together in runs/bench/report.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import OUT, THREADS
from retrieval.files import atomic_write


def names() -> list[str]:
    """The benchmarks of this folder."""
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    return [file.stem for file in files if "\ndef main(" in file.read_text()]


def main() -> None:
    """Run those named, or all."""
    chosen = sys.argv[1:] or names()
    environment = {**dict.fromkeys(THREADS, "1"), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    failed = []
    for name in chosen:
        print(f"# {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=environment).returncode:
            failed.append(name)
    pages = [page.read_text() for page in sorted(OUT.glob("*.md")) if page.name != "report.md"]
    with atomic_write(OUT / "report.md") as temporary:
        temporary.write_text("# Benchmarks\n\n" + "\n".join(pages))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
