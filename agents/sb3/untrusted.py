"""Read a model that Stable-Baselines3 saved without running what its pickles could run.

A zip of Stable-Baselines3 holds weights, which are loaded as weights only, and a JSON text in
which whatever JSON cannot say is a pickle, and a pickle can run any code. Here every one of them
is decoded beforehand by an unpickler that knows the few classes such models need and refuses all
others; Stable-Baselines3 is handed the results and has nothing left to unpickle.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

_ALLOWED: dict[str, tuple[str, ...]] = {
    "collections": ("deque", "OrderedDict"),
    "gymnasium.spaces.box": ("Box",),
    "gymnasium.spaces.dict": ("Dict",),
    "gymnasium.spaces.discrete": ("Discrete",),
    "numpy": ("dtype", "ndarray"),
    "numpy.random._pcg64": ("PCG64",),
    "numpy.random._pickle": ("__bit_generator_ctor", "__generator_ctor"),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
    "stable_baselines3.common.buffers": (
        "DictReplayBuffer", "DictRolloutBuffer", "ReplayBuffer", "RolloutBuffer",
    ),
    "stable_baselines3.common.policies": ("ActorCriticPolicy", "MultiInputActorCriticPolicy"),
    "stable_baselines3.common.torch_layers": ("CombinedExtractor", "FlattenExtractor"),
    "stable_baselines3.common.type_aliases": ("TrainFreq", "TrainFrequencyUnit"),
    "stable_baselines3.common.utils": ("ConstantSchedule", "FloatSchedule", "LinearSchedule"),
    "stable_baselines3.dqn.policies": ("DQNPolicy", "MultiInputPolicy"),
    "stable_baselines3.sac.policies": ("MultiInputPolicy", "SACPolicy"),
    "stable_baselines3.td3.policies": ("MultiInputPolicy", "TD3Policy"),
    "sb3_contrib.common.maskable.buffers": (
        "MaskableDictRolloutBuffer", "MaskableRolloutBuffer",
    ),
    "sb3_contrib.common.maskable.policies": ("MaskableMultiInputActorCriticPolicy",),
    "sb3_contrib.common.recurrent.policies": ("RecurrentMultiInputActorCriticPolicy",),
    "torch.nn.modules.activation": ("ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Tanh"),
    "torch.optim.adam": ("Adam",),
    "torch.optim.adamw": ("AdamW",),
    "torch.optim.rmsprop": ("RMSprop",),
    "stable_baselines3.common.sb2_compat.rmsprop_tf_like": ("RMSpropTFLike",),
    "agents.sb3.contrib": ("DialogMaskablePolicy", "DialogRecurrentPolicy"),
    "agents.sb3.policies": ("DialogPolicy", "DialogSACPolicy"),
}  # fmt: skip
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray"] = ("_reconstruct", "scalar")
    _ALLOWED[f"{_core}.numeric"] = ("_frombuffer",)


_MADE_ANEW = ("batch_norm_stats", "batch_norm_stats_target")
"""Tensors of the weights, which SAC and others look up again once these are loaded."""


class Restricted(pickle.Unpickler):
    """Admits what saved models need, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which could run code of its author; if you trust "
                "it, load it in a module of your own and pass that as module:attribute"
            )
        return super().find_class(module, name)


def _decoded(text: str) -> Any:
    return Restricted(io.BytesIO(base64.b64decode(text))).load()


def read_model(path: Path, env: VecEnv | None = None) -> BaseAlgorithm:
    """The model in a zip, whichever algorithm made it.

    Args:
        path: the file.
        env: to go on training in; without, the model can only `predict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such model, or holds anything that could run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no saved model at {path}")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text = json.loads(archive.read("data"))
        objects = {
            key: [] if key in _MADE_ANEW else _decoded(value[":serialized:"])
            for key, value in text.items()
            if isinstance(value, dict) and ":serialized:" in value
        }
        algorithm = algorithm_of({**text, **objects})
        return algorithm.load(io.BytesIO(content), env=env, device="cpu", custom_objects=objects)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a model that Stable-Baselines3 saved ({type(error).__name__}: {error})"
        ) from error


def algorithm_of(data: dict[str, Any]) -> type[BaseAlgorithm]:
    """The class of the algorithm that saved these attributes, told by its policy and its options.

    Raises:
        ValueError: none that is known here.
        ImportError: it is one of sb3-contrib, which is missing.
    """
    import stable_baselines3

    names = [f"{cls.__module__}.{cls.__name__}" for cls in data["policy_class"].__mro__]
    for name in names:
        package, _, _ = name.rpartition(".")
        if package == "sb3_contrib.common.recurrent.policies":
            return contrib("RecurrentPPO")
        if package == "sb3_contrib.common.maskable.policies":
            return contrib("MaskablePPO")
        for algorithm in ("sac", "td3", "dqn"):
            if package == f"stable_baselines3.{algorithm}.policies":
                found: type[BaseAlgorithm] = getattr(stable_baselines3, algorithm.upper())
                return found
        if package == "stable_baselines3.common.policies" and "n_steps" in data:
            return stable_baselines3.PPO if "n_epochs" in data else stable_baselines3.A2C
    raise ValueError(f"the policy {names[0]} is of no known algorithm")


def contrib(name: str) -> type[BaseAlgorithm]:
    """An algorithm of sb3-contrib.

    Raises:
        ImportError: the package is missing.
    """
    try:
        import sb3_contrib
    except ImportError as error:
        raise ImportError(
            f"{name} needs sb3-contrib; pip install 'dialog-retrieval[contrib]'"
        ) from error
    found: type[BaseAlgorithm] = getattr(sb3_contrib, name)
    return found
