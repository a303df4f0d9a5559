"""Conditions, readers, shares of cells and FID, by slow loops and hand-worked worlds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.datasets import css
from retrieval.encoders.image import SceneCNN
from retrieval.features import load_features
from retrieval.generation.conditions import Conditioner, load_scene_encoder, make_conditioner
from retrieval.generation.data import load_data
from retrieval.generation.fid import frechet_distance
from retrieval.generation.grid import draw_grid
from retrieval.generation.measuring import (
    Judge,
    cells_right,
    nearest_images,
    nearest_of,
)
from retrieval.generation.models import GanSpec, build_generator
from retrieval.generation.painter import Imagination, Painter, belief
from retrieval.generation.readers import attribute_loss, load_reader, read_scenes
from retrieval.models import ModelSpec, build_model
from retrieval.rendering.build import BuildSpec, build
from retrieval.text import Vocabulary

# FID


def test_fid_of_gaussians_worked_by_hand() -> None:
    """Means 3 apart along one axis; variances 4 and 9 along it, 1 and 16 across."""
    one = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], dtype=float)
    spread = np.sqrt(one.shape[0] - 1) / np.sqrt(2)  # gives each axis variance 1 (of N - 1)
    first = one * spread * [2, 1]
    second = one * spread * [3, 4] + [3, 0]
    expected = 3**2 + (3 - 2) ** 2 + (4 - 1) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_fid_is_the_formula_with_a_general_matrix_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    one = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    other = rng.normal(size=(150, 5)) @ rng.normal(size=(5, 5)) + 1
    c, d = np.cov(one.T), np.cov(other.T)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-8)


def test_fid_of_fewer_rows_than_numbers_is_finite_and_zero_for_itself() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(rows, rows[::-1] + 2) == pytest.approx(160, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((1, 3)), "two rows"),
        (np.zeros((4, 2)), "expected features"),
        (np.full((4, 3), np.nan), "finite"),
    ],
)
def test_fid_refuses_what_has_none(rows: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_distance(rows, np.zeros((4, 3)))


# cells


def test_cells_right_by_loops() -> None:
    rng = np.random.default_rng(1)
    wanted, seen, before = rng.integers(0, 2, size=(3, 20, 9, 3)).astype(np.int8)
    counts: dict[str, list[bool]] = {"occupied": [], "all": [], "changed": []}
    for query in range(20):
        for cell in range(9):
            goal = tuple(wanted[query, cell])
            is_right = tuple(seen[query, cell]) == goal
            counts["all"].append(is_right)
            if goal != (0, 0, 0):
                counts["occupied"].append(is_right)
            if goal != tuple(before[query, cell]):
                counts["changed"].append(is_right)
    found = vars(cells_right(seen, wanted, before))
    assert found == pytest.approx({name: np.mean(ones) for name, ones in counts.items()})
    assert np.isnan(cells_right(seen, wanted, wanted).changed)


def test_nearest_image_by_loops() -> None:
    rng = np.random.default_rng(2)
    conditions, images = rng.normal(size=(7, 4)), rng.normal(size=(9, 4))
    left_out = rng.integers(9, size=7)
    expected = []
    for query, out in zip(conditions, left_out, strict=True):
        cosine = {
            row: query @ image / np.linalg.norm(query) / np.linalg.norm(image)
            for row, image in enumerate(images)
            if row != out
        }
        expected.append(max(cosine, key=lambda row: cosine[row]))
    assert nearest_images(conditions, images, left_out).tolist() == expected
    nobody = np.full(7, -1)
    everywhere = nearest_images(images[:7], images, nobody)
    assert everywhere.tolist() == list(range(7))


# conditions


@pytest.fixture(scope="module")
def composer(tiny_root: Path) -> Any:
    """A composer on features with random weights."""
    torch.manual_seed(0)
    texts = css.load_composed(tiny_root, "train").texts
    words = Vocabulary.build(texts).words[3:]
    spec = ModelSpec("tirg", 8, "features", feature_dim=256, text_encoder="gru", words=words)
    return build_model(spec).eval().requires_grad_(False)


def test_conditions_without_a_composer_are_the_scene_features(tiny_root: Path) -> None:
    pictures = css.load_pictures(tiny_root, "test")
    conditioner = make_conditioner(tiny_root)
    vectors, _ = load_features(tiny_root, "3d_test", "scene-cnn", len(pictures))
    assert conditioner.dim == 256
    np.testing.assert_allclose(conditioner.images(pictures), 16 * vectors, atol=1e-4)
    with pytest.raises(ValueError, match="needs a composer"):
        conditioner.queries(pictures, [0], ["make it red"])


def test_conditions_of_a_composer_are_scaled_by_its_s(tiny_root: Path, composer: Any) -> None:
    pictures = css.load_pictures(tiny_root, "test")
    queries = css.load_queries(tiny_root, "test")
    conditioner = Conditioner(load_scene_encoder(tiny_root), composer)
    vectors, _ = load_features(tiny_root, "3d_test", "scene-cnn", len(pictures))
    own = composer.scale.item() * composer.embed(torch.from_numpy(vectors))
    np.testing.assert_allclose(conditioner.images(pictures), own, atol=1e-4)

    found = conditioner.queries(
        pictures, [query.reference for query in queries], [query.caption for query in queries]
    )
    for row, query in enumerate(queries[:6]):
        seen = torch.from_numpy(vectors[query.reference : query.reference + 1])
        alone = composer.compose(seen, composer.token_ids([query.caption]))[0]
        np.testing.assert_allclose(found[row], composer.scale.item() * alone, atol=1e-3)

    longer = Conditioner(load_scene_encoder(tiny_root), composer, scale=10.0)
    np.testing.assert_allclose(np.linalg.norm(longer.images(pictures), axis=1), 10, rtol=1e-5)


def test_a_composer_on_other_features_is_refused(composer: Any) -> None:
    with pytest.raises(ValueError, match="features of size 256, the scene encoder gives 8"):
        Conditioner(SceneCNN(dim=8), composer)
    with pytest.raises(ValueError, match="need the scene encoder"):
        Conditioner(None, composer)


def test_data_of_a_split_belong_together(tiny_root: Path, composer: Any) -> None:
    conditioner = Conditioner(load_scene_encoder(tiny_root), composer)
    data = load_data(tiny_root, "test", "3d", 64, conditioner)
    assert data.queries is not None
    queries = css.load_queries(tiny_root, "test")
    assert data.targets.tolist() == [query.target for query in queries]
    assert data.references.tolist() == [query.reference for query in queries]
    assert (len(data), len(data.images), len(data.queries)) == (24, 32, 24)
    assert np.array_equal(data.pictures, css.load_pictures(tiny_root, "test"))


def test_larger_pictures_must_show_the_same_scenes(tiny_root: Path, tmp_path: Path) -> None:
    conditioner = make_conditioner(tiny_root)
    spec = BuildSpec(train=(16, 3), test=(8, 3), train_captions=10, test_pairs=2, size=128)
    build(tmp_path / "large", spec, workers=1)
    data = load_data(tiny_root, "test", "3d", 128, conditioner, tmp_path / "large")
    assert data.pictures.shape == (32, 128, 128, 3)
    assert np.array_equal(data.images, load_data(tiny_root, "test", "3d", 64, conditioner).images)
    small = css.load_pictures(tiny_root, "test").astype(float)
    halved = data.pictures.reshape(32, 64, 2, 64, 2, 3).mean((2, 4))
    apart = np.abs(halved[:, None] - small[None]).mean((2, 3, 4))  # (32, 32)
    assert apart.argmin(1).tolist() == list(range(32))  # each is itself, drawn larger

    build(tmp_path / "other", BuildSpec(1, (16, 3), (8, 3), 10, 2, 64), workers=1)
    with pytest.raises(ValueError, match="holds other scenes"):
        load_data(tiny_root, "test", "3d", 64, conditioner, tmp_path / "other")


# readers


def test_readers_differ_by_seed_and_are_kept(tiny_root: Path, tmp_path: Path) -> None:
    own = load_reader(tmp_path, tiny_root, "3d", seed=0)
    assert not list(tmp_path.iterdir())  # the data's own encoder, which has 64 px
    judge = load_reader(tmp_path, tiny_root, "3d", seed=1, epochs=1)
    again = load_reader(tmp_path, tiny_root, "3d", seed=1, epochs=1)
    assert torch.equal(judge.vector.weight, again.vector.weight)
    assert not torch.allclose(judge.vector.weight, own.vector.weight)
    assert not any(one.requires_grad for one in judge.parameters())


def test_reading_names_the_likeliest_codes_at_any_size(tiny_root: Path) -> None:
    reader = load_scene_encoder(tiny_root)
    pictures = css.load_pictures(tiny_root, "test")[:5]
    scenes, vectors = read_scenes(reader, pictures)
    for row in range(5):
        pixels = torch.from_numpy(np.array(pictures[row])).permute(2, 0, 1)[None].float() / 255
        vector, _ = reader(pixels)
        np.testing.assert_allclose(vectors[row], vector[0], atol=1e-4)
        scores = reader.read_vector(vector)[0].reshape(9, 16).tolist()
        for cell in range(9):
            for at, (begin, end) in enumerate(((0, 4), (4, 13), (13, 16))):
                part = scores[cell][begin:end]
                assert scenes[row, cell, at] == part.index(max(part))
    doubled = pictures.repeat(2, axis=1).repeat(2, axis=2)  # averages back to the same
    assert np.array_equal(read_scenes(reader, doubled)[0], scenes)


def test_attribute_loss_is_the_mean_log_probability_of_what_is_there(tiny_root: Path) -> None:
    reader = load_reader(Path(), tiny_root, "3d", seed=0)
    pictures = css.load_pictures(tiny_root, "train")[:4]
    scenes = css.load_scenes(tiny_root, "train")[:4]
    drawn = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    drawn.requires_grad_(True)
    truth = torch.from_numpy(scenes.reshape(4, 27).astype(np.int64))
    loss = attribute_loss(reader, drawn, truth)

    vector, grid = reader(torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255)
    by_vector = reader.read_vector(vector).reshape(4, 9, 16).double()
    by_place = reader.read_place(grid).double()  # (4, 36, 16), 2x2 places a cell
    terms = []
    for at, (begin, end) in enumerate(((0, 4), (4, 13), (13, 16))):
        for readings, cells in ((by_vector, range(9)), (by_place, range(36))):
            part = readings[..., begin:end].softmax(-1)
            of = (lambda cell: cell) if len(cells) == 9 else (lambda p: p // 12 * 3 + p % 6 // 2)
            told = [
                -np.log(part[picture, cell, scenes[picture, of(cell), at]].item())
                for picture in range(4)
                for cell in cells
            ]
            terms.append(np.mean(told))
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)
    loss.backward()
    assert drawn.grad is not None and drawn.grad.abs().sum() > 0


# measuring


@pytest.fixture(scope="module")
def data(tiny_root: Path, composer: Any) -> Any:
    conditioner = Conditioner(load_scene_encoder(tiny_root), composer)
    return load_data(tiny_root, "test", "3d", 64, conditioner)


def test_true_targets_measure_as_the_reader_reads_them(tiny_root: Path, data: Any) -> None:
    reader = load_scene_encoder(tiny_root)
    rows = np.arange(0, 24, 2)
    read, _ = read_scenes(reader, data.pictures)
    targets = data.targets[rows]
    judge = Judge(reader, data)
    found = judge.measure(data.pictures[targets], "query", rows)
    assert found["fid"] == pytest.approx(0, abs=1e-4)
    expected = cells_right(read[targets], data.scenes[targets], data.scenes[data.references[rows]])
    assert {name: found[name] for name in vars(expected)} == vars(expected)
    nearest = nearest_of(data, "query", rows)
    assert found["nearest"] == np.mean((read[targets] == read[nearest]).all(-1))
    assert not (nearest == data.references[rows]).any()
    assert not (nearest_of(data, "target", rows) == targets).any()
    assert judge.measure(data.pictures[data.references[rows]], "query", rows)["fid"] > 0


def test_baselines_of_scenes_read_without_error(data: Any) -> None:
    """A judge that sees the truth: shares follow from the scenes alone."""
    truth = data.scenes

    class Seer(SceneCNN):
        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            rows = []
            for picture in pictures:
                apart = (known - picture).abs().flatten(1).sum(1)
                rows.append(int(apart.argmin()))
            codes = torch.from_numpy(truth[rows].astype(np.int64))
            sizes = zip(self.sizes, codes.unbind(-1), strict=True)
            hot = torch.cat([torch.nn.functional.one_hot(c, s) for s, c in sizes], -1)
            return hot.flatten(1).float(), torch.zeros(1)

    known = torch.from_numpy(np.array(data.pictures)).permute(0, 3, 1, 2).float() / 255
    judge = Seer()
    judge.read_vector = torch.nn.Identity()  # type: ignore[assignment]
    rows = np.arange(24)
    found = Judge(judge, data).baselines("query", rows)
    wanted, before = data.scenes[data.targets], data.scenes[data.references]
    assert found["true target"] == {"occupied": 1, "all": 1, "changed": 1}
    assert found["background"]["occupied"] == 0
    assert found["background"]["all"] == np.mean((wanted == 0).all(-1))
    assert found["reference"]["changed"] == 0
    assert found["reference"]["all"] == np.mean((wanted == before).all(-1))
    nearest = nearest_of(data, "query", rows)
    assert found["nearest"]["all"] == np.mean((wanted == data.scenes[nearest]).all(-1))


# painter and grid


def test_painter_draws_the_first_stage_that_the_second_one_saw() -> None:
    torch.manual_seed(0)
    spec = GanSpec(2, 4, width=1, noise=3, first_width=2)
    generator = build_generator(spec).eval()
    painter = Painter(spec, generator, SimpleNamespace())  # type: ignore[arg-type]
    conditions = np.random.default_rng(0).normal(size=(130, 4)).astype(np.float32)
    seen: list[torch.Tensor] = []
    generator.first.register_forward_hook(lambda module, inputs, out: seen.append(out[0]))
    drawn = painter.stages(conditions, torch.Generator().manual_seed(1))
    assert drawn[1].shape == (130, 64, 64, 3) and drawn[2].shape == (130, 128, 128, 3)
    assert len(seen) == 4  # twice in each of two parts: for itself and inside stage 2
    for one, other in ((0, 1), (2, 3)):
        torch.testing.assert_close(seen[one], seen[other])
    again = painter.paint(conditions, torch.Generator().manual_seed(1))
    assert np.array_equal(again, drawn[2])
    assert not np.array_equal(painter.paint(conditions, torch.Generator()), again)


def test_belief_weighs_images_by_their_place(data: Any, tiny_root: Path) -> None:
    features = np.random.default_rng(0).normal(size=(4, 5))
    mean = sum(features[place] / (place + 1) for place in range(4))
    expected = np.linalg.norm(features[0]) * mean / np.linalg.norm(mean)
    np.testing.assert_allclose(belief(features), expected, rtol=1e-5)
    np.testing.assert_allclose(belief(features[:1]), features[0], rtol=1e-5)

    torch.manual_seed(0)
    spec = GanSpec(1, 256, width=1)
    painter = Painter(spec, build_generator(spec).eval(), make_conditioner(tiny_root))
    imagine = Imagination(painter, data.pictures)
    images = np.array([5, 2, 9])
    vectors, _ = load_features(tiny_root, "3d_test", "scene-cnn", 32)
    told = belief(16 * vectors[images])[None]
    by_hand = painter.paint(told, torch.Generator().manual_seed(0))[0]
    # features computed anew may round apart by a level
    assert np.abs(imagine(images).astype(int) - by_hand).max() <= 1
    assert not np.array_equal(imagine(images), imagine(images[::-1]))


def test_grid_shows_every_picture_in_its_place() -> None:
    colours = [np.full((4, 4, 3), level, dtype=np.uint8) for level in (10, 80, 150, 220)]
    grid = draw_grid([colours[:2], [colours[2], None]], ["make it red", "b"], ["a", "b"], side=32)
    assert (grid == colours[0][0, 0]).all(-1).sum() >= 32 * 32
    for colour in colours[:3]:
        rows, columns = np.nonzero((grid == colour[0, 0]).all(-1))
        block = grid[rows[0] : rows[0] + 32, columns[0] : columns[0] + 32]
        assert (block == colour[0, 0]).all()
    assert not (grid == colours[3][0, 0]).all(-1).any()
    with pytest.raises(ValueError, match="expected 2 pictures"):
        draw_grid([colours[:1]], ["x"], ["a", "b"])
