"""Dialogs about one's own catalogue: `dialog/Catalog-v0` and its kin."""

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import envs
from agents.baselines import OracleAgent
from agents.evaluation import evaluation_pairs, run_dialogs
from envs.factory import load_products, make_dialog, products_captioner_path
from retrieval.catalog.encoding import extract_catalogue
from retrieval.catalog.gallery import CatalogGallery
from retrieval.datasets import catalog
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex
from tests.tiny_catalog import make_shop
from user_simulator import AttributeUser, NoisyUser, RowDraws
from user_simulator.listening import CatalogListener, SceneListener, listener_of

OWN = "catalog-cnn+color"


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory):
    """Nothing is made in the user's own cache, and subprocesses know."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shop"
    make_shop(root, 70)
    extract_catalogue(catalog.open_catalogue(root), OWN, epochs=1)
    return root


@pytest.fixture(scope="module")
def dialog(shop):
    return make_dialog(dataset="catalog", root=shop, encoder=OWN)


def pairs_of(gallery, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(len(gallery), size=count), rng.integers(len(gallery), size=count)


@pytest.mark.parametrize("name", ["dialog/Catalog-v0", "dialog/Catalog-Noisy-v0"])
def test_catalog_ids_play(name, shop):
    assert name in envs.CATALOG_ENVIRONMENTS and name not in envs.ENVIRONMENTS
    env = gym.make(f"envs:{name}", root=str(shop), encoder=OWN, render_mode="rgb_array")
    dialog = env.unwrapped.dialog
    assert isinstance(dialog.gallery, CatalogGallery)
    assert isinstance(dialog.user, NoisyUser if "Noisy" in name else AttributeUser)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space and info["caption"]
    for turn in range(1, 6):
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert observation["turn"].tolist() == [turn]
        if terminated or truncated:
            break
    assert terminated or turn == 5
    assert env.render().dtype == np.uint8
    vector = gym.make_vec(f"envs:{name}", num_envs=3, root=str(shop), encoder=OWN)
    assert vector.unwrapped.dialog is dialog  # equal arguments share one object


def test_the_single_and_the_batch_environment_agree(shop):
    options = {"root": shop, "encoder": OWN, "split": "test"}
    single = gym.make("envs:dialog/Catalog-v0", **options)
    vector = gym.make_vec("envs:dialog/Catalog-v0", num_envs=1, **options)
    one, other = single.reset(seed=7), vector.reset(seed=[7])
    assert one[1]["caption"] == other[1]["caption"][0]
    action = np.asarray(single.unwrapped.dialog.gallery.features[3])
    one, other = single.step(action), vector.step(action[None])
    assert one[4]["caption"] == other[4]["caption"][0]
    np.testing.assert_array_equal(one[0]["reference"], other[0]["reference"][0])


def test_columns_may_be_chosen_as_list_or_text(shop):
    options = {"root": shop, "encoder": OWN, "title": "name"}
    chosen = gym.make("envs:dialog/Catalog-v0", attributes=["colour", "kind"], **options)
    again = gym.make("envs:dialog/Catalog-v0", attributes="colour,kind", **options)
    columns = [
        one.gallery.spoken.source for one in (chosen.unwrapped.dialog, again.unwrapped.dialog)
    ]
    assert columns == [("colour", "kind")] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "need its folder: pass root=FOLDER"),
        ({"split": "tests"}, "unknown split 'tests'. Did you mean 'test'"),
        ({"user": "neurall"}, "unknown user 'neurall'"),
        ({"dataset": "catalogue"}, "unknown data set of dialogs 'catalogue'. Did you mean"),
        ({"attributes": "color"}, "unknown column 'color'. Did you mean 'colour'"),
        ({"dataset": "css", "title": "name"}, "columns are chosen of a catalogue alone"),
    ],
)
def test_wrong_parts_of_a_catalogues_dialog_are_named(shop, options, message):
    with pytest.raises(ValueError, match=message):
        make_dialog(**{"dataset": "catalog", "root": shop, "encoder": OWN, **options})


def test_a_catalogues_captioner_not_trained_yet_is_named(shop):
    with pytest.raises(FileNotFoundError, match=r"no captioner at .*catalog-cnn\+color.pt"):
        make_dialog(dataset="catalog", root=shop, encoder=OWN, user="neural")
    assert products_captioner_path(shop, OWN).is_relative_to(catalog.workspace(shop))


# ---- who speaks


def test_the_attribute_user_tells_the_truth_of_products(dialog):
    reference, target = pairs_of(dialog.gallery, 300)
    captions = dialog.user.describe(reference, target, np.random.default_rng(0))
    table = dialog.gallery.attributes
    reader = dialog.gallery.spoken.reader
    assert len(set(captions)) > 200
    for caption, shown, meant in zip(captions, reference, target, strict=True):
        assert reader.is_faithful(caption, table[shown], table[meant])


def test_the_user_of_a_catalogue_draws_the_same_whatever_it_says(dialog):
    reference, target = pairs_of(dialog.gallery, 6)
    rows = RowDraws([np.random.default_rng(seed) for seed in range(6)])
    together = dialog.user.describe(reference, target, rows)
    for row in range(6):
        one = np.array([row])
        rng = np.random.default_rng(row)
        assert dialog.user.describe(reference[one], target[one], rng) == [together[row]]
        assert rng.random() == np.random.default_rng(row).random(41)[40]


def test_the_user_of_a_catalogue_pickles(dialog):
    pairs = pairs_of(dialog.gallery, 20)
    for twin in (pickle.loads(pickle.dumps(dialog.user)), copy.deepcopy(dialog.user)):
        said = [user.describe(*pairs, np.random.default_rng(0)) for user in (dialog.user, twin)]
        assert said[0] == said[1]


def test_a_catalogue_without_its_language_cannot_be_spoken_of(dialog):
    gallery = dialog.gallery
    bare = Gallery(gallery.names, gallery.features, gallery.attributes, kind="catalog")
    with pytest.raises(ValueError, match="must know its language"):
        AttributeUser(bare)
    with pytest.raises(ValueError, match="needs its codes and their language"):
        CatalogGallery(gallery.names, gallery.features)


# ---- who listens


def test_listeners_are_those_of_the_gallery(dialog, tiny_gallery):
    assert isinstance(listener_of(dialog.gallery), CatalogListener)
    assert isinstance(listener_of(tiny_gallery), SceneListener)
    with pytest.raises(ValueError, match="only captions about a catalogue"):
        CatalogListener(tiny_gallery)


def test_accuracy_counts_by_kind_of_clause(dialog):
    """By hand: true captions are always true; of swapped pairs comparisons are always false."""
    listener = listener_of(dialog.gallery)
    topic = dialog.gallery.spoken.topic
    reference, target = pairs_of(dialog.gallery, 400)
    captions = dialog.user.describe(reference, target, np.random.default_rng(0))
    pairs = np.stack([reference, target], axis=1)
    told = listener.accuracy(captions, pairs, topic)
    clauses = [clause for caption in captions for clause in caption.split(" and ")]
    assert sum(count for _, count in told.values()) == len(clauses)
    assert {share for share, _ in told.values()} == {1.0}
    darker = sum("darker" in clause for clause in clauses)
    assert told["darker"] == (1.0, darker) and darker > 10
    swapped = listener.accuracy(captions, pairs[:, ::-1], topic)
    for name in ("lighter", "darker", "larger", "plainer"):
        assert swapped[name] == (0.0, told[name][1])
    assert set(listener.directions(captions, pairs).values()) == {1.0}
    assert set(listener.directions(captions, pairs[:, ::-1]).values()) == {0.0}
    first = dialog.gallery.spoken.first_measure
    change = dialog.gallery.attributes[target, first] - dialog.gallery.attributes[reference, first]
    always = listener.directions(["is much lighter"] * 400, pairs)
    assert always == {"lighter": pytest.approx(np.mean(change > 0))}
    assert listener.accuracy(["blah and is red"], pairs[:1], topic)["nonsense"] == (0.0, 1)


def test_the_oracle_finds_products_by_what_is_said(dialog, shop):
    """A version space of true claims: far above chance, and better turn by turn."""
    played = dialog.with_(index=ExactIndex(dialog.gallery.features))
    oracle = OracleAgent(dialog.gallery, dialog.vocabulary, np.random.default_rng(0))
    target, reference = evaluation_pairs(len(dialog.gallery), 60, 0)
    ranks = run_dialogs(played, oracle, target, reference, 0).ranks.mean(0)
    assert ranks[1] < 0.35 * len(dialog.gallery) and ranks[5] < 0.1 * len(dialog.gallery)
    assert (np.diff(ranks) < 0).all()


# ---- light


def test_dialogs_about_extracted_products_need_no_torch(shop):
    code = (
        "import sys, gymnasium as gym\n"
        f"env = gym.make('envs:dialog/Catalog-v0', root=sys.argv[1], encoder='{OWN}')\n"
        "env.reset(seed=0); env.step(env.action_space.sample())\n"
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(shop)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_features_are_extracted_on_first_use(tmp_path):
    root = tmp_path / "new"
    make_shop(root, 16)
    gallery, triplets = load_products(root, "test", OWN)
    assert len(gallery.features) == len(gallery) and triplets
    with pytest.raises(RuntimeError, match="could not extract resnet17 features"):
        load_products(root, "test", "resnet17")
