"""Models of Stable-Baselines3 from files that nobody vouches for."""

import base64
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.vec_env import VecEnv

from agents.loading import load_agent
from agents.sb3 import load_sb3, make_dialogs, read_model
from agents.sb3.untrusted import Restricted
from envs.dialog import Dialog
from envs.factory import make_dialog
from tests.sb3_models import method, model_for, tracker_for


@pytest.fixture(scope="module")
def dialog(tiny_root: Path) -> Dialog:
    """Dialogs of 3 turns over the 64 train pictures."""
    return make_dialog(root=tiny_root, max_turns=3)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def spoilt(model: Any, folder: Path, key: str, value: Any) -> Path:
    """The model's zip with one of its pickles replaced."""
    model.save(folder / "good.zip")
    with zipfile.ZipFile(folder / "good.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    data[key] = {":type:": "", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}
    with zipfile.ZipFile(folder / "bad.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, json.dumps(data) if name == "data" else content)
    return folder / "bad.zip"


@pytest.mark.parametrize("key", ["policy_class", "lr_schedule", "something_new"])
def test_a_hostile_pickle_is_not_run(key: str, dialog: Dialog, tmp_path: Path) -> None:
    model = model_for(dialog, method("ppo", "query"))
    trace = tmp_path / "was-here"
    path = spoilt(model, tmp_path, key, Hostile(trace))
    load_sb3(tmp_path / "good.zip", 64)
    with pytest.raises(ValueError, match=r"it asks for (posix|nt)\.mkdir"):
        load_sb3(path, 64)
    assert not trace.exists()


def test_names_are_not_followed_into_classes() -> None:
    """A pickle may name an attribute of an allowed class, which may be anything."""
    dotted = b"\x80\x04\x8c\x0bcollections\x8c\x0edeque.__init__\x93."
    with pytest.raises(pickle.UnpicklingError, match=r"collections\.deque\.__init__"):
        Restricted(io.BytesIO(dotted)).load()


def test_a_model_of_other_words_or_features(
    dialog: Dialog, tiny_root: Path, tmp_path: Path
) -> None:
    model_for(dialog, method("ppo", "query")).save(tmp_path / "model.zip")
    scenes = make_dialog(root=tiny_root, encoder="scene", max_turns=3)
    assert scenes.vocabulary == dialog.vocabulary
    with pytest.raises(ValueError, match="expects features of size 256"):
        load_agent(str(tmp_path / "model.zip"), scenes)
    other = type(dialog.vocabulary)(["blue", "red"])
    dialog_of_others = Dialog(dialog.gallery, dialog.index, dialog.user, other, 3)
    with pytest.raises(ValueError, match="knows another vocabulary"):
        load_agent(str(tmp_path / "model.zip"), dialog_of_others)


def test_it_goes_on_in_the_environment_it_is_given(dialog: Dialog, tmp_path: Path) -> None:
    how = method("ppo", "query")
    model = model_for(dialog, how)
    model.learn(24)
    model.save(tmp_path / "model.zip")
    tracker, _ = tracker_for(dialog)
    env: VecEnv = make_dialogs(dialog, tracker, how)
    again = read_model(tmp_path / "model.zip", env)
    again.learn(24, reset_num_timesteps=False)
    assert again.num_timesteps == 2 * 24
