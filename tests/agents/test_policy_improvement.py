"""Policy improvement against candidates that are played on one dialog at a time."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.look_ahead import OFFERS, Improvement, Players, look_ahead, propose
from agents.policy_improvement import (
    candidate_loss,
    freeze_images,
    improve_epoch,
    published_loss,
    target_copy,
)
from agents.supervised import Training, pretrain_epoch
from agents.tracker import AGENTS, DialogTracker
from envs.dialog import Dialog, DialogState, draw_pair
from envs.factory import make_dialog
from retrieval.rendering.captions import DRAWS
from user_simulator import NoisyUser

BATCH, TURNS = 6, 3
FORMS = ["improved", "published"]


@pytest.fixture(scope="module")
def scenes(tiny_root: Path) -> Dialog:
    """Dialogs over the 64 train scenes, one-hot."""
    return make_dialog(root=tiny_root, encoder="scene")


def pretrained(name: str, dialog: Dialog) -> DialogTracker:
    """An agent after a moment of training, without dropout."""
    torch.manual_seed(2)
    agent = AGENTS[name](dialog.vocabulary, dialog.gallery.features.shape[1], 24)
    for module in agent.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    list(pretrain_epoch(agent, dialog, optimizer, 0, Training(16, 64, TURNS, "triplet")))
    return agent


@pytest.fixture(scope="module")
def start(scenes: Dialog) -> dict[str, DialogTracker]:
    return {name: pretrained(name, scenes) for name in AGENTS}


# the look-ahead


class Row:
    """One dialog's draws out of the numbers that were made for all of them."""

    def __init__(self, blocks: list[np.ndarray], row: int):
        self.blocks, self.row = list(blocks), row

    def random(self, size: tuple[int, int]) -> np.ndarray:
        block = self.blocks.pop(0)
        assert size == (1, block.shape[1])
        return block[self.row : self.row + 1]


def slow_look_ahead(
    target: DialogTracker,
    dialog: Dialog,
    state: DialogState,
    slates: np.ndarray,
    asked: np.ndarray,
    memory: torch.Tensor,
    turns: int,
    policy: Improvement,
    seed: int,
) -> np.ndarray:
    """Every candidate of every dialog on its own, by `predict` and the rules of the dialog."""
    rng = np.random.default_rng(seed)
    score = np.zeros(slates.shape[:2])
    for _ in range(policy.rollouts):
        blocks = [rng.random((BATCH, size)) for _ in range(turns) for size in (2, DRAWS)]
        for b in range(BATCH):
            for k in range(slates.shape[1]):
                draws, recalled = Row(blocks, b), memory[b : b + 1]
                one, asks = state.rows(np.array([b])), asked[b : b + 1]
                if slates.shape[2] == 1:
                    one = dialog.show_image(one, slates[b, k], asks)
                else:
                    one = dialog.show_slate(one, slates[b, k][None], asks)
                each = []
                for _ in range(turns):
                    if policy.form == "improved" and one.found[0]:
                        each.append(0.0)  # the target is on show: nothing more can go wrong
                        continue
                    if not dialog.left(one)[0]:  # else nobody is there to go on
                        one = dialog.listen(one, draws)
                        query, recalled = target.predict(dialog.observe(one), recalled)
                        one = dialog.show(one, query)
                    rank = float(one.rank[0])
                    late = policy.outcome == "finding"
                    each.append(rank if policy.form == "published" else late + math.log2(1 + rank))
                score[b, k] += each[-1] if policy.outcome == "end" else sum(each)
    return score


def test_a_shown_target_ends_the_outcome_and_depth_bounds_it(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    target = target_copy(start["tracker"])
    dialog = scenes.with_(index=target.index(scenes.gallery.features))
    images = np.arange(2 * BATCH).reshape(2, BATCH)
    state = dialog.listen(dialog.start(*images), np.random.default_rng(0))
    asked, memory = target.predict(dialog.observe(state))
    candidates = np.column_stack([images[0], images[1], images[1] + 2 * BATCH])[:, :, None]
    players = Players(start["tracker"], target, dialog)

    def outcome(depth: int, turns_left: int, form: str = "improved") -> np.ndarray:
        policy = Improvement(form, 3, depth=depth)
        rng = np.random.default_rng(3)
        return look_ahead(players, state, candidates, asked, memory, turns_left, policy, rng)

    assert (outcome(0, 3)[:, 0] == 0).all() and (outcome(0, 3)[:, 1:] > 0).any()
    assert (outcome(0, 3, "published")[:, 0] > 0).any()
    np.testing.assert_array_equal(outcome(2, 4), outcome(0, 2))
    np.testing.assert_array_equal(outcome(9, 2), outcome(0, 2))
    assert (outcome(1, 3) < outcome(0, 3)).any()
    shows = Improvement(top_k=3, outcome="target")  # plays no turn, and draws nothing
    rng = np.random.default_rng(3)
    score = look_ahead(players, state, candidates, asked, memory, 3, shows, rng)
    assert score.tolist() == [[0.0, 1.0, 1.0]] * BATCH
    pairs = np.concatenate([candidates[:, 1:], candidates[:, :1]], axis=1).reshape(BATCH, -1, 1)
    both = np.concatenate([pairs, pairs[:, ::-1]], axis=2)  # slates: ..., the target in the ends
    score = look_ahead(players, state, both, asked, memory, 3, shows, rng)
    assert score.tolist() == [[0.0, 1.0, 0.0]] * BATCH
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize(
    ("name", "policy", "play"),
    [
        ("tracker", Improvement(), {}),
        ("tracker", Improvement(rollouts=2, outcome="end"), {}),
        ("tracker", Improvement(offer="slates"), {"slate": 3, "never_repeat": True}),
        ("tracker", Improvement(pool=12), {"slate": 2, "patience": 1}),
        ("tracker", Improvement(outcome="end"), {"patience": 1}),
        ("tracker", Improvement(outcome="finding"), {"patience": 2}),
        ("published", Improvement("published", rollouts=2), {}),
    ],
)
def test_look_ahead_is_the_slow_loop(
    name: str,
    policy: Improvement,
    play: dict[str, Any],
    scenes: Dialog,
    start: dict[str, DialogTracker],
) -> None:
    target = target_copy(start[name])
    size = len(scenes.gallery)
    dialog = scenes.with_(
        index=target.index(scenes.gallery.features), user=NoisyUser(scenes.user, 0.4, size), **play
    )
    rng = np.random.default_rng(0)
    images = rng.permutation(size)[: 2 * BATCH].reshape(2, BATCH)
    state = dialog.listen(dialog.start(*images), rng)
    query, memory = target.predict(dialog.observe(state))
    players = Players(start[name], target, dialog)
    slates = propose(players, state, query, policy, rng)
    for turns_left in (2, 1):
        fast = look_ahead(
            players, state, slates, query, memory, turns_left, policy, np.random.default_rng(8)
        )
        slow = slow_look_ahead(
            target, dialog, state, slates, query, memory, turns_left, policy, seed=8
        )
        assert fast.shape == (BATCH, 4)
        assert (np.ptp(slow, axis=1) > 0).any()
        np.testing.assert_allclose(fast, slow, atol=1e-6)

    # the last turn of a dialog: one extra turn, so that there is an outcome
    extra = look_ahead(players, state, slates, query, memory, 0, policy, np.random.default_rng(8))
    np.testing.assert_array_equal(extra, fast)


def test_who_lost_patience_keeps_the_rank_for_all_turns_that_are_missing(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    """Showing the same image again loses users who leave after one turn without progress."""
    target = target_copy(start["tracker"])
    dialog = scenes.with_(index=target.index(scenes.gallery.features), patience=1)
    state = dialog.listen(
        dialog.start(np.arange(BATCH), np.arange(BATCH) + 20), np.random.default_rng(0)
    )
    asked, memory = target.predict(dialog.observe(state))
    again = np.repeat(state.reference[:, None, None], 2, axis=1)  # (B, 2, 1)
    score = look_ahead(
        Players(target, target, dialog), state, again, asked, memory, 4, Improvement(),
        np.random.default_rng(0),
    )  # fmt: skip
    rank = dialog.index.rank(asked, state.target)
    np.testing.assert_allclose(score[:, 0], 4 * np.log2(1 + rank))


# what is looked ahead from


def test_one_image_at_a_time_the_nearest_are_proposed(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    players, state, asked = asking(scenes, start)
    slates = propose(players, state, asked, Improvement(top_k=5), np.random.default_rng(0))
    assert slates.tolist() == players.ahead.index.search(asked, 5)[:, :, None].tolist()


def test_candidates_beyond_the_nearest_come_from_the_pool(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    players, state, asked = asking(scenes, start)
    near = players.ahead.index.search(asked, 20)
    seen = set()
    for seed in range(40):
        policy = Improvement(top_k=5, pool=20)
        slates = propose(players, state, asked, policy, np.random.default_rng(seed))
        assert (slates[:, :3, 0] == near[:, :3]).all()
        for row, beyond in enumerate(slates[:, 3:, 0]):
            assert len(set(beyond)) == 2 and set(beyond) <= set(near[row, 3:])
        seen |= set(slates[0, 3:, 0])
    assert len(seen) > 4


def test_slates_are_greedy_once_then_drawn_and_never_shown_before(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    players, state, asked = asking(scenes, start, slate=3, never_repeat=True)
    free = [
        [image for image in players.ahead.index.search(asked[[row]], 40)[0]
         if image != state.reference[row]]
        for row in range(BATCH)
    ]  # fmt: skip
    slates = propose(
        players, state, asked, Improvement(top_k=6, offer="slates"), np.random.default_rng(0)
    )
    assert slates.shape == (BATCH, 6, 3)
    for row in range(BATCH):
        assert slates[row, 0].tolist() == free[row][:3]
        for slate in slates[row]:
            assert len(set(slate)) == 3 and set(slate) <= set(free[row][:24])
    assert len({tuple(slate) for slate in slates[0]}) > 2


def asking(
    scenes: Dialog, start: dict[str, DialogTracker], **play: Any
) -> tuple[Players, DialogState, np.ndarray]:
    """Dialogs whose users have spoken, and what the tracker asks for."""
    target = target_copy(start["tracker"])
    dialog = scenes.with_(index=target.index(scenes.gallery.features), **play)
    state = dialog.start(np.arange(BATCH), np.arange(BATCH) + 20)
    state = dialog.listen(state, np.random.default_rng(0))
    return Players(target, target, dialog), state, target.predict(dialog.observe(state))[0]


def test_a_repeated_candidate_has_the_same_outcome(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    """Common random numbers: with a user who draws, equal candidates differ by nothing."""
    target = target_copy(start["tracker"])
    noisy = scenes.with_(
        index=target.index(scenes.gallery.features), user=NoisyUser(scenes.user, 0.5, 64)
    )
    state = noisy.start(np.arange(BATCH), np.arange(BATCH) + 20)
    candidates = np.full((BATCH, 3, 1), 40)
    asked = noisy.index.query_of(state.reference)
    score = look_ahead(
        Players(target, target, noisy), state, candidates, asked, None, 3, Improvement(),
        np.random.default_rng(0),
    )  # fmt: skip
    assert np.ptp(score, axis=1).max() == 0
    assert np.ptp(score, axis=0).max() > 0


# the losses


def test_published_loss_is_the_loop(scenes: Dialog, start: dict[str, DialogTracker]) -> None:
    agent = start["published"]
    features = torch.from_numpy(scenes.gallery.features)
    policy = Improvement("published", tau=0.3, negatives=5)
    best, goals = np.arange(BATCH) + 3, np.arange(BATCH) + 30
    query = torch.randn(BATCH, agent.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        points = agent.embed(features).double().numpy()
        goal = agent.embed(features[goals])
        loss = published_loss(
            agent, query, best, goal, features, policy, np.random.default_rng(4)
        ).item()
    negatives = np.random.default_rng(4).integers(len(features), size=(BATCH, 5))
    each = []
    for b in range(BATCH):
        at = query[b].double().numpy()
        distance = [((at - points[image]) ** 2).sum() for image in [best[b], *negatives[b]]]
        weights = [math.exp(-(d - distance[0]) / policy.tau) for d in distance]
        each.append(-math.log(1 / sum(weights)) + ((at - points[goals[b]]) ** 2).sum())
    assert loss == pytest.approx(sum(each) / BATCH, rel=1e-5)


def test_published_loss_anchor(scenes: Dialog, start: dict[str, DialogTracker]) -> None:
    """Five negatives as far away as a*: ln 6, and the squared distance to the target."""
    agent = start["tracker"]  # unit-norm embeddings: all equally far from the origin
    features = torch.from_numpy(scenes.gallery.features)
    goal = torch.full((BATCH, agent.dim), 0.5)
    loss = published_loss(
        agent, torch.zeros(BATCH, agent.dim), np.arange(BATCH), goal, features,
        Improvement("published", negatives=5), np.random.default_rng(0),
    )  # fmt: skip
    assert loss.item() == pytest.approx(math.log(6) + 0.25 * agent.dim, rel=1e-6)


@pytest.mark.parametrize("name", AGENTS)
def test_candidate_loss_is_the_loop(
    name: str, scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    """Cross-entropy of the winner over the rows whose outcomes differ."""
    agent = start[name]
    features = torch.from_numpy(scenes.gallery.features)
    rng = np.random.default_rng(1)
    candidates = np.stack([rng.permutation(len(features))[:8] for _ in range(BATCH)])
    candidates = candidates.reshape(BATCH, 4, 2)  # slates of two
    score = rng.random((BATCH, 4)) * 5
    score[2] = 1.5  # nothing to learn from equal outcomes
    query = torch.randn(BATCH, agent.dim, generator=torch.Generator().manual_seed(0))
    query.requires_grad_()
    loss = candidate_loss(agent, query, candidates, score, features)
    loss.backward()

    points = agent.embed(features).double().detach().numpy()
    scale = math.exp(agent.get_parameter("scale").item())
    each = []
    for b in range(BATCH):
        at = query[b].double().detach().numpy()
        alike = -((at - points) ** 2).sum(1) if name == "published" else points @ at
        logits = [scale * (alike[one] + alike[other]) for one, other in candidates[b]]
        label = min(range(4), key=lambda k: score[b, k])
        logsum = math.log(sum(math.exp(logit - max(logits)) for logit in logits)) + max(logits)
        each.append(logsum - logits[label])
        alone = candidate_loss(
            agent, query[b : b + 1], candidates[b : b + 1], score[b : b + 1], features
        )
        assert alone.item() == pytest.approx(each[b] if b != 2 else 0, rel=1e-4)
    expected = sum(each[b] for b in range(BATCH) if b != 2) / (BATCH - 1)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert query.grad is not None
    assert (query.grad[2] == 0).all()
    assert (query.grad[[0, 1, 3, 4, 5]].abs().amax(1) > 0).all()


@pytest.mark.parametrize("rests", [False, True])
def test_images_can_rest(rests: bool, scenes: Dialog, start: dict[str, DialogTracker]) -> None:
    """The same loss and the same pull on the query, and none on what embeds the images."""
    agent, features = start["tracker"], torch.from_numpy(scenes.gallery.features)
    candidates = np.arange(2 * BATCH).reshape(BATCH, 2, 1)
    score = np.tile([1.0, 2.0], (BATCH, 1))
    query = torch.randn(BATCH, agent.dim, generator=torch.Generator().manual_seed(0))
    found = []
    for how in (False, rests):
        query = query.detach().requires_grad_()
        agent.zero_grad()
        loss = candidate_loss(agent, query, candidates, score, features, how)
        loss.backward()
        found.append((loss.detach(), query.grad))
    torch.testing.assert_close(found[0], found[1])
    moved = [weight.grad is not None for weight in agent.get_submodule("image").parameters()]
    assert all(moved) != rests and any(moved) != rests


def test_candidate_loss_of_equal_outcomes_alone_is_zero(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    features = torch.from_numpy(scenes.gallery.features)
    query = torch.randn(2, start["tracker"].dim)
    candidates = np.array([[[1], [2]], [[3], [4]]])
    loss = candidate_loss(start["tracker"], query, candidates, np.ones((2, 2)), features)
    assert loss.item() == 0


# an epoch


def by_hand(
    agent: DialogTracker,
    target: DialogTracker,
    dialog: Dialog,
    how: Training,
    policy: Improvement,
    epoch: int,
) -> tuple[torch.Tensor, list[np.ndarray], float]:
    """The first batch as systems.md 2.5 tells it (published), or as `improve_epoch` does."""
    rng = np.random.default_rng([how.seed, epoch])
    size = len(dialog.gallery)
    pairs = np.array([draw_pair(rng, size) for _ in range(how.batch_size)])
    features = torch.from_numpy(dialog.gallery.features)
    own = dialog.with_(index=agent.index(dialog.gallery.features))
    ahead = dialog.with_(index=target.index(dialog.gallery.features))
    state = own.start(pairs[:, 0], pairs[:, 1])
    memory = target_memory = None
    losses, wins, ranks = [], [], []
    for turn in range(how.turns):
        state = own.listen(state, rng)
        seen = own.observe(state)
        query, memory = agent.respond(
            agent.embed(features[state.reference]), torch.from_numpy(seen["caption"]), memory
        )
        proposal, target_memory = target.predict(seen, target_memory)
        candidates = ahead.index.search(proposal, policy.top_k)
        players = Players(agent, target, ahead)
        left = how.turns - (turn + 1)
        score = look_ahead(
            players, state, candidates[:, :, None], proposal, target_memory, left, policy, rng
        )
        best = np.array([row[np.argmin(s)] for row, s in zip(candidates, score, strict=True)])
        wins.append(np.mean([row[0] == image for row, image in zip(candidates, best, strict=True)]))
        asked = agent.asked(query.detach()).numpy()
        ranks.append(own.index.rank(asked, state.target))
        goal = agent.embed(features[state.target])
        if policy.form == "published":
            losses.append(published_loss(agent, query, best, goal, features, policy, rng))
            state = own.show_image(state, best)  # the dialog goes on with the winner
            continue
        if how.loss == "triplet":
            other = agent.embed(features[rng.integers(size, size=len(query))])
            hinge = ((query - goal) ** 2).sum(1) - ((query - other) ** 2).sum(1) + how.margin
            supervised = hinge.clamp(min=0).mean()
        else:
            images = np.concatenate([state.target, state.reference])  # and what is on show
            logits = agent.get_parameter("scale").exp() * query @ agent.embed(features[images]).T
            same = torch.from_numpy(state.target[:, None] == images[None])
            logits[same & ~torch.eye(*same.shape, dtype=torch.bool)] = -torch.inf
            supervised = -logits.log_softmax(1).diagonal().mean()
        chosen = candidate_loss(agent, query, candidates[:, :, None], score, features)
        losses.append(supervised + policy.weight * chosen)
        state = own.show(state, asked)  # the dialog goes on with the learner's own choice
    total = sum(losses)
    return total if policy.form == "published" else total / how.turns, ranks, float(np.mean(wins))


@pytest.mark.parametrize(
    ("name", "form", "loss"),
    [
        ("tracker", "improved", "in_batch"),
        ("tracker", "improved", "triplet"),
        ("published", "published", "triplet"),
        ("tracker", "published", "in_batch"),
    ],
)
def test_one_step_is_the_one_taken_by_hand(
    name: str, form: str, loss: str, scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    how = Training(BATCH, BATCH, TURNS, loss, margin=0.3, seed=9)
    policy = Improvement(form, weight=0.7)
    target = target_copy(start[name])
    agent = copy.deepcopy(start[name])
    with torch.no_grad():  # the learner has moved away from the target network
        for parameter in agent.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    if form == "published":
        agent.get_submodule("image").load_state_dict(target.get_submodule("image").state_dict())
        freeze_images(agent)
    slow = copy.deepcopy(agent).train()
    expected, ranks, wins = by_hand(slow, target, scenes.with_(max_turns=TURNS), how, policy, 2)

    optimizer = torch.optim.SGD([p for p in agent.parameters() if p.requires_grad], lr=0.5)
    (step,) = improve_epoch(agent, target, scenes, optimizer, 2, how, policy)
    assert step.loss == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(step.ranks[:, 1:], np.stack(ranks, axis=1))
    assert step.parts == {"first_candidate_wins": pytest.approx(wins)}

    expected.backward()
    torch.nn.utils.clip_grad_norm_(slow.parameters(), 5.0)
    for (label, before), after in zip(slow.named_parameters(), agent.parameters(), strict=True):
        moved = torch.zeros_like(before) if before.grad is None else 0.5 * before.grad
        torch.testing.assert_close(after, before - moved, rtol=1e-3, atol=1e-5, msg=label)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", AGENTS)
def test_an_epoch_changes_the_learner_alone(
    name: str, form: str, scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    agent, target = copy.deepcopy(start[name]), target_copy(start[name])
    assert not target.training
    assert not any(parameter.requires_grad for parameter in target.parameters())
    before = copy.deepcopy(target.state_dict())
    if form == "published":
        freeze_images(agent)
    trained = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    how, policy = Training(BATCH, 2 * BATCH, TURNS, "triplet", margin=2.0), Improvement(form)
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    steps = list(improve_epoch(agent, target, scenes, optimizer, 0, how, policy))
    assert len(steps) == 2
    assert not target.training
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key]), key  # BatchNorm's statistics too
    unchanged = {
        key for key, value in agent.named_parameters() if torch.equal(value.detach(), before[key])
    }
    if form == "published":  # no learned scale in it, and the image space stays
        assert unchanged == {"image.weight", "image.bias", "scale"}
    else:
        assert unchanged == set()


def test_freezing_the_images_keeps_the_gallery_in_place(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    agent = copy.deepcopy(start["published"])
    freeze_images(agent)
    frozen = {key for key, value in agent.named_parameters() if not value.requires_grad}
    assert frozen == {"image.weight", "image.bias"}


def test_the_same_epoch_again(scenes: Dialog, start: dict[str, DialogTracker]) -> None:
    losses = []
    for seed in (1, 1, 2):
        agent = copy.deepcopy(start["tracker"])
        optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)
        how = Training(BATCH, 2 * BATCH, TURNS, seed=seed)
        steps = improve_epoch(agent, target_copy(agent), scenes, optimizer, 3, how, Improvement())
        losses.append([step.loss for step in steps])
    assert losses[0] == losses[1] != losses[2]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown improvement 'publish'\. Did you mean 'publ"):
        Improvement("publish")
    with pytest.raises(ValueError, match="a depth of 0 or more, got 1, 1 and 0"):
        Improvement(top_k=1)
    with pytest.raises(ValueError, match="a depth of 0 or more, got 4, 0 and 0"):
        Improvement(rollouts=0)
    with pytest.raises(ValueError, match="unknown outcome 'turn'. Did you mean 'turns'"):
        Improvement(outcome="turn")
    with pytest.raises(ValueError, match="unknown offer 'slate'. Did you mean 'slates'"):
        Improvement(offer="slate")
    with pytest.raises(ValueError, match="a pool of at least the 4 candidates, or 0, got 3"):
        Improvement(pool=3)


def test_the_published_form_shows_no_slates(
    scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    agent = start["published"]
    with pytest.raises(ValueError, match="use the improved one for slates"):
        next(improve_epoch(
            agent, agent, scenes.with_(slate=2), torch.optim.SGD(agent.parameters()), 0,
            Training(), Improvement("published"),
        ))  # fmt: skip


@pytest.mark.parametrize("offer", OFFERS)
def test_an_epoch_over_slates_raises_the_winners(
    offer: str, scenes: Dialog, start: dict[str, DialogTracker]
) -> None:
    """The weight of the policy loss is huge: what falls is its."""
    dialog = scenes.with_(slate=2, never_repeat=True)
    agent = copy.deepcopy(start["tracker"])
    how = Training(BATCH, BATCH, TURNS, seed=4)
    policy = Improvement(weight=50.0, offer=offer)
    optimizer = torch.optim.SGD(agent.parameters(), lr=1e-3)
    (step,) = improve_epoch(agent, target_copy(agent), dialog, optimizer, 0, how, policy)
    (again,) = improve_epoch(
        agent, target_copy(start["tracker"]), dialog, optimizer, 0, how, policy
    )
    assert again.loss < step.loss
