"""The examples run, and do what they say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent
from agents.sb3 import SB3Agent
from envs.factory import make_dialog
from examples import custom_agent, custom_user, gpu_env, own_catalogue, train_ppo, vector_env
from retrieval.datasets import catalog
from tests.command_line import do
from tests.tiny_catalog import make_shop


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made in the user's own cache; a catalogue's small encoder is the default."""
    monkeypatch.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "default_encoder", lambda: "catalog-cnn+color")


def test_the_agent_is_in_the_table_and_learns_what_words_mean(tiny_root: Path) -> None:
    table = custom_agent.main(tiny_root, dialogs=20)
    assert all(name in table for name in ("words", "random", "image-only", "recall@1"))
    scenes = make_dialog(
        root=tiny_root, encoder="scene"
    )  # features that a line can be laid through
    agent = custom_agent.WordArithmetic(scenes, examples=4000)
    target, reference = evaluation_pairs(64, 200, seed=0)
    ranks = run_dialogs(scenes, agent, target, reference).ranks
    assert ranks[:, 5].mean() < 0.8 * ranks[:, 0].mean()


def test_the_agent_of_the_readme_plays(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is written there: it asks for the image on show, so it comes to what `image-only`
    comes to."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [written] = re.findall(r"```python\n# mine\.py\n(.*?)```", readme, re.S)
    assert "--agents mine:make " in readme
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(written)
    do("benchmark", "--agents", "mine:make", "image-only", "--user", "attribute", "--data-path",
       tiny_root, "--pairs", 20, "--bootstrap", 10, "--out", tmp_path / "out")  # fmt: skip
    agents = json.loads((tmp_path / "out/benchmark.json").read_text())["agents"]
    assert agents["mine:make"]["recall@10"] == agents["image-only"]["recall@10"]


def test_the_agent_is_ten_lines() -> None:
    source = Path(custom_agent.__file__).read_text()
    body = re.search(r"class WordArithmetic:.*?\n\n\ndef", source, re.S)
    assert body is not None
    lines = [line for line in body[0].splitlines()[2:-1] if line.strip()]
    assert len(lines) <= 12  # ten and two signatures


def test_the_agent_can_be_named(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_agent, "make_dialog", lambda: make_dialog(root=tiny_root))
    test = make_dialog(root=tiny_root, split="test")
    agent = load_agent("examples.custom_agent:trained", test)
    assert isinstance(agent, custom_agent.WordArithmetic)
    assert np.array_equal(
        agent.meaning, custom_agent.WordArithmetic(make_dialog(root=tiny_root)).meaning
    )


def test_ppo_is_saved_and_plays(tiny_root: Path, tmp_path: Path) -> None:
    path = train_ppo.main(tiny_root, turns=1300, out=tmp_path / "ppo.zip")
    test = make_dialog(root=tiny_root, split="test")
    agent = load_agent(str(path), test)
    assert isinstance(agent, SB3Agent)
    assert agent.model.num_timesteps >= 1300
    target, reference = evaluation_pairs(32, 8, seed=0)
    assert run_dialogs(test, agent, target, reference).ranks.shape == (8, 6)


def test_the_batch_environment(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    percentile = vector_env.main(tiny_root, dialogs=8, turns=10)
    assert 0 <= percentile <= 1
    out = capsys.readouterr().out
    assert re.search(r"the first user says: \w+", out)
    ended = re.search(r"(\d+) dialogs ended", out)
    assert ended is not None
    assert int(ended[1]) >= 16  # each of the 8 ends at least every fifth turn


def test_the_environment_in_tensors(
    tiny_root: Path, tiny_captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_random = gpu_env.main(tiny_root, dialogs=32, turns=12)
    do("train_sl", "--data-path", tiny_root, "--epochs", 1, "--dialogs-per-epoch", 128,
       "--batch-size", 32, "--test-pairs", 0, "--model-folder", tmp_path)  # fmt: skip
    learned = gpu_env.main(tiny_root, tmp_path / "sl-0.pt", dialogs=32, turns=12)
    assert 0 < at_random < learned < 1
    assert re.search(r"on \w+(:\d)?: reward per turn 0\.\d+", capsys.readouterr().out)


def test_the_hasty_user(tiny_root: Path) -> None:
    said = custom_user.main(tiny_root)
    assert len(said) == 6
    dialog = make_dialog(root=tiny_root)
    images = np.arange(40)
    usual = dialog.user.describe(images, images + 1, np.random.default_rng(0))
    hasty = custom_user.HastyUser(dialog.user, share=0.5, words=2)
    short = hasty.describe(images, images + 1, np.random.default_rng(0))
    assert all(whole.startswith(part) for whole, part in zip(usual, short, strict=True))
    cut = sum(whole != part for whole, part in zip(usual, short, strict=True))
    assert 10 < cut < 30
    assert {
        len(part.split()) for whole, part in zip(usual, short, strict=True) if part != whole
    } == {2}


def test_ones_own_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_simulator.quality.CAPTIONS", 100)
    make_shop(tmp_path / "shop", 70)
    for name, *arguments in own_catalogue.steps(tmp_path / "shop", tmp_path / "out", quick=True):
        do(name, *arguments)
    assert (tmp_path / "out" / "benchmark" / "benchmark.json").is_file()
    typed = [step[0] for step in own_catalogue.steps(Path("shop"), Path("out"))]
    assert typed == ["extract_features", "train_sl", "benchmark"]
    assert "out/sl-14.pt" in own_catalogue.steps(Path("shop"), Path("out"))[-1]
