"""What the benchmarks compare does the same work: equal results on the tiny world."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.policy_improvement import Improvement, freeze_images, improve_epoch, target_copy
from agents.supervised import Training, pretrain_epoch
from agents.tracker import PublishedTracker
from benchmarks import on_device
from benchmarks.captioning import Args as CaptioningArgs
from benchmarks.captioning import compare, pairs
from benchmarks.environment import floor, play, record, single_environments
from benchmarks.plain_captioner import decode_ahead_plainly, decode_plainly
from benchmarks.plain_losses import draw_triplets, soft_triplet_in_loop
from benchmarks.plain_training import (
    PlainWorld,
    improve_plainly,
    pretrain_plainly,
    rank_rows,
)
from benchmarks.worlds import grown, grown_dialog
from envs.dialog import Dialog
from envs.factory import make_dialog
from envs.vector import DialogRetrievalVectorEnv
from retrieval.index import ExactIndex
from retrieval.losses import soft_triplet
from retrieval.soft_triplet import draw_partners
from user_simulator.captioner import NeuralUser


@pytest.fixture(scope="module")
def heard(tiny_root, tiny_captioner):
    """Dialogs of 5 turns about the 64 train pictures with a neural user."""
    return make_dialog(root=tiny_root, user="neural", captioner=tiny_captioner)


@pytest.fixture(scope="module")
def apart(heard):
    """The same with images far apart, so that rounding decides no rank."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal(heard.gallery.features.shape, dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    gallery = replace(heard.gallery, features=features)
    user = NeuralUser(heard.user.captioner, gallery)
    return Dialog(gallery, ExactIndex(features), user, heard.vocabulary)


def tensors_of(dialog):
    grids = torch.from_numpy(dialog.gallery.grids.astype(np.float32))
    return torch.from_numpy(dialog.gallery.features), grids


@pytest.mark.parametrize("keep_projections", [False, True])
def test_the_plain_captioner_says_the_same(heard, keep_projections):
    size = len(heard.gallery)
    every = torch.arange(size * size)
    reference, target = every // size, every % size
    user = heard.user
    said = user.captioner.decode(user._tables, reference, target)
    plain = decode_plainly(user.captioner, *tensors_of(heard), reference, target, keep_projections)
    assert torch.equal(said, plain)
    assert len({tuple(row) for row in plain.tolist()}) > 10


def test_candidates_one_by_one_are_candidates_in_a_batch(heard):
    found = compare(heard.user, *tensors_of(heard), CaptioningArgs(dialogs=3, turns=2, repeats=1))
    assert found["different"]["batch"] == 0
    assert found["captions"] == 3 * 4 * 3  # B dialogs, K candidates, T (T + 1) / 2 turns
    candidates, target = pairs(len(heard.gallery), CaptioningArgs(dialogs=3))[0]
    words = decode_ahead_plainly(heard.user.captioner, *tensors_of(heard), candidates, target)
    for row, place in itertools.product(range(3), range(4)):
        shown, meant = candidates[row, place : place + 1].numpy(), target[row : row + 1].numpy()
        caption = heard.user.captioner.vocabulary.decode(words[row, place].tolist())
        assert heard.user.describe(shown, meant, np.random.default_rng(0)) == [caption]


def agents_of(dialog):
    torch.manual_seed(1)
    agent = PublishedTracker(dialog.vocabulary, dialog.gallery.features.shape[1], dim=32)
    return agent, copy.deepcopy(agent)


def test_plain_pretraining_has_the_same_curve(apart):
    how = Training(6, 18, 3, "triplet", seed=5)
    agent, other = agents_of(apart)
    optimizers = [torch.optim.SGD(one.parameters(), 1e-2) for one in (agent, other)]
    ours = list(pretrain_epoch(agent, apart, optimizers[0], 2, how))
    plain = list(pretrain_plainly(other, PlainWorld(apart), optimizers[1], 2, how))
    assert len(ours) == len(plain) == 3
    for step, (loss, ranks) in zip(ours, plain, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-4)
        np.testing.assert_array_equal(step.ranks[:, 1:], ranks)
    assert ours[0].loss != ours[2].loss


def test_plain_improvement_has_the_same_curve(apart):
    how = Training(5, 15, 3, "triplet", seed=3)
    policy = Improvement("published", top_k=3, negatives=2)
    agent, other = agents_of(apart)
    helper = target_copy(agent)
    for one in (agent, other):
        freeze_images(one)
    optimizers = [
        torch.optim.SGD([weight for weight in one.parameters() if weight.requires_grad], 1e-2)
        for one in (agent, other)
    ]
    ours = list(improve_epoch(agent, helper, apart, optimizers[0], 0, how, policy))
    plain = list(
        improve_plainly(other, helper, PlainWorld(apart), optimizers[1], 0, how, policy)
    )  # fmt: skip
    assert len(ours) == len(plain) == 3
    for step, (loss, ranks) in zip(ours, plain, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-4)
        np.testing.assert_array_equal(step.ranks[:, 1:], ranks)


def test_rows_are_ranked_by_distance():
    gallery = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    nearest, rank = rank_rows(gallery, torch.tensor([[1.9], [0.0]]), torch.tensor([0, 3]), 2)
    assert nearest.tolist() == [[2, 1], [0, 1]]
    assert rank.tolist() == [2, 3]


def test_the_loop_gives_the_soft_triplet_loss():
    torch.manual_seed(0)
    query, target = torch.randn(2, 7, 5)
    negative = draw_partners(7, 3, torch.Generator().manual_seed(4))[:, 1:]
    triplets = [
        (anchor, (anchor + 7) % 14, int(other))
        for anchor in range(14)
        for other in negative[anchor]
    ]
    expected = soft_triplet(query, target, torch.Generator().manual_seed(4))
    torch.testing.assert_close(soft_triplet_in_loop(query, target, triplets), expected)


def test_triplets_are_drawn_for_every_anchor():
    triplets = draw_triplets(4, 3, np.random.default_rng(0))
    assert len(set(triplets)) == len(triplets) == 24
    for anchor, positive, negative in triplets:
        assert abs(anchor - positive) == 4
        assert negative not in (anchor, positive) and 0 <= negative < 8


def test_the_floor_does_what_the_environment_did(heard):
    rng = np.random.default_rng(0)
    actions = heard.gallery.features[rng.integers(len(heard.gallery), size=(7, 6))]
    recorder = record(heard, 6, actions)
    best, above = floor(recorder, heard.gallery.features)
    looks = [look for look in recorder.looks if look[2]]
    assert len(looks) == len(best) == 7  # one for each step
    assert len(recorder.looks) > 7  # and one for dialogs that start anew
    for (query, _, _), images in zip(looks, best, strict=True):
        np.testing.assert_array_equal(images, heard.index.search(query, 1)[:, 0])
    for (query, target, _), count in zip(recorder.looks, above, strict=True):
        scores = query @ heard.gallery.features.T
        own = scores[np.arange(len(target)), target]
        np.testing.assert_array_equal(count, (scores > own[:, None]).sum(1))
    env = DialogRetrievalVectorEnv(heard, 6)
    env.reset(seed=0)
    assert set(recorder.pairs[0][1]) <= set(env.state.target)  # not the captions at the start
    play(env, actions)
    assert sum(len(target) for _, target in recorder.pairs) >= 6 * 7 - 6  # and all after it


def test_single_environments_play_the_same_dialogs(heard):
    rng = np.random.default_rng(0)
    actions = heard.gallery.features[rng.integers(len(heard.gallery), size=(6, 3))]
    batch, singles = DialogRetrievalVectorEnv(heard, 3), single_environments(heard, 3)
    for env in (batch, singles):
        env.reset(seed=0)
    for action in actions:
        ours, theirs = batch.step(action), singles.step(action)
        np.testing.assert_array_equal(ours[0]["caption"], theirs[0]["caption"])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_a_grown_gallery_repeats_the_pictures(heard):
    size = len(heard.gallery)
    gallery = grown(heard.gallery, 2 * size + 5)
    assert len(gallery) == len(set(gallery.names)) == 2 * size + 5
    np.testing.assert_array_equal(gallery.attributes[size : 2 * size], heard.gallery.attributes)
    np.testing.assert_array_equal(gallery.grids[2 * size :], heard.gallery.grids[:5])
    np.testing.assert_allclose(np.linalg.norm(gallery.features, axis=1), 1, rtol=1e-5)
    alike = np.einsum("nf,nf->n", gallery.features[size : 2 * size], heard.gallery.features)
    assert (alike > 0.95).all()
    assert not np.array_equal(gallery.features[:size], gallery.features[size : 2 * size])


@pytest.mark.parametrize("user", ["attribute", "neural"])
def test_dialogs_about_a_grown_gallery(heard, user):
    dialog = grown_dialog(user, 100, heard, max_turns=2)
    assert len(dialog.gallery) == dialog.index.size == 100
    assert dialog.max_turns == 2
    assert isinstance(dialog.user, NeuralUser) == (user == "neural")
    caption = dialog.user.describe(np.array([3]), np.array([99]), np.random.default_rng(0))
    assert caption[0]


def test_the_environment_in_tensors_is_measured(heard):
    """All three play; the floor looks at the gallery and speaks as often."""
    dialog = grown_dialog("neural", 70, heard, max_turns=2)
    found = on_device.compare(dialog, 5, on_device.Args(size=70, steps=3, repeats=1))
    assert set(found["turns_per_second"]) == {"tensors", "floor", "arrays"}
    assert all(speed > 0 for speed in found["turns_per_second"].values())
    assert found["of_floor"] > 0
