"""Slates, never repeating, patience and other users by flag."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import do, refused
from user_simulator.captioner import RelativeCaptioner


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is made in the user's own cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        yield


@pytest.fixture(scope="module")
def world(tiny_root: Path) -> list[object]:
    return ["--data-path", tiny_root, "--user", "attribute", "--pairs", 32, "--bootstrap", 20]


def benchmark(folder: Path, *arguments: object) -> dict:  # type: ignore[type-arg]
    do("benchmark", *arguments, "--out", folder)
    return json.loads((folder / "benchmark.json").read_text())  # type: ignore[no-any-return]


def test_the_benchmark_of_slates(world: list[object], tmp_path: Path) -> None:
    agents = ["--agents", "random", "oracle"]
    one = benchmark(tmp_path / "one", *world, *agents)
    rules = ["--slate", 3, "--slate-by", "greedy", "mmr", "medoids"]
    outcome = do("benchmark", *world, *agents, *rules, "--out", tmp_path / "four")
    four = json.loads((tmp_path / "four" / "benchmark.json").read_text())
    names = [f"{agent}-{rule}" for agent in ("random", "oracle") for rule in rules[3:]]
    assert list(four["agents"]) == names
    assert four["protocol"]["slate"] == 3
    assert four["protocol"]["slate_by"] == ["greedy", "mmr", "medoids"]
    assert "slate" not in one["protocol"]
    for content in (one, four):
        for name, metrics in content["agents"].items():
            assert all(len(values) == 6 for values in metrics.values())
            found = metrics["found"]
            assert found[0] == 0 and (np.diff(found) >= 0).all()
            assert metrics["repeats"][0] == 0 and name in content["repeat_share"]
            assert set(content["intervals"][name]) >= {"found"}
        assert any(row["metric"] == "found" for row in content["comparisons"])
    assert four["agents"]["oracle-greedy"]["found"][2] > one["agents"]["oracle"]["found"][2]
    found = [tuple(four["agents"][f"oracle-{rule}"]["found"]) for rule in rules[3:]]
    assert len(set(found)) == 3
    assert "found (higher is better" in outcome.out
    assert "shown again, of all images shown before the target was found: random" in outcome.out
    lines = {limit["label"].split()[0] for limit in four["limits"]}
    assert lines == {"counting", "indistinguishability", "version-space"}
    with (
        Image.open(tmp_path / "four" / "dialog.png") as strip,
        Image.open(tmp_path / "one" / "dialog.png") as small,
    ):
        assert strip.size > small.size


def test_the_benchmark_never_repeats(world: list[object], tmp_path: Path) -> None:
    agents = ["--agents", "image-only", "random"]
    stuck = benchmark(tmp_path / "stuck", *world, *agents)
    moving = benchmark(tmp_path / "moving", *world, *agents, "--never-repeat", "--max-turns", 7)
    assert stuck["repeat_share"]["image-only"] == 1
    assert stuck["agents"]["image-only"]["repeats"] == [0, 1, 1, 1, 1, 1]
    assert moving["repeat_share"] == {"image-only": 0, "random": 0}
    assert moving["protocol"]["never_repeat"] and moving["protocol"]["turns"] == 7
    assert moving["agents"]["image-only"]["found"][7] > 0


def test_the_benchmark_of_impatient_users(world: list[object], tmp_path: Path) -> None:
    agents = ["--agents", "image-only", "oracle"]
    content = benchmark(tmp_path / "out", *world, *agents, "--patience", 2)
    assert content["protocol"]["patience"] == 2
    left = {name: metrics["left"] for name, metrics in content["agents"].items()}
    assert left["image-only"] == [0, 0, 1, 1, 1, 1]
    assert 0 <= left["oracle"][2] <= left["oracle"][5] < 0.8
    patient = benchmark(tmp_path / "patient", *world, *agents)
    assert "left" not in patient["agents"]["oracle"]
    assert patient["agents"]["oracle"]["found"][5] >= content["agents"]["oracle"]["found"][5]
    assert patient["agents"]["image-only"]["mrr"] == content["agents"]["image-only"]["mrr"]


@pytest.mark.parametrize(
    "flags", [["--user", "striking"], ["--env", "dialog/CSS-Striking-v0"]], ids=["flag", "id"]
)
def test_the_benchmark_with_the_striking_user(
    flags: list[str], world: list[object], tmp_path: Path
) -> None:
    content = benchmark(tmp_path, *world, "--agents", "oracle", *flags)
    assert content["protocol"]["user"] == "striking"
    plain = benchmark(tmp_path / "plain", *world, "--agents", "oracle")
    assert content["agents"]["oracle"]["mrr"] != plain["agents"]["oracle"]["mrr"]


def test_the_benchmark_of_agents_that_weigh(
    world: list[object], tiny_captioner: Path, tmp_path: Path
) -> None:
    data = world[:2]
    do("train_sl", *data, "--user", "neural", "--epochs", 1, "--batch-size", 16,
       "--dialogs-per-epoch", 64, "--test-pairs", 0, "--model-folder", tmp_path)  # fmt: skip
    model = tmp_path / "sl-0.pt"
    agents = ["--agents", f"once:{model}", f"bayes:{model}", f"plan-bayes:{model}"]
    small = ["--pairs", 64, "--bootstrap", 20, "--plan-believed", 5]
    neural = [*data, "--user", "neural", *small]
    own = benchmark(tmp_path / "own", *neural, *agents)
    assert own["protocol"]["bayes"] == [64, 0.2, "neural"]
    assert own["protocol"]["plan"] == [4, 5, 1, "neural"]
    once, weighing, ahead = (
        own["agents"][f"{how}-sl-0"]["found"][-1] for how in ("once", "bayes", "plan-bayes")
    )
    assert once < min(weighing, ahead)  # the imagined user is the one who speaks
    less = ["--bayes-pool", 2, "--bayes-slips", 0.9]
    other = benchmark(tmp_path / "other", *neural, *agents[:3], *less, "--noise", 0.3)
    assert other["protocol"]["bayes"] == [2, 0.9, "neural"] and "plan" not in other["protocol"]
    assert other["agents"]["bayes-sl-0"] != own["agents"]["bayes-sl-0"]
    strangers = [*data, "--user", "attribute", *small]
    theirs = benchmark(tmp_path / "theirs", *strangers, *agents[:3], "--plan-user", "neural")
    assert theirs["protocol"]["bayes"] == [64, 0.2, "neural"]
    told = refused("benchmark", *strangers, *agents, "--out", tmp_path / "none")
    assert "got AttributeUser; play with" in told
    told = refused("benchmark", *neural, *agents, "--slate", 2, "--out", tmp_path / "none")
    assert "one image at a time" in told
    told = refused("benchmark", *neural, *agents, "--bayes-slips", 1, "--out", tmp_path / "none")
    assert "a share of slips in [0, 1), got 1" in told


def test_the_benchmark_of_agents_that_plan(world: list[object], tmp_path: Path) -> None:
    world = [*world, "--encoder", "scene"]
    do("train_sl", *world[:4], "--encoder", "scene", "--epochs", 1, "--batch-size", 16,
       "--dialogs-per-epoch", 64, "--test-pairs", 0, "--model-folder", tmp_path)  # fmt: skip
    model = tmp_path / "sl-0.pt"
    agents = ["--agents", model, f"once:{model}", f"plan:{model}"]
    own = benchmark(tmp_path / "own", *world, *agents, "--plan-top-k", 3, "--plan-believed", 5)
    assert list(own["agents"]) == ["sl-0", "once-sl-0", "plan-sl-0"]
    assert own["repeat_share"]["sl-0"] > 0
    assert own["repeat_share"]["once-sl-0"] == own["repeat_share"]["plan-sl-0"] == 0
    assert own["protocol"]["plan"] == [3, 5, 1, "attribute"]
    sizes = ["--plan-top-k", 3, "--plan-believed", 5]
    other = benchmark(tmp_path / "other", *world, *agents, *sizes, "--plan-user", "striking")
    assert other["protocol"]["plan"] == [3, 5, 1, "striking"]
    assert other["agents"]["sl-0"] == own["agents"]["sl-0"]
    assert other["agents"]["plan-sl-0"] != own["agents"]["plan-sl-0"]
    unplanned = ["--agents", model, "noplan:=oracle"]  # a name that only looks like it
    assert "plan" not in benchmark(tmp_path / "none", *world, *unplanned)["protocol"]
    rules = ["--slate", 3, "--slate-by", "greedy", "mmr"]  # whose slates are not left to a rule
    at_hand = ["--env", "dialog/CSS-Striking-v0"]
    told = refused("benchmark", *world, *agents, *at_hand, "--plan-user", "attribute")
    assert "--plan-user attribute does not go with dialog/CSS-Striking-v0" in told
    theirs = benchmark(tmp_path / "striking", *world, *agents, *at_hand)
    assert theirs["protocol"]["plan"] == [4, 12, 1, "striking"]
    four = benchmark(tmp_path / "four", *world, *agents, *rules)
    assert list(four["agents"]) == ["sl-0-greedy", "sl-0-mmr", "once-sl-0", "plan-sl-0"]


def test_environments_bring_their_settings(world: list[object], tmp_path: Path) -> None:
    content = benchmark(
        tmp_path / "a", *world, "--agents", "oracle", "--env", "dialog/CSS-Slate-v0"
    )
    assert content["protocol"]["slate"] == 4
    more = ["--env", "dialog/CSS-NeverRepeat-v0", "--slate", 2]
    both = benchmark(tmp_path / "b", *world, "--agents", "oracle", *more)
    assert both["protocol"]["slate"] == 2 and both["protocol"]["never_repeat"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--slate-by", "mmr"], "--slate-by chooses slates; give --slate 4, say, too"),
        (["--slate", 3, "--slate-by", "mrm"], "unknown rule for slates 'mrm'. Did you mean 'mmr'?"),
        (["--slate", 32], "expected a slate of 1 to 31 images"),
        (["--slate", 7, "--never-repeat"], "need a gallery of more than 35 images, got 32"),
        (["--patience", 0], "expected a patience of at least 1 turn"),
    ],
)
def test_mistakes_are_one_sentence(
    flags: list[object], told: str, world: list[object], tmp_path: Path
) -> None:
    assert told in refused("benchmark", *world, *flags, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_slate_is_drawn(world: list[object], tmp_path: Path) -> None:
    arguments = [*world[:4], "--slate", 3, "--turns", 3, "--out", tmp_path / "strip.png"]
    told = do("draw_dialog", *arguments).out
    assert "(beside css_test_" in told
    assert min(Image.open(tmp_path / "strip.png").size) > 200


def test_half_a_captioner(tiny_root: Path, tmp_path: Path) -> None:
    """Another user for the same data, kept beside the first and not in its place."""
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root, ignore=shutil.ignore_patterns("captioners"))
    small = ["--data-path", root, "--epochs", 1, "--hidden-size", 16]
    do("train_captioner", *small)
    whole = root / "captioners" / "3d-scene-cnn.pt"
    before = whole.read_bytes()
    told = do("train_captioner", *small, "--share", 0.5)
    half = root / "captioners" / "3d-scene-cnn-share0.5.pt"
    assert f"captioner in {half}" in told.out
    assert whole.read_bytes() == before
    weights = [RelativeCaptioner.load(path).state_dict() for path in (whole, half)]
    assert (weights[0]["place"] != weights[1]["place"]).any()
    assert "4/4" in told.err or "2/2" in told.err  # half of the steps: 300 captions in 64s
    assert "expected a share above 0 and at most 1" in refused(
        "train_captioner", *small, "--share", 0, at_once=False
    )
