"""The commands on a catalogue: `--dataset catalog --dataset-path DIR` and nothing else."""

import json

import numpy as np
import pytest
import torch

from retrieval.datasets import catalog
from tests.command_line import call, do
from tests.tiny_catalog import make_shop

OWN = "catalog-cnn+color"
SMALL = [
    "--dialogs-per-epoch", 24, "--batch-size", 8, "--test-pairs", 8, "--log-interval", 2,
    "--epochs", 1, "--user", "attribute",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory):
    """Nothing is made in the user's own cache; the small encoder is the default."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        patched.setattr(catalog, "default_encoder", lambda: OWN)
        patched.setattr("user_simulator.quality.CAPTIONS", 300)
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shop"
    rows = make_shop(root, 70)
    (root / "photos" / f"{rows[5]['sku']}.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def data(shop):
    """The flags, once the features are there."""
    out = do("extract_features", "--dataset", "catalog", "--dataset-path", shop, "--epochs", 1).out
    assert "1 broken pictures" in out and "attributes: kind, colour, for whom" in out
    assert f"use them with --encoder {OWN}" in out
    return ["--dataset", "catalog", "--dataset-path", shop]


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    do("train_sl", *data, *SMALL, "--warm-up-epochs", 1, "--model-folder", folder)
    return folder


def test_training_learns_from_the_catalogues_captions(models):
    checkpoint = torch.load(models / "sl-0.pt", weights_only=True)
    assert {"instead", "darker", "disc"} <= set(checkpoint["words"])


def test_train_rl_goes_on_from_it(data, models, tmp_path):
    start = models / "sl-0.pt"
    do("train_rl", *data, *SMALL, "--pretrained-model", start, "--save-folder", tmp_path)
    assert (tmp_path / "rl-0.pt").is_file()


def test_the_benchmark_compares_agents_on_products(data, models, tmp_path):
    table = do(
        "benchmark", *data, "--user", "attribute", "--pairs", 16, "--turns", 3, "--bootstrap", 20,
        "--agents", models / "sl-0.pt", "random", "oracle", "image-only", "--out", tmp_path / "b",
    ).out  # fmt: skip
    assert all(name in table for name in ("sl-0", "random", "oracle"))
    protocol = json.loads((tmp_path / "b" / "benchmark.json").read_text())["protocol"]
    assert protocol["environment"] == "dialog/Catalog-v0" and protocol["split"] == "test"
    ranks = np.load(tmp_path / "b" / "ranks.npz")
    assert ranks["oracle"][:, 3].mean() < ranks["random"][:, 3].mean()
    assert (tmp_path / "b" / "dialog.png").is_file()


def test_the_captioner_reports_by_kind_of_clause(data, models, tmp_path, shop):
    out = do("train_captioner", *data, "--epochs", 1, "--hidden-size", 16).out
    path = catalog.workspace(shop) / "captioners" / f"{OWN}.pt"
    assert str(path) in out
    numbers = json.loads(path.with_suffix(".json").read_text())
    said = {key: value for key, value in numbers.items() if key.startswith("said/")}
    assert said and all(f"accuracy/{key.removeprefix('said/')}" in numbers for key in said)
    compared = {key for key in said if key.removeprefix("said/") in ("lighter", "darker", "larger")}
    assert all(f"direction/{key.removeprefix('said/')}" in numbers for key in compared)
    assert numbers["reference_faithfulness"] == 1.0
    strip = do(
        "draw_dialog", *data, "--agent", "oracle", "--turns", 2, "--out", tmp_path / "strip.png"
    ).out  # the neural user, by default
    assert "turn 0" in strip and (tmp_path / "strip.png").is_file()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train_sl", ["--dataset", "catalog"], "needs its folder; give --dataset-path DIR"),
        ("train_captioner", ["--dataset", "catalog"], "needs its folder; give --dataset-path"),
        ("extract_features", ["--dataset", "catalog"], "needs its folder; give --dataset-path"),
        ("benchmark", ["--dataset", "catalogue"], "unknown data set of dialogs 'catalogue'. Did"),
        ("train_sl", ["--title", "name"], "--title chooses columns of a catalogue; give --dataset"),
        (
            "benchmark",
            ["--dataset", "catalog", "--dataset-path", "/none/x"],
            "there is no folder /none/x",
        ),
        (
            "benchmark",
            ["--dataset", "catalog", "--dataset-path", ".", "--env", "dialog/CSS2D-v0"],
            "dialog/CSS2D-v0 is not about a catalogue",
        ),
    ],
)
def test_mistakes_are_one_sentence(command, arguments, message):
    code, out, err = call(command, *arguments)
    assert code == 2 and len(err.splitlines()) == 1, err
    assert err.startswith("error: ") and message in err
    assert "Traceback" not in out + err


def test_columns_given_must_exist(data):
    code, _, err = call("benchmark", *data, "--id-column", "skuu")
    assert code == 2 and "unknown column 'skuu'. Did you mean 'sku'" in err
