"""One's own product photos from a folder to an agent: features, training, benchmark.

`python -m examples.own_catalogue shop`, where `shop` holds pictures and a table (README, "Your own
product photos"). The user here speaks from the table's attributes.
"""

import subprocess
import sys
from pathlib import Path


def steps(shop: Path, out: Path, quick: bool = False) -> list[list[str]]:
    """The commands, as one would type them; `quick` only shows that they run."""
    data = ["--dataset", "catalog", "--dataset-path", str(shop)]
    dialogs = [*data, "--user", "attribute"]
    little = ["--epochs", "1", "--dialogs-per-epoch", "16", "--batch-size", "8"] if quick else []
    few = ["--pairs", "10", "--bootstrap", "10"] if quick else []
    short = ["--epochs", "1"] if quick else []
    models = ["--model-folder", str(out)]
    last = "0" if quick else "14"
    agents = [str(out / f"sl-{last}.pt"), "random", "image-only"]
    return [
        ["extract_features", *data, *short],
        ["train_sl", *dialogs, *models, *little, "--test-pairs", "10" if quick else "512"],
        ["benchmark", *dialogs, "--agents", *agents, "--out", str(out / "benchmark"), *few],
    ]


def main() -> None:
    """Run them one after another."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit("expected one argument, the folder of a catalogue")
    for name, *arguments in steps(Path(sys.argv[1]), Path("runs/own-catalogue")):
        subprocess.run([sys.executable, "-m", f"scripts.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
