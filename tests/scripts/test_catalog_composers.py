"""`train_composer` and `evaluate_composer` on a catalogue, as typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from retrieval.datasets import COMPOSED, catalog
from retrieval.inference import encode_gallery, encode_queries
from retrieval.models import build_model
from retrieval.training import load_training
from retrieval.two_encoders import rebuild
from tests.command_line import call, do
from tests.tiny_catalog import make_shop

OWN = "catalog-cnn+color"
SMALL = ["--recipe", "fast", "--embed_dim", 16, "--batch_size", 8, "--num_iters", 6,
         "--validation_share", 0.2]  # fmt: skip
FEATURES = ["--image_encoder", "features"]


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is made in the user's own cache; the small encoder is the default."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        patched.setattr(catalog, "default_encoder", lambda: OWN)
        yield


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose features nobody extracted; one of its 70 pictures is broken."""
    root = tmp_path_factory.mktemp("data") / "unread"
    rows = make_shop(root, 70)
    (root / "photos" / f"{rows[5]['sku']}.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with features."""
    root = tmp_path_factory.mktemp("data") / "shop"
    rows = make_shop(root, 70)
    (root / "photos" / f"{rows[5]['sku']}.png").write_bytes(b"broken")
    do("extract_features", "--dataset", "catalog", "--dataset-path", root, "--epochs", 1)
    return root


def trained(root: Path, log: Path, *arguments: object) -> Path:
    """The folder of a short run."""
    data = ["--dataset", "catalog", "--dataset-path", root]
    told = do("train_composer", *data, *SMALL, *arguments, "--log_dir", log)
    assert "left out of catalog train: 1 broken pictures" in told.err
    (folder,) = log.iterdir()
    return folder


def recall(folder: Path, root: Path, k: int, **options: str) -> float:
    """Recall at k of a run's best model on the test products, by loops over sorted scores."""
    split = COMPOSED["catalog"](root, "test", **options)
    model = rebuild(load_training(folder / "best.pt"))
    queries, gallery = encode_queries(model, split), encode_gallery(model, split)
    hits = 0
    for query, vector in zip(split.queries, queries, strict=True):
        others = [row for row in range(len(gallery)) if row != query.reference]
        others.sort(key=lambda row: -float(vector @ gallery[row]))
        hits += split.labels[query.target] in [split.labels[row] for row in others[:k]]
    return hits / len(split.queries)


@pytest.mark.parametrize(
    "model", ["imgonly", "textonly", "concat", "tirg", "composeAE", "comqueryformer"]
)
def test_every_composer_of_the_table_learns_from_features(
    model: str, shop: Path, tmp_path: Path
) -> None:
    folder = trained(shop, tmp_path, *FEATURES, "--model", model)
    content = load_training(folder / "best.pt")
    ended = rebuild(content)
    torch.manual_seed(0)  # the run's seed: the weights it began with
    begun = build_model(ended.spec)
    weights = ended.image_encoder.output.weight
    assert weights.shape == (16, content["spec"]["feature_dim"])
    assert not weights.equal(begun.image_encoder.output.weight)
    report = json.loads((folder / "evaluation.json").read_text())["report"]
    (row,) = report["rows"]
    assert row["recall"]["R@5"] == pytest.approx(recall(folder, shop, 5))
    assert report["skipped"] == {"broken pictures": 1}


def test_pictures_need_no_features(unread: Path, tmp_path: Path) -> None:
    folder = trained(unread, tmp_path)
    assert load_training(folder / "best.pt")["spec"]["image_encoder"] == "small-cnn"


@pytest.mark.parametrize(
    "options", [{"captions": "replace"}, {"attributes": "kind", "title": "colour"}]
)
def test_evaluation_reads_the_catalogue_as_training_did(
    options: dict[str, str], shop: Path, tmp_path: Path
) -> None:
    """Captions and roles come out of the checkpoint; the figures are those of training's end."""
    flags = [word for flag, value in options.items() for word in (f"--{flag}", value)]
    folder = trained(shop, tmp_path, *FEATURES, *flags)
    told = do("evaluate_composer", "--checkpoint", folder)
    assert "catalog test, protocol tirg" in told.out
    assert "left out: 1 broken pictures" in told.out
    report = json.loads((folder / "catalog-test.json").read_text())["report"]
    ended = json.loads((folder / "evaluation.json").read_text())["report"]
    assert report == ended
    split, plain = (COMPOSED["catalog"](shop, "test", **more) for more in (options, {}))
    assert report["rows"][0]["queries"] == len(split.queries)
    assert split.queries != plain.queries  # the options say something
    for k in (1, 5):
        assert report["rows"][0]["recall"][f"R@{k}"] == pytest.approx(
            recall(folder, shop, k, **options)
        )


def test_resuming_reads_the_same_features(shop: Path, tmp_path: Path) -> None:
    folder = trained(shop, tmp_path, *FEATURES, "--schedule", "constant")
    do("train_composer", "--resume", folder, "--num_iters", 9)
    assert load_training(folder / "last.pt")["progress"]["step"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give its folder as --dataset_path"),
        (["--dataset-path", "UNREAD", *FEATURES], "comes without features; run extract_features"),
        (["--dataset-path", "UNREAD", *FEATURES, "--features", "resnet18"],
         "run `extract_features --dataset catalog --dataset-path"),
        (["--dataset-path", "SHOP", "--id-column", "skuu"], "Did you mean 'sku'"),
        (["--dataset-path", "SHOP", "--captions", "replaced"], "Did you mean 'replace'"),
        (["--dataset-path", "SHOP", *FEATURES, "--model", "tirg_lastconv"],
         "features have none; use tirg"),
        (["--dataset-path", "SHOP", "--query_look", "2d"], "catalog has no --query_look"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, unread: Path, shop: Path, tmp_path: Path
) -> None:
    places = {"UNREAD": unread, "SHOP": shop}
    typed = [places.get(word, word) for word in arguments]
    outcome = call("train_composer", "--dataset", "catalog", *SMALL, *typed, "--log_dir", tmp_path)
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: ") and message in line, line
    assert "Traceback" not in outcome.err + outcome.out
