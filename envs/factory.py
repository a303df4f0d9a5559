"""Where gallery, index and user meet, by name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.dialog import Dialog
from envs.single import DialogRetrievalEnv
from envs.vector import DialogRetrievalVectorEnv
from retrieval.catalog.gallery import CatalogGallery
from retrieval.catalog.preparation import prepare_apart as prepare_catalogue
from retrieval.catalog.roles import Roles
from retrieval.datasets import catalog, css
from retrieval.errors import unknown
from retrieval.gallery import Gallery, Triplet
from retrieval.index import ExactIndex
from retrieval.preparation import default_root, prepare_apart
from retrieval.text import Vocabulary
from user_simulator import USERS, AttributeUser, NoisyUser, StrikingUser, User

SPLITS = ("train", "test")
DATA_SETS = ("css", "catalog")
SCENE_CNN = "scene-cnn"  # CSS's own encoder; for a catalogue it stands for the catalogue's own

ATTRIBUTE_USERS: dict[str, type[AttributeUser]] = {
    "attribute": AttributeUser,
    "striking": StrikingUser,
}
"""Users by name who speak from the attributes; the others need a trained captioner."""


@lru_cache(maxsize=8)
def load_gallery(
    root: Path | None = None, look: str = "3d", split: str = "train", encoder: str = "scene-cnn"
) -> tuple[Gallery, list[Triplet]]:
    """A CSS gallery with its triplets; the built-in one is made on first use.

    Raises:
        ValueError: an unknown look or split, or data that is incomplete.
        RuntimeError: the data could not be made.
    """
    if look not in css.LOOKS:
        raise unknown("look", look, css.LOOKS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    root = Path(root or default_root()).expanduser().absolute()
    prepare_apart(root, look, encoder)
    return css.load(root, split, look, encoder)


@lru_cache(maxsize=8)
def load_vocabulary(
    root: Path | None = None, look: str = "3d", encoder: str = "scene-cnn"
) -> Vocabulary:
    """The words of the train split's captions."""
    triplets = load_gallery(root, look, "train", encoder)[1]
    return Vocabulary.build(triplet.caption for triplet in triplets)


@lru_cache(maxsize=8)
def load_products(
    root: Path, split: str = "train", encoder: str = SCENE_CNN, roles: Roles | None = None
) -> tuple[CatalogGallery, list[Triplet]]:
    """A catalogue's gallery with its relative captions; features are extracted on first use.

    Raises:
        FileNotFoundError, ValueError: see `retrieval.datasets.catalog.load`.
        RuntimeError: the features could not be extracted.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    encoder = products_encoder(encoder)
    root = Path(root).expanduser().absolute()
    prepare_catalogue(root, encoder, roles or Roles())
    return catalog.load(root, split, encoder, roles)


@lru_cache(maxsize=8)
def load_products_vocabulary(
    root: Path, encoder: str = SCENE_CNN, roles: Roles | None = None
) -> Vocabulary:
    """The words of the train split's captions of a catalogue."""
    triplets = load_products(root, "train", encoder, roles)[1]
    return Vocabulary.build(triplet.caption for triplet in triplets)


def products_encoder(encoder: str) -> str:
    """The encoder of a catalogue: its own default where CSS's own is named."""
    return catalog.default_encoder() if encoder == SCENE_CNN else encoder


def products_captioner_path(root: Path, encoder: str = SCENE_CNN) -> Path:
    """Where `train_captioner` keeps the captioner of a catalogue unless told otherwise."""
    return catalog.workspace(root) / "captioners" / f"{products_encoder(encoder)}.pt"


def captioner_path(root: Path | None = None, look: str = "3d", encoder: str = "scene-cnn") -> Path:
    """Where `train_captioner` keeps the captioner of a data set unless told otherwise."""
    root = Path(root or default_root()).expanduser().absolute()
    return root / "captioners" / f"{look}-{encoder}.pt"


def make_user(
    gallery: Gallery,
    user: str = "attribute",
    captioner: Path | None = None,
    noise: float = 0.0,
    temperature: float = 0.0,
    device: str = "cpu",
) -> User:
    """A user by name, who misspeaks with probability `noise`; the neural one speaks on a device.

    Raises:
        ValueError: an unknown user, a captioner of other features, or no such device.
        FileNotFoundError: the captioner was not trained yet.
    """
    if user not in USERS:
        raise unknown("user", user, USERS)
    speaker: User
    if user in ATTRIBUTE_USERS:
        speaker = ATTRIBUTE_USERS[user](gallery)
    else:
        from retrieval.devices import device_of
        from user_simulator.captioner import NeuralUser, RelativeCaptioner

        assert captioner is not None
        model = RelativeCaptioner.load(captioner)
        speaker = NeuralUser(model, gallery, temperature, device_of(device))
    return NoisyUser(speaker, noise, len(gallery)) if noise else speaker


@lru_cache(maxsize=16)
def make_dialog(
    look: str = "3d",
    split: str = "train",
    user: str = "attribute",
    captioner: Path | None = None,
    noise: float = 0.0,
    temperature: float = 0.0,
    encoder: str = "scene-cnn",
    root: Path | None = None,
    max_turns: int = 5,
    dataset: str = "css",
    id_column: str | None = None,
    attributes: str | tuple[str, ...] | None = None,
    title: str | None = None,
    table: str | None = None,
    slate: int = 1,
    slate_by: str = "greedy",
    never_repeat: bool = False,
    patience: int | None = None,
    device: str = "cpu",
) -> Dialog:
    """The rules of a dialog, with everything they need; equal calls share one object.

    Args:
        look: "3d" or "2d" pictures.
        split: "train" or "test"; they share no scene.
        user: "attribute" (true differences, NumPy only), "striking" (likewise, but always the most
            striking one) or "neural" (a trained captioner).
        captioner: checkpoint of the neural user; by default `captioner_path`.
        noise: probability that a caption is about a wrong image.
        temperature: of the neural user's words; 0 says the likeliest.
        encoder: whose features: "scene-cnn", "scene" (one-hot scenes) or one that
            `extract_features` was run with.
        root: a CSS folder (by default the built-in data, made on first use), or a catalogue's.
        max_turns: T.
        dataset: "css", or "catalog": one's own product photos with a table in `root`.
        id_column, attributes, title, table: of a catalogue; see `retrieval.catalog.roles.Roles`.
        slate, slate_by, never_repeat, patience: see `Dialog`.
        device: where the neural user speaks, as PyTorch names it.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see `load_gallery`, `load_products`,
            `make_user` and `Dialog`.
    """
    if dataset not in DATA_SETS:
        raise unknown("data set of dialogs", dataset, DATA_SETS)
    roles = Roles.of(id_column, attributes, title, table)
    play: dict[str, Any] = {
        "max_turns": max_turns, "slate": slate, "slate_by": slate_by,
        "never_repeat": never_repeat, "patience": patience,
    }  # fmt: skip
    if dataset == "catalog":
        if root is None:
            raise ValueError(
                "dialogs about a catalogue need its folder: pass root=FOLDER (--dataset-path)"
            )
        products, _ = load_products(root, split, encoder, roles)
        path = Path(captioner) if captioner else products_captioner_path(root, encoder)
        speaker = make_user(products, user, path, noise, temperature, device)
        words = load_products_vocabulary(root, encoder, roles)
        return Dialog(products, ExactIndex(products.features), speaker, words, **play)
    if roles != Roles():
        raise ValueError("columns are chosen of a catalogue alone; pass dataset='catalog' too")
    gallery, _ = load_gallery(root, look, split, encoder)
    path = Path(captioner) if captioner else captioner_path(root, look, encoder)
    speaker = make_user(gallery, user, path, noise, temperature, device)
    index = ExactIndex(gallery.features)
    return Dialog(gallery, index, speaker, load_vocabulary(root, look, encoder), **play)


def make_env(
    dialog: Dialog | None = None,
    action: str = "query",
    candidates: int = 16,
    reward: str = "rank_percentile",
    privileged: bool = False,
    render_mode: str | None = None,
    observe_slate: bool = False,
    **options: Any,
) -> DialogRetrievalEnv:
    """The single environment; without `dialog`, `options` are those of `make_dialog`."""
    rules = dialog or make_dialog(**_hashable(options))
    return DialogRetrievalEnv(
        rules, action, candidates, reward, privileged, render_mode, observe_slate
    )


def make_vector_env(
    num_envs: int = 1,
    dialog: Dialog | None = None,
    action: str = "query",
    candidates: int = 16,
    reward: str = "rank_percentile",
    privileged: bool = False,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    observe_slate: bool = False,
    **options: Any,
) -> DialogRetrievalVectorEnv:
    """The native batch environment; arguments as for `make_env`."""
    rules = dialog or make_dialog(**_hashable(options))
    return DialogRetrievalVectorEnv(
        rules, num_envs, action, candidates, reward, privileged, max_episode_steps, render_mode,
        observe_slate,
    )  # fmt: skip


def _hashable(options: dict[str, Any]) -> dict[str, Any]:
    """Options with lists as tuples: equal calls of `make_dialog` share one object."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
