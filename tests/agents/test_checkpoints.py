"""Checkpoints: saved equals loaded, and what is not one of ours is refused in one sentence."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.checkpoints import load_checkpoint, make_agent, save_checkpoint
from agents.supervised import Training, pretrain_epoch
from agents.tracker import DialogTracker
from envs.dialog import Dialog
from retrieval.text import Vocabulary

SPECS: list[dict[str, Any]] = [
    {"kind": "tracker"},
    {"kind": "tracker", "composer": "concat", "memory": "none", "text": "lstm", "dim": 24},
    {"kind": "published", "dim": 24},
]


@dataclass(frozen=True)
class Args:
    lr: float = 0.25
    folder: Path = Path("models")
    names: tuple[str, ...] = ("a", "b")
    nothing: None = None


def trained(dialog: Dialog, spec: dict[str, Any]) -> tuple[DialogTracker, torch.optim.Optimizer]:
    torch.manual_seed(3)
    agent = make_agent(spec, dialog.vocabulary, dialog.gallery.features.shape[1])
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)
    list(pretrain_epoch(agent, dialog, optimizer, 0, Training(8, 16, 2, "triplet")))
    return agent, optimizer


@pytest.mark.parametrize("spec", SPECS)
def test_saved_equals_loaded(spec: dict[str, Any], tiny_dialog: Dialog, tmp_path: Path) -> None:
    agent, optimizer = trained(tiny_dialog, spec)
    path = tmp_path / "new" / "sl-7.pt"
    save_checkpoint(path, agent, spec, 7, optimizer, Args())
    loaded = load_checkpoint(path, tiny_dialog.vocabulary)

    assert type(loaded.agent) is type(agent)
    assert not loaded.agent.training
    assert loaded.agent.vocabulary == agent.vocabulary
    weights = loaded.agent.state_dict()
    assert weights.keys() == agent.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in agent.state_dict().items())
    assert (loaded.epoch, loaded.spec) == (7, spec)
    assert loaded.arguments["lr"] == 0.25
    assert loaded.arguments["folder"] == "models"
    assert loaded.arguments["nothing"] is None

    seen = tiny_dialog.observe(
        tiny_dialog.listen(
            tiny_dialog.start(np.arange(4), np.arange(4) + 9), np.random.default_rng(0)
        )
    )
    assert np.array_equal(loaded.agent.predict(seen)[0], agent.predict(seen)[0])

    # The optimiser goes on as the first one would have.
    other = torch.optim.Adam(loaded.agent.parameters(), lr=0.7)
    other.load_state_dict(loaded.optimizer)
    loaded.agent.train()
    how = Training(8, 8, 2, "triplet")
    (one,) = pretrain_epoch(agent, tiny_dialog, optimizer, 1, how)
    (two,) = pretrain_epoch(loaded.agent, tiny_dialog, other, 1, how)
    assert one.loss == two.loss
    assert all(
        torch.equal(a, b)
        for a, b in zip(agent.parameters(), loaded.agent.parameters(), strict=True)
    )


def test_the_file_holds_plain_data(tiny_dialog: Dialog, tmp_path: Path) -> None:
    """torch.load(weights_only=True) reads it, without any of our classes."""
    agent, optimizer = trained(tiny_dialog, SPECS[0])
    save_checkpoint(tmp_path / "a.pt", agent, SPECS[0], 0, optimizer, Args())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["words"] == list(tiny_dialog.vocabulary.words)[3:]
    assert content["feature_dim"] == tiny_dialog.gallery.features.shape[1]
    assert all(isinstance(value, torch.Tensor) for value in content["weights"].values())


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    for name, save in (("zip.pt", torch.save), ("pickle.pt", None)):
        if save is not None:
            save({"weights": Bomb()}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(), protocol=2))
        with pytest.raises(ValueError, match=r"is not a checkpoint that train_sl or train_rl"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_another_vocabulary_is_refused(tiny_dialog: Dialog, tmp_path: Path) -> None:
    agent, optimizer = trained(tiny_dialog, SPECS[0])
    save_checkpoint(tmp_path / "a.pt", agent, SPECS[0], 0, optimizer, Args())
    words = list(tiny_dialog.vocabulary.words)[3:]
    load_checkpoint(tmp_path / "a.pt", Vocabulary(words))
    for other in (words[:-1], [*words[1:], words[0]], [*words, "purple"]):
        with pytest.raises(ValueError, match=r"a\.pt knows another vocabulary \(\d+ words\)"):
            load_checkpoint(tmp_path / "a.pt", Vocabulary(other))


def test_a_missing_or_damaged_file(tiny_dialog: Dialog, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*a\.pt; train one with"):
        load_checkpoint(tmp_path / "a.pt")
    agent, optimizer = trained(tiny_dialog, SPECS[0])
    path = tmp_path / "a.pt"
    save_checkpoint(path, agent, SPECS[0], 0, optimizer, Args())
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": {}}, foreign)
    incomplete = tmp_path / "incomplete.pt"
    content = torch.load(path, weights_only=True)
    del content["weights"]["image.weight"]
    torch.save(content, incomplete)
    content = torch.load(path, weights_only=True)
    del content["optimizer"]
    torch.save(content, tmp_path / "weights-alone.pt")
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("a.pt", "empty.pt", "foreign.pt", "incomplete.pt", "weights-alone.pt"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint that train_sl"):
            load_checkpoint(tmp_path / name)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tiny_dialog: Dialog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, optimizer = trained(tiny_dialog, SPECS[0])
    path = tmp_path / "a.pt"
    save_checkpoint(path, agent, SPECS[0], 0, optimizer, Args())
    whole = path.read_bytes()
    save = torch.save

    def half(content: Any, file: Path) -> None:
        save(content, file)
        file.write_bytes(file.read_bytes()[:1000])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, agent, SPECS[0], 1, optimizer, Args())
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_kind(tiny_dialog: Dialog) -> None:
    with pytest.raises(ValueError, match=r"unknown agent 'traker'\. Did you mean 'tracker'\?"):
        make_agent({"kind": "traker"}, tiny_dialog.vocabulary, 8)
