"""`make_ordering`, `train_pairwise`, `answer_ordering`, `prepare_makeup`, `results_ordering`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.ordering import as_published, read_questions
from retrieval.rendering.build import BuildSpec, build
from scripts import (
    answer_ordering,
    make_ordering,
    results_ordering,
    train_composer,
    train_pairwise,
)
from scripts.results_ordering import LINES, Args
from tests.clips import write_clip, write_steps
from tests.command_line import do, refused

SMALL = ["--recipe", "fast", "--embed_dim", 16, "--batch_size", 8, "--epochs", 1]


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is made in the user's own cache, and errors are told as to users."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        yield


@pytest.fixture(scope="module")
def css(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "css"
    build(root, BuildSpec(train=(10, 3), test=(4, 3), train_captions=20, test_pairs=4), workers=1)
    return root


@pytest.fixture(scope="module")
def composer(css: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("runs")
    do("train_composer", "--dataset=css3d", f"--dataset_path={css}", "--comment=x", *SMALL,
       "--validation_share", 0.2, "--log_dir", log)  # fmt: skip
    (folder,) = log.iterdir()
    return folder


@pytest.fixture(scope="module")
def questions(css: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("questions")
    told = do("make_ordering", "--out", out, "--dataset_path", css, "--questions", 6, "--growing")
    assert f"6 questions in {out}" in told.out
    return out


def test_a_pairwise_model_and_a_composer_answer_css_questions(
    css: Path, composer: Path, questions: Path, tmp_path: Path
) -> None:
    model = tmp_path / "pairwise.pt"
    trained = ["--dataset", "css3d", "--dataset_path", css, "--sequences", 6, "--epochs", 1,
               "--out", model]  # fmt: skip
    told = do("train_pairwise", *trained, "--growing")
    assert "of training pairs told right" in told.out
    written = model.stat().st_mtime_ns
    assert do("train_pairwise", *trained, "--growing").out == told.out
    assert model.stat().st_mtime_ns == written
    methods = ["pairwise", "greedy", "exact", "candidates"]
    told = do("answer_ordering", "--checkpoint", composer, "--mod_data_path", "./", "--split",
              "test", "--first", model, "--dataset_path", questions, "--methods", *methods,
              "--out", tmp_path)  # fmt: skip
    asked, _ = read_questions(questions, "test")
    for method in methods:
        given = json.loads((tmp_path / f"{method}_test_answer.json").read_text())
        assert list(given) == [str(question.number) for question in asked]
        right = 0
        for question in asked:
            listed = [as_published(order) for order in question.candidates]
            assert given[str(question.number)] in listed
            right += given[str(question.number)] == as_published(question.truth or ())
        (line,) = (it for it in told.out.splitlines() if f"{method}_test_answer" in it)
        assert f": {100 * right / 6:.1f} % right of 6" in line

    # the first images as a file of numbers from 1 give the same chains
    firsts = np.load(tmp_path / "first_test.npy")
    assert firsts.shape == (6,) and set(firsts) <= {1, 2, 3, 4, 5}
    do("answer_ordering", "--checkpoint", composer / "best.pt", "--dataset_path", questions,
       "--first", tmp_path / "first_test.npy", "--out", tmp_path / "again")  # fmt: skip
    same = "greedy_test_answer.json"
    assert (tmp_path / "again" / same).read_text() == (tmp_path / same).read_text()


def test_the_true_first_image_and_mistakes(
    css: Path, composer: Path, questions: Path, tmp_path: Path
) -> None:
    shared = ("answer_ordering", "--dataset_path", questions, "--out", tmp_path)
    do(*shared, "--checkpoint", composer, "--first", "truth", "--methods", "exact-first")
    answers = json.loads((tmp_path / "exact-first_test_answer.json").read_text())
    asked, _ = read_questions(questions, "test")
    assert len(answers) == len(asked) == 6
    composed = (*shared, "--checkpoint", composer)
    cases = [
        (shared, ["--first", "truth"], "needs a composer: give --checkpoint"),
        (composed, [], "needs a first image for each question: give --first"),
        (composed, ["--methods", "gredy"], "Did you mean 'greedy'"),
        (composed, ["--first", "random"], "expected --first to be a .pt, a .npy or truth"),
        (composed, ["--first", tmp_path / "x.npy"], "no first images at"),
        (composed, ["--split", "valid", "--first", "truth"], "image_ordering_validation.json"),
        (("answer_ordering", "--methods", "pairwise"), [], "give it as --dataset_path"),
        (composed, ["--first", composer / "best.pt"], "not a model that train_pairwise saved"),
    ]
    for command, more, message in cases:
        assert message in refused(*command, *more, at_once=False)
    np.save(tmp_path / "first.npy", np.array([1, 2, 6, 1, 1, 1]))
    told = refused(*composed, "--first", tmp_path / "first.npy")
    assert "expected a number from 1 to 5 for each of 6 questions" in told
    assert "Did you mean 'fast'" in refused("train_pairwise", "--recipe", "fas")
    told = refused("train_pairwise", "--dataset", "css2d")
    assert "unknown dataset with an order of time" in told


# ---- make-up

VIDEOS = {"abc": [(2 * at, 2 * at + 2) for at in range(7)], "d-e": [(0, 3), (3, 6)]}


@pytest.fixture(scope="module")
def makeup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations and clips in the published layout; one video is missing, one is broken."""
    root = tmp_path_factory.mktemp("makeup")
    for part in ("train", "valid"):
        write_steps(root, part, {**VIDEOS, "gone": [(0, 4)], "broken": [(0, 4)]})
        for video, bounds in VIDEOS.items():
            path = root / part / "videos" / f"{part} title-{video}.mp4"
            write_clip(path, bounds[-1][1] * 5 + 1, rate=5)
        (root / part / "videos/broken.mp4").write_bytes(b"no video")
    return root


def test_make_up_from_videos_to_recalls_and_answers(makeup: Path, tmp_path: Path) -> None:
    told = do("prepare_makeup", "--dataset_path", makeup, "--seed", 3)
    for split in ("train", "test"):
        assert f"{split}: 2 videos, {4 * 7 + 1} modifications" in told.out
        assert f"left out of {split}: 1 of 4 videos missing" in told.err
        assert f"left out of {split}: 1 videos unreadable" in told.err
    before = (makeup / "mod_data.json").read_text()
    do("prepare_makeup", "--dataset_path", makeup, "--seed", 3)
    assert (makeup / "mod_data.json").read_text() == before
    do("prepare_makeup", "--dataset_path", makeup, "--seed", 4, "--out", tmp_path / "other")
    assert (tmp_path / "other/mod_data.json").read_text() != before

    # the published flags, small
    do("train_composer", "--dataset", "youmakeup", "--dataset_path", makeup, "--model", "concat",
       "--loss", "batch_based_classification", "--loader_num_workers", 0, "--comment", "makeup",
       "--mod_data_path", makeup, "--image_size", 32, "--image_encoder", "small-cnn",
       "--embed_dim", 16, "--num_iters", 3, "--batch_size", 8, "--log_dir", tmp_path / "runs",
    )  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    report = json.loads((folder / "evaluation.json").read_text())["report"]
    assert list(report["rows"][0]["recall"]) == ["R@1", "R@2", "R@3", "R@5"]
    assert "1 of 2 videos have five distinct targets and count" in report["notes"]
    evaluated = do("evaluate_composer", "--checkpoint", folder, "--mod_data_path", makeup)
    assert "R@5" in evaluated.out

    # questions about the same pictures
    place = makeup / "task/image_ordering/valid"
    for number, file in enumerate(sorted((makeup / "val_images").glob("abc_*/abc_*0.jpg"))[:5]):
        (place / "images/1").mkdir(parents=True, exist_ok=True)
        (place / f"images/1/{number}.jpg").write_bytes(file.read_bytes())
    line = {"question_id": 1, "video_id": "abc", "step_caption": ["a", "b", "c", "d", "e", "f"],
            "candidate_answer": [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]}  # fmt: skip
    (place / "image_ordering_validation.json").write_text(json.dumps(line))
    do("train_pairwise", "--dataset", "youmakeup", "--dataset_path", makeup, "--mod_data_path",
       makeup, "--recipe", "fast", "--epochs", 1, "--image_size", 32, "--out", tmp_path / "p.pt",
    )  # fmt: skip
    told = do("answer_ordering", "--checkpoint", folder, "--split", "valid", "--first",
              tmp_path / "p.pt", "--out", tmp_path)  # fmt: skip
    (given,) = json.loads((tmp_path / "greedy_valid_answer.json").read_text()).values()
    assert given in line["candidate_answer"]
    assert "right" not in told.out  # the truth is not known


def test_features_of_make_up_train_a_composer(
    makeup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.encoders.image import SceneCNN

    monkeypatch.setattr(
        "retrieval.encoders.training.make_encoder", lambda name, weights: SceneCNN().eval()
    )
    told = do("prepare_makeup", "--dataset_path", makeup, "--features", "resnet18")
    assert "--image_encoder features --features resnet18" in told.out
    do("train_composer", "--dataset", "youmakeup", "--dataset_path", makeup, "--mod_data_path",
       makeup, *SMALL, "--image_encoder", "features", "--features", "resnet18",
       "--log_dir", tmp_path)  # fmt: skip
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "evaluation.json").read_text())["report"]["rows"]


def test_make_up_without_videos_is_refused(makeup: Path, tmp_path: Path) -> None:
    told = refused("prepare_makeup", "--dataset_path", tmp_path)
    assert "train_steps.json" in told
    told = refused("prepare_makeup", "--dataset_path", makeup, "--videos", tmp_path / "none")
    assert "expected a folder of videos" in told
    empty = tmp_path / "empty"
    empty.mkdir()
    told = refused("prepare_makeup", "--dataset_path", makeup, "--videos", empty, "--out",
                   tmp_path / "out", at_once=False)  # fmt: skip
    assert "none of the videos of train, test could be read" in told


def test_the_published_recipe_of_make_up() -> None:
    args = train_composer.read(["--dataset", "youmakeup", "--model", "concat"])
    expected = {"loss": "batch_based_classification", "batch_size": 32, "learning_rate": 0.01,
                "learning_rate_decay_frequency": 120_000, "num_iters": 400_000,
                "weight_decay": 1e-6, "optimizer": "sgd", "embed_dim": 512,
                "text_encoder": "lstm", "image_encoder": "resnet18"}  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected
    assert train_composer.training_of(args).backbone_factor is None  # a tenth, the model's own
    assert train_composer.read(["--dataset", "youmakeup", "--recipe", "tirg"]).num_iters == 210_000


# ---- the figures


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be run."""
    commands: list[str] = []
    monkeypatch.setattr(results_ordering, "call", commands.append)
    return commands


def test_every_command_of_the_figures_is_valid(called: list[str], tmp_path: Path) -> None:
    import tyro

    for line in LINES:
        results_ordering.ask(line, Args(out=tmp_path), Path("best.pt"), "--dataset_path data ")
    assert len(called) == 4 * len(LINES)
    for command in called:
        name, *typed = shlex.split(command)
        if name == "answer_ordering":
            args = tyro.cli(answer_ordering.Args, args=typed)
            assert args.first in ("truth", *(str(tmp_path / f"pairwise-{it}.pt")
                                             for it in ("any", "growing")))  # fmt: skip
        elif name == "make_ordering":
            assert make_ordering.read(typed).questions == 1000
        else:
            assert name == "train_pairwise" and train_pairwise.read(typed).dataset == "css3d"


def test_what_is_there_is_not_answered_again(called: list[str], tmp_path: Path) -> None:
    answers = tmp_path / "answers-any"
    (answers / "true").mkdir(parents=True)
    for method in (*results_ordering.PAIRWISE, *results_ordering.ALONE):
        (answers / f"{method}_test_answer.json").touch()
    (answers / "true/greedy_test_answer.json").touch()
    results_ordering.ask(LINES[0], Args(out=tmp_path), Path("best.pt"), "")
    # which see for themselves that they are done
    assert [shlex.split(command)[0] for command in called] == ["make_ordering", "train_pairwise"]


def test_the_table_by_hand(css: Path, tmp_path: Path) -> None:
    line = LINES[0]
    do("make_ordering", "--out", tmp_path / f"questions-{line.name}", "--dataset_path", css,
       "--questions", 4)  # fmt: skip
    asked, _ = read_questions(tmp_path / f"questions-{line.name}", "test")
    answers = tmp_path / f"answers-{line.name}"
    (answers / "true").mkdir(parents=True)

    def write(name: str, right: int) -> None:
        """The first so many are right."""
        given = {
            str(question.number): as_published(
                question.truth or ()
                if at < right
                else next(order for order in question.candidates if order != question.truth)
            )
            for at, question in enumerate(asked)
        }
        (answers / f"{name}_test_answer.json").write_text(json.dumps(given))

    for name in (*results_ordering.PAIRWISE, *results_ordering.ALONE):
        write(name, {"exact": 3, "greedy": 1}.get(name, 2))
    write("true/greedy", 2)
    write("true/exact-first", 4)
    firsts = [question.truth[0] + 1 for question in asked if question.truth]
    np.save(answers / "first_test.npy", np.array([firsts[0], *(it % 5 + 1 for it in firsts[1:])]))
    rows = {}
    for row in results_ordering.table([line], tmp_path).splitlines()[2:]:
        what, cell = row.strip("| ").split(" | ")
        rows[what] = cell
    assert rows["chance"] == "25"
    assert rows["first image by the pairwise model (chance 20)"].startswith("25.0 [")
    assert rows["exact search over all orders"] == "75.0 [30.1, 95.4]"  # Wilson, by hand
    # differences 0, 1, 1, 0: mean 0.5, deviation sqrt(1/3), over 4 questions
    assert rows["gain of exact search over all orders"] == "+50.0 [-6.6, +106.6]"
    assert rows["gain of exact search from the true first image"].startswith("+50.0 [")


def test_the_newest_composer_is_taken(called: list[str], tmp_path: Path, composer: Path) -> None:
    for time in ("2026-01-02_10-00-00", "2026-01-03_09-00-00"):
        folder = tmp_path / f"{time}tirg-3d-seed0"
        folder.mkdir()
        (folder / "evaluation.json").touch()
    (tmp_path / "2026-01-04_09-00-00tirg-3d-seed0").mkdir()  # not finished
    assert results_ordering.newest(tmp_path) == tmp_path / "2026-01-03_09-00-00tirg-3d-seed0"
    path, data = results_ordering.composer_of(Args(checkpoint=composer))
    assert path == composer / "best.pt" and data.startswith("--dataset_path ")
    assert not called
    told = refused("results_ordering", "--only", "grown")
    assert "unknown kind of questions 'grown'" in told
