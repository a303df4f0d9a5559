"""`train_composer` and `evaluate_composer` as typed: flags, files, resuming, refusals."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from retrieval.datasets import COMPOSED
from retrieval.inference import encode_gallery, encode_queries
from retrieval.rendering.build import BuildSpec, build
from retrieval.training import load_training
from retrieval.two_encoders import TwoEncoders, rebuild
from retrieval.vision import torchvision
from scripts.evaluate_composer import Args as EvaluateArgs
from scripts.recipes import RECIPES
from scripts.switches import spelled_out
from scripts.train_composer import Args, read, training_of
from tests.command_line import do
from tests.command_line import refused as refused_at_once

refused = partial(refused_at_once, at_once=False)

SMALL = ["--recipe", "fast", "--embed_dim", 16, "--batch_size", 8, "--epochs", 1,
         "--validation_share", 0.2]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is made in the user's own cache or downloaded, and errors are told as to users."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        patched.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def css(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CSS folder without features."""
    root = tmp_path_factory.mktemp("data") / "css"
    build(root, BuildSpec(train=(10, 3), test=(4, 3), train_captions=20, test_pairs=4), workers=1)
    return root


@pytest.fixture(scope="module")
def trained(css: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    log = tmp_path_factory.mktemp("runs")
    do("train_composer", "--dataset=css3d", f"--dataset_path={css}", "--comment=first", *SMALL,
       "--log_dir", log, "--log_every", 1)  # fmt: skip
    (folder,) = log.iterdir()
    return folder


ORIGINALS = """-f x --comment c --dataset fashionIQ --dataset_path . --model composeAE
    --embed_dim 512 --image_embed_dim 256 --use_bert False --use_complete_text_query False
    --learning_rate 0.01 --learning_rate_decay_frequency 50000 --batch_size 32
    --weight_decay 5e-5 --category_to_train all --num_iters 160000 --loss soft_triplet
    --loader_num_workers 4 --log_dir ../logs/ --test_only False --model_checkpoint=
    --use_gPenalty True --random_grad True --epoch 50 --VAL_evaluation --image_size 224
    --patch_size 32 --max_text_len 40 --vocab_size 30522 --tokenizer bert-base-uncased
    --input_image_embed_size [384,768,768] --input_text_embed_size [768,768,768]
    --vit swin_tiny_patch4_window7_224 --hidden_size 768 --num_layer 4 --num_heads 8
    --mlp_ratio 4 --drop_rate 0.1 --num_clusters 8"""

# flags


def test_the_published_command_as_typed() -> None:
    """google/tirg's README: every value that is not typed is its default."""
    typed = "--dataset=css3d --dataset_path=./CSSDataset --num_iters=160000 --model=tirg "
    typed += "--loss=soft_triplet --comment=css3d_tirg"
    args = read(typed.split())
    assert args.dataset_path == Path("CSSDataset")
    assert (args.f, args.embed_dim, args.loader_num_workers) == ("", 512, 4)
    how = training_of(args)
    assert (how.loss, how.iterations, how.epochs) == ("soft_triplet", 160_000, None)
    assert (how.optimizer, how.schedule, how.learning_rate) == ("sgd", "step", 0.01)
    assert (how.weight_decay, how.batch_size, how.decay_every) == (1e-6, 32, 9_999_999)
    assert how.backbone_factor == 1.0  # css3d has one group
    assert (how.half_gradient, how.sampled, how.matching_weight) == (True, True, 0.0)
    assert (args.image_encoder, args.text_encoder) == ("resnet18", "lstm")


def test_the_published_defaults_of_each_system() -> None:
    def how(*typed: str) -> Any:
        return training_of(read(["--dataset", "fashion200k", *typed]))

    assert how().iterations == 210_000
    assert how().backbone_factor is None  # the model's own: a tenth
    assert how("--model", "composeAE").iterations == 160_000
    ga = how("--use_gPenalty", "True", "--model", "tirg_lastconv")
    assert (ga.batch_size, ga.epochs, ga.decay_every, ga.matching_weight) == (
        200, 51, 50_000, 0.001,
    )  # fmt: skip
    assert ga.augmentation.explicit
    assert (ga.augmentation.explicit_weight, ga.augmentation.explicit_norm) == (1e-6, 1.0)
    assert how("--random_grad").augmentation.implicit == "faithful"
    assert how("--random_grad", "--epoch", "3").epochs == 4
    former = how("--model", "comqueryformer")
    assert (former.batch_size, former.epochs, former.learning_rate) == (64, 100, 1e-5)
    assert (former.optimizer, former.schedule, former.weight_decay) == ("adamw", "linear", 0.0)
    args = read(["--model", "comqueryformer", "--use_bert"])
    assert (args.image_encoder, args.text_encoder, args.max_text_len) == ("swin_t", "bert", 40)
    assert (args.hidden_size, args.num_layer, args.num_heads, args.num_clusters) == (768, 4, 8, 8)


def test_flags_that_are_typed_win_over_the_recipe() -> None:
    for name in RECIPES:
        args = read(["--recipe", name, "--batch_size", "7", "--learning_rate", "0.5",
                     "--num_iters", "9", "--loss", "batch_based_classification"])  # fmt: skip
        how = training_of(args)
        assert (how.batch_size, how.learning_rate, how.iterations) == (7, 0.5, 9)
        assert how.epochs is None
        assert not how.half_gradient


def test_every_flag_of_the_originals_is_taken() -> None:
    """With their names and values, in both spellings, in one line."""
    typed = ORIGINALS.split()
    args = read(typed)
    assert (args.embed_dim, args.use_gPenalty, args.VAL_evaluation) == (256, True, True)
    assert (args.use_bert, args.test_only, args.text_encoder) == (False, False, "lstm")
    hyphens = [re.sub(r"(?<!^)(?<!^-)_", "-", word) if word.startswith("--") else word
               for word in typed]  # fmt: skip
    assert any("-rate-decay-" in word for word in hyphens)
    assert read(hyphens) == args


SPELLINGS = [
    (["--use_bert"], True),
    (["--use_bert=True"], True),
    (["--use_bert", "True"], True),
    (["--use-bert", "true"], True),
    (["--use_bert", "False"], False),
    (["--use_bert=False"], False),
    (["--use_bert", ""], False),
    (["--no-use_bert"], False),
    (["--no_use_bert"], False),
    ([], None),
]


@pytest.mark.parametrize(("typed", "expected"), SPELLINGS)
def test_switches(typed: list[str], expected: bool | None) -> None:
    assert read([*typed, "--comment", "x"]).use_bert is expected
    assert read(["--comment", "x", *typed]).use_bert is expected


def test_every_switch_takes_the_originals_values() -> None:
    switches = [field.name for field in fields(Args) if "bool" in str(field.type)]
    assert {"use_bert", "use_gPenalty", "random_grad", "test_only", "VAL_evaluation",
            "skip_missing", "half_gradient"} <= set(switches)  # fmt: skip
    for command in (Args, EvaluateArgs):
        for name in (field.name for field in fields(command) if "bool" in str(field.type)):
            flag = "--" + name.replace("_", "-")
            for typed, value in ((["True"], True), (["False"], False), ([], True)):
                assert spelled_out([f"--{name}", *typed], command) == [f"{flag}={value}"]
    assert spelled_out(["--comment", "True", "--use_bert"], Args) == [
        "--comment", "True", "--use-bert=True",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--dataset", "css4d"], "unknown dataset 'css4d'. Did you mean 'css3d'?"),
        (["--dataset", "fashion200k"], "fashion200k is not built in; give its folder"),
        (["--dataset_path", "/nowhere"], "no folder /nowhere; check --dataset_path"),
        (["--recipe", "slow"], "unknown recipe 'slow'"),
        (["--patch_size", "16"], "--patch_size is 32 in this project, got 16"),
        (["--query_encoder", "two"], "unknown query encoder 'two'"),
        (["--use_bert", "--text_encoder", "gru"], "exclude each other"),
        (["--test_only"], "--test_only needs --model_checkpoint"),
        (["--resume", "/nowhere"], "no checkpoint at /nowhere/last.pt"),
    ],
)
def test_mistakes_are_told_in_a_line(typed: list[str], told: str) -> None:
    assert told in refused("train_composer", *typed)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--model", "trig"], "unknown model 'trig'. Did you mean 'tirg'?"),
        (["--loss", "soft_triplets"], "unknown loss"),
        (["--category_to_train", "dress"], "css3d has no --category_to_train; leave it out"),
        (["--query_look", "4d"], "unknown look"),
        (["--image_encoder", "features"], "without features; run extract_features"),
        (["--batch_size", "5000"], "fewer than a batch of 5000"),
        (["--train_queries", "5000"], "expected train_queries between 1 and"),
        (["--use_bert", "--tokenizer", "no-such"], "no-such"),
        (["--VAL_evaluation"], "css3d has no VAL gallery"),
        (["--random_grad", "--random_grad_mode", "noisy"], "Did you mean 'noise'?"),
    ],
)
def test_mistakes_about_the_data(typed: list[str], told: str, css: Path, tmp_path: Path) -> None:
    arguments = ["--dataset_path", css, *SMALL, "--log_dir", tmp_path, *typed]
    assert told in refused("train_composer", *arguments)


# training


def test_a_run_leaves_all_it_promises(trained: Path, css: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\dfirst", trained.name)
    names = {path.name for path in trained.iterdir()}
    assert {"best.pt", "last.pt", "metrics.json", "evaluation.json"} <= names
    told = EventAccumulator(str(trained)).Reload().Tags()["scalars"]
    assert {"train/loss", "train/learning_rate", "validation/score"} <= set(told)
    content = load_training(trained / "best.pt")
    assert content["arguments"]["dataset_path"] == str(css)
    assert content["arguments"]["recipe"] == "fast"
    (numbers,) = json.loads((trained / "metrics.json").read_text())
    assert numbers["score"] == numbers["target/R@1"]
    assert json.loads((trained / "evaluation.json").read_text())["report"]["rows"][0]["images"]


def test_validation_never_sees_the_test_split(
    css: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another test split changes nothing of what is trained or chosen."""
    root = tmp_path / "css"
    shutil.copytree(css, root)
    arguments = ["--dataset_path", root, *SMALL, "--log_dir"]
    do("train_composer", *arguments, tmp_path / "a")
    for path in (root / "images").glob("css_test_*.png"):
        shutil.copy(root / "images" / "css_train_000000.png", path)
    for path in (root / "pictures").rglob("*"):
        if path.is_file():
            path.unlink()
    do("train_composer", *arguments, tmp_path / "b")
    one, other = (load_training(next((tmp_path / name).iterdir()) / "best.pt") for name in "ab")
    for name, weight in one["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name
    reports = [json.loads((next((tmp_path / name).iterdir()) / "evaluation.json").read_text())
               for name in "ab"]  # fmt: skip
    assert reports[0]["report"]["rows"] != reports[1]["report"]["rows"]


def test_resuming(css: Path, tmp_path: Path) -> None:
    """Stopped after an epoch and taken up again: the same bits as without a stop."""
    arguments = ["--dataset_path", css, *SMALL, "--schedule", "constant"]
    do("train_composer", *arguments, "--epochs", 2, "--log_dir", tmp_path / "whole")
    do("train_composer", *arguments, "--epochs", 1, "--log_dir", tmp_path / "part")
    (whole,), (part,) = ((tmp_path / name).iterdir() for name in ("whole", "part"))
    assert "trained with --batch_size 8, got 4" in refused(
        "train_composer", "--resume", part, "--batch_size", 4
    )
    do("train_composer", "--resume", part, "--epochs", 2)
    one, other = load_training(whole / "last.pt"), load_training(part / "last.pt")
    assert one["progress"]["step"] == other["progress"]["step"]
    for name, weight in one["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name
    assert [numbers["epoch"] for numbers in other["progress"]["history"]] == [1, 2]


def test_flat_queries_to_a_3d_gallery(css: Path, tmp_path: Path) -> None:
    """The query side reads flat pictures, the gallery side 3D ones, with one encoder or two."""
    mixed = ["--dataset_path", css, *SMALL, "--query_look", "2d"]
    flat, solid = (COMPOSED[name](css, "test") for name in ("css2d", "css3d"))
    both = COMPOSED["css3d"](css, "test", query_look="2d")
    for encoder in ("shared", "separate"):
        do("train_composer", *mixed, "--query_encoder", encoder, "--log_dir", tmp_path / encoder)
        (folder,) = (tmp_path / encoder).iterdir()
        model = rebuild(load_training(folder / "best.pt"))
        assert isinstance(model, TwoEncoders) == (encoder == "separate")
        np.testing.assert_array_equal(encode_queries(model, both), encode_queries(model, flat))
        np.testing.assert_array_equal(encode_gallery(model, both), encode_gallery(model, solid))
        assert not np.array_equal(encode_queries(model, both), encode_queries(model, solid))
        do("evaluate_composer", "--checkpoint", folder)
        report = json.loads((folder / "css3d-test.json").read_text())["report"]
        ended = json.loads((folder / "evaluation.json").read_text())["report"]
        assert report["rows"] == ended["rows"]


def test_two_encoders_learn_apart() -> None:
    from retrieval.models import ModelSpec
    from retrieval.two_encoders import build

    torch.manual_seed(0)
    spec = ModelSpec("tirg", 8, "small-cnn", words=("red",))
    model = build(spec, separate=True)
    groups = model.parameter_groups(0.1, 0.5)
    by_id = {id(one): group["lr"] for group in groups for one in group["params"]}
    assert len(by_id) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        is_backbone = "_encoder." in name and ".output" not in name and "text" not in name
        assert by_id[id(parameter)] == (0.05 if is_backbone else 0.1), name
    images, ids = torch.rand(4, 3, 64, 64), model.token_ids(["red"] * 4)
    sum(model.losses(images, ids, images.flip(0), lambda q, t: -(q * t).mean()).values()).backward()
    for encoder in (model.query_encoder, model.image_encoder):
        assert all(one.grad is not None and one.grad.abs().sum() for one in encoder.parameters())
    with pytest.raises(ValueError, match="has one image encoder"):
        build(ModelSpec("comqueryformer", 8, "small-cnn", text_encoder="transformer",
                        words=("red",), width=8, layers=1), separate=True)  # fmt: skip


def test_pretrained_weights_that_cannot_be_had(
    css: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and the checkpoint tells how the encoder began; asked for, it is an error."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torchvision().models._api, "load_state_dict_from_url", unreachable)
    arguments = ["--dataset_path", css, *SMALL, "--image_encoder", "resnet18", "--num_iters", 1,
                 "--log_dir", tmp_path]  # fmt: skip
    told = do("train_composer", *arguments).err
    assert "ImageNet weights of resnet18 cannot be had, so it starts from random" in told
    content = load_training(next(tmp_path.iterdir()) / "best.pt")
    assert content["arguments"]["weights"] == content["spec"]["weights"] == "none"
    assert "IMAGENET1K_V1" in refused("train_composer", *arguments, "--weights", "IMAGENET1K_V1")


@pytest.mark.parametrize("model", ["imgonly", "tirg_lastconv", "composeAE"])
def test_every_augmentation_on_real_models(model: str, css: Path, tmp_path: Path) -> None:
    arguments = ["--dataset_path", css, *SMALL, "--model", model, "--use_gPenalty",
                 "--random_grad", "True", "--random_grad_mode", "noise", "--loss", "soft_triplet",
                 "--num_iters", 3, "--log_every", 1, "--log_dir", tmp_path]  # fmt: skip
    do("train_composer", *arguments)
    told = EventAccumulator(str(next(tmp_path.iterdir()))).Reload()
    assert told.Scalars("train/adversarial")[0].value > 0
    assert told.Scalars("train/isotropic")


# other data sets


def picture(path: Path, rng: np.random.Generator) -> None:
    """A small random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)


def test_queries_that_are_drawn_not_listed(tmp_path: Path) -> None:
    """MIT-States trains by its rule, without validation; WHM draws its training queries."""
    root, rng = tmp_path / "mit", np.random.default_rng(0)
    for noun in ("bowl", "castle", "car"):  # castle is among the test nouns
        for adjective in ("old", "new", "red"):
            for number in range(3):
                picture(root / "images" / f"{adjective} {noun}" / f"{number}.jpg", rng)
    data = ["--dataset", "mitstates", "--dataset_path", root, "--image_size", 64]
    do("train_composer", *data, *SMALL, "--log_dir", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert load_training(folder / "best.pt")["progress"]["step"] == 18 // 8
    assert "score" not in json.loads((folder / "metrics.json").read_text())[0]
    told = do("evaluate_composer", "--checkpoint", folder, "--whm").out
    assert "adjective" in told
    assert "random sample of 10000" in told
    assert "mitstates has none" in refused("train_composer", *data, *SMALL, "--patience", 1)


def test_cirr_and_its_submission(tmp_path: Path) -> None:
    """Validated on the published val split; hidden targets give the server's two files."""
    root, rng = tmp_path / "cirr", np.random.default_rng(0)
    for part in ("train", "val", "test1"):
        names = [f"{part}-{number}" for number in range(12)]
        for name in names:
            picture(root / part / f"{name}.png", rng)
        rows = []
        for pair in range(10):
            row = {"pairid": pair, "reference": names[pair], "caption": "make it red"}
            row["img_set"] = {"id": 0, "members": names[pair % 6 : pair % 6 + 6]}
            members = row["img_set"]["members"]
            row["reference"] = members[0]
            rows.append(row if part == "test1" else {**row, "target_hard": members[1 + pair % 5]})
        for folder, name, content in (
            ("captions", f"cap.rc2.{part}.json", rows),
            ("image_splits", f"split.rc2.{part}.json", {n: f"{part}/{n}.png" for n in names}),
        ):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name).write_text(json.dumps(content))
    data = ["--dataset", "cirr", "--dataset_path", root, "--image_size", 64]
    do("train_composer", *data, *SMALL, "--log_dir", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    report = json.loads((folder / "evaluation.json").read_text())["report"]
    assert (report["split"], report["score_name"]) == ("val", "(R@5 + Rs@1) / 2")
    (numbers,) = json.loads((folder / "metrics.json").read_text())
    assert numbers["score"] == pytest.approx(report["score"])
    told = do("evaluate_composer", "--checkpoint", folder, "--split", "test").out
    assert "targets are hidden" in told
    found = json.loads((folder / "cirr_recall_subset.json").read_text())
    assert found["metric"] == "recall_subset"
    assert len(found["3"]) == 3
    assert (folder / "cirr_recall.json").is_file()


# evaluation


def test_evaluate_composer_tells_the_protocol(trained: Path, css: Path, tmp_path: Path) -> None:
    told = do("evaluate_composer", "--checkpoint", trained / "best.pt", "--out", tmp_path).out
    assert "css3d test, protocol tirg" in told
    for column in ("R@1", "R@5", "R@10", "R@50", "R@100"):
        assert column in told
    found = json.loads((tmp_path / "css3d-test.json").read_text())
    assert found["trained"]["comment"] == "first"
    assert found["report"]["rows"][0]["reference"] == "left out"

    # the figures by loops
    split = COMPOSED["css3d"](css, "test")
    model = rebuild(load_training(trained / "best.pt"))
    queries, gallery = encode_queries(model, split), encode_gallery(model, split)
    hits = {1: 0, 5: 0}
    for query, vector in zip(split.queries, queries, strict=True):
        scores = [(-float(vector @ gallery[row]), row) for row in range(len(gallery))
                  if row != query.reference]  # fmt: skip
        best = [row for _, row in sorted(scores)]
        for k in hits:
            hits[k] += split.labels[query.target] in [split.labels[row] for row in best[:k]]
    for k, count in hits.items():
        recall = found["report"]["rows"][0]["recall"][f"R@{k}"]
        assert recall == pytest.approx(count / len(split.queries))


def test_another_data_set_forgets_the_options_of_the_first(trained: Path, css: Path) -> None:
    told = do("evaluate_composer", "--checkpoint", trained, "--dataset", "css2d",
              "--dataset_path", css).out  # fmt: skip
    assert "css2d test, protocol tirg" in told
    assert "shoes is not built in" in refused(
        "evaluate_composer", "--checkpoint", trained, "--dataset", "shoes"
    )


def test_whm_stands_next_to_its_figures(trained: Path, tmp_path: Path) -> None:
    told = do("evaluate_composer", "--checkpoint", trained, "--whm", "--whm_weights", 1, 2,
              "--out", tmp_path).out  # fmt: skip
    assert "reconstruction" in told
    found = json.loads((tmp_path / "css3d-test.json").read_text())
    assert found["training"]["split"] == "train"
    for row in found["whm"]["rows"]:
        values = row["train"], row["test"]
        expected = 3 / (1 / values[0] + 2 / values[1]) if min(values) else 0
        assert row["whm"] == pytest.approx(expected)
    assert max(row["whm"] for row in found["whm"]["rows"]) > 0


def test_test_only(trained: Path, css: Path) -> None:
    told = do("train_composer", "--dataset_path", css, "--test_only", "True",
              "--model_checkpoint", trained / "best.pt").out  # fmt: skip
    assert "css3d test, protocol tirg" in told


def test_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("hello")
    assert "not a checkpoint" in refused("evaluate_composer", "--checkpoint", tmp_path / "x.pt")
    assert "no checkpoint at" in refused("evaluate_composer", "--checkpoint", tmp_path)
