"""Every model on every kind of image, the parts they are made of, and the published sizes."""

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.composers import COMPOSERS
from retrieval.encoders.bert import (
    BertTextEncoder,
    load_bert,
    load_minilm,
    random_bert,
    transformers,
)
from retrieval.encoders.image import load_weights
from retrieval.encoders.text import TransformerTextEncoder
from retrieval.encoders.towers import TOWERS, FeatureTower, ResNetTower, SwinTower, make_tower
from retrieval.models import (
    PUBLISHED_NAMES,
    TEXT_ENCODERS,
    LevelModel,
    ModelSpec,
    RetrievalModel,
    build_model,
)

WORDS = ("make", "it", "red", "blue", "a", "larger", "ball")
CAPTIONS = ["make it red", "a larger blue ball", "unheard words", "blue"]
B = len(CAPTIONS)
TINY = ModelSpec(embed_dim=16, feature_dim=10, words=WORDS, max_words=6, width=8, layers=2, heads=2)


def tiny_spec(model: str, images: str, **changes: object) -> ModelSpec:
    is_former = model == "comquery_former" and images != "features"
    text = "transformer" if is_former else "lstm"
    spec = dataclasses.replace(TINY, model=model, image_encoder=images, text_encoder=text)
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


KINDS = [
    (model, images)
    for model in COMPOSERS
    for images in ("features", "small-cnn")
    if (model, images) != ("tirg_last_conv", "features")
]
SPECS = [tiny_spec(*kind) for kind in KINDS]
every_model = pytest.mark.parametrize("spec", SPECS, ids=["-".join(kind) for kind in KINDS])


def build(spec: ModelSpec, seed: int = 3) -> RetrievalModel:
    torch.manual_seed(seed)
    return build_model(spec)


def pictures(spec: ModelSpec, seed: int = 1, count: int = B, side: int = 32) -> Tensor:
    """Float pictures or features of this many images."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.feature_dim,) if spec.image_encoder == "features" else (3, side, side)
    return torch.rand(count, *shape, generator=generator)


def trained_a_little(spec: ModelSpec) -> RetrievalModel:
    """In eval mode, after norms have seen something and weights have moved."""
    model = build(spec)
    optimizer = torch.optim.SGD(model.parameter_groups(0.05, 1.0))
    for step in range(3):
        ids = model.token_ids(CAPTIONS)
        losses = model.losses(pictures(spec, step), ids, pictures(spec, step + 9), contrast)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return model.eval()


def contrast(query: Tensor, target: Tensor) -> Tensor:
    """Batch-based classification."""
    return F.cross_entropy(query @ target.T, torch.arange(len(query)))


# every model


@every_model
def test_queries_and_embeddings_share_a_space(spec: ModelSpec) -> None:
    model = trained_a_little(spec)
    with torch.inference_mode():
        query = model.compose(pictures(spec), model.token_ids(CAPTIONS))
        embedding = model.embed(pictures(spec, 2))
    assert query.shape == embedding.shape
    assert query.dtype == torch.float32
    if isinstance(model, LevelModel):
        assert query.shape == (B, 3 * (8 + 8 * 8))
    else:
        assert query.shape == (B, 16)
        for each in (query, embedding):
            np.testing.assert_allclose(each.norm(dim=-1), 1, atol=1e-5)


RESTING = ("text_encoder.output.1.bias", "key.bias")
"""Slopes that are zero but for rounding: a norm in the composer takes a constant of the caption
away, and softmax one of attention's keys."""


@every_model
def test_every_parameter_gets_a_gradient(spec: ModelSpec) -> None:
    model = build(spec)
    losses = model.losses(pictures(spec), model.token_ids(CAPTIONS), pictures(spec, 2), contrast)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert name.endswith(RESTING) or parameter.grad.abs().max() > 0, name


@every_model
def test_a_row_depends_on_its_own_row_alone(spec: ModelSpec) -> None:
    model = trained_a_little(spec)
    images, ids = pictures(spec), model.token_ids(CAPTIONS)
    with torch.inference_mode():
        query, embedding = model.compose(images, ids), model.embed(images)
        for row in range(B):
            one = slice(row, row + 1)
            alone = model.compose(images[one], model.token_ids(CAPTIONS[one]))
            np.testing.assert_allclose(alone[0], query[row], atol=2e-4)
            np.testing.assert_allclose(model.embed(images[one])[0], embedding[row], atol=2e-4)


@every_model
def test_what_is_heard_and_seen_matters(spec: ModelSpec) -> None:
    model = trained_a_little(spec)
    images, ids = pictures(spec), model.token_ids(CAPTIONS)
    with torch.inference_mode():
        query = model.compose(images, ids)
        other_words = model.compose(images, ids.flip(0))
        other_images = model.compose(images.flip(0), ids)
    assert torch.allclose(query, other_words, atol=1e-5) == (spec.composer == "image_only")
    assert torch.allclose(query, other_images, atol=1e-5) == (spec.composer == "text_only")


@every_model
def test_saved_equals_loaded(spec: ModelSpec, tmp_path: Path) -> None:
    """From the plain values of the specification and the weights alone."""
    model = trained_a_little(spec)
    content = {"spec": dataclasses.asdict(spec), "weights": model.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    again = build(ModelSpec(**loaded["spec"]), seed=99)
    assert again.spec == spec
    again.load_state_dict(loaded["weights"])
    ids = model.token_ids(CAPTIONS)
    with torch.inference_mode():
        assert torch.equal(again.token_ids(CAPTIONS), ids)
        images = pictures(spec)
        assert torch.equal(again.eval().compose(images, ids), model.compose(images, ids))


@every_model
def test_groups_hold_every_parameter_once(spec: ModelSpec) -> None:
    model = build(spec)
    groups = model.parameter_groups(0.5)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    rates = {group["name"]: group["lr"] for group in groups}
    if spec.image_encoder == "features":
        assert rates == {"rest": 0.5}
    elif isinstance(model, LevelModel):
        assert rates == {"rest": 2.5, "backbone": 0.5}
    else:
        assert rates == {"rest": 0.5, "backbone": pytest.approx(0.05)}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        slow = {names[id(each)] for each in groups[1]["params"]}
        body = {name for name in names.values() if name.startswith("image_encoder.")}
        assert slow == body - {"image_encoder.output.weight", "image_encoder.output.bias"}


@every_model
def test_the_loss_can_be_differentiated_twice(spec: ModelSpec) -> None:
    """As explicit gradient augmentation does: the reference images' gradient is in the loss."""
    model = build(spec)
    images = pictures(spec).requires_grad_()
    losses = model.losses(images, model.token_ids(CAPTIONS), pictures(spec, 2), contrast)
    (slope,) = torch.autograd.grad(
        losses["metric"], images, create_graph=True, materialize_grads=True
    )
    if spec.composer == "text_only":
        assert slope.abs().max() == 0
        return
    slope.abs().sum().backward()
    moved = model.get_parameter("image_encoder.coarse.0.weight" if images.dim() == 4 else "scale")
    assert moved.grad is not None and moved.grad.abs().max() > 0


# losses


@pytest.mark.parametrize("spec", SPECS[:4], ids=["-".join(kind) for kind in KINDS[:4]])
def test_the_metric_sees_scaled_features(spec: ModelSpec) -> None:
    """s q and s t for vectors; the sum over six pairs for levels, whose scales are inside."""
    model = trained_a_little(spec)
    with torch.no_grad():
        model.scale.fill_(2.5)
    ids, images, targets = model.token_ids(CAPTIONS), pictures(spec), pictures(spec, 2)
    with torch.no_grad():
        losses = model.losses(images, ids, targets, contrast)
        query, target = model.compose(images, ids), model.embed(targets)
        if isinstance(model, LevelModel):
            sizes = [8, 64] * 3
            pairs = zip(query.split(sizes, 1), target.split(sizes, 1), strict=True)
            wanted = sum(contrast(*pair) for pair in pairs)
            norms = torch.stack([each.norm(dim=1) for each in query.split(sizes, 1)[::2]])
            torch.testing.assert_close(norms, torch.full_like(norms, 2.5))
        else:
            wanted = contrast(2.5 * query, 2.5 * target)
    torch.testing.assert_close(losses["metric"], wanted)


def test_similarity_of_levels_is_the_sum_of_six_dot_products() -> None:
    spec = tiny_spec("comquery_former", "small-cnn")
    model = trained_a_little(spec)
    with torch.inference_mode():
        query = model.compose(pictures(spec), model.token_ids(CAPTIONS))
        target = model.embed(pictures(spec, 2))
    wanted = torch.zeros(B, B)
    for low, high in ((0, 8), (8, 72), (72, 80), (80, 144), (144, 152), (152, 216)):
        for row in range(B):
            for column in range(B):
                wanted[row, column] += query[row, low:high] @ target[column, low:high]
    torch.testing.assert_close(query @ target.T, wanted, rtol=1e-4, atol=1e-3)


def test_compose_ae_brings_its_losses_and_the_symmetry_of_the_same_metric() -> None:
    spec = tiny_spec("composeAE", "features")
    model = trained_a_little(spec)
    ids, images, targets = model.token_ids(CAPTIONS), pictures(spec), pictures(spec, 2)
    with torch.no_grad():
        losses = model.losses(images, ids, targets, contrast)
        reference, caption = model.image_encoder(images), model.text_encoder(ids)
        back = model.composer.rotate(model.image_encoder(targets), caption, -1.0)
        scale = model.scale
        wanted = 0.01 * contrast(scale * F.normalize(back), scale * F.normalize(reference))
    assert set(losses) == {
        "metric",
        "image_reconstruction",
        "text_reconstruction",
        "rotational_symmetry",
    }
    torch.testing.assert_close(losses["rotational_symmetry"], wanted)
    assert set(
        build(tiny_spec("realspaceconcatAE", "features")).losses(images, ids, targets, contrast)
    ) == {"metric", "image_reconstruction", "text_reconstruction"}


def test_anchor_identical_orthonormal_features_at_the_initial_scale() -> None:
    """Logits 16 on the diagonal, 0 elsewhere: ln(1 + (B - 1) e^-16)."""
    spec = tiny_spec("imgonly", "features", embed_dim=10)
    model = build(spec)
    with torch.no_grad():
        model.image_encoder.output.weight.copy_(torch.eye(10))
        model.image_encoder.output.bias.zero_()
    seen: list[Tensor] = []

    def metric(query: Tensor, target: Tensor) -> Tensor:
        seen.append(query @ target.T)
        return contrast(query, target)

    images = torch.eye(10)[:B]
    losses = model.losses(images, model.token_ids(CAPTIONS), images, metric)
    torch.testing.assert_close(seen[0].detach(), 16 * torch.eye(B))
    assert losses["metric"].item() == pytest.approx(np.log1p((B - 1) * np.exp(-16)), abs=1e-7)


def test_anchor_initial_logits_of_the_levels() -> None:
    """Identical features: s^2 = 16 for global ones, 8 s_q s_t = 128 for local ones."""
    spec = tiny_spec("comqueryformer", "small-cnn", text_encoder="transformer")
    model = build(spec).eval()
    with torch.inference_mode():
        embedding = model.embed(pictures(spec))
    sizes = [part.square().sum(1) for part in embedding.split([8, 64] * 3, 1)]
    for number, size in enumerate(sizes):
        np.testing.assert_allclose(size, (16, 128)[number % 2], rtol=1e-4)


# names and what does not go together


def test_published_names_are_the_registrys() -> None:
    assert {*PUBLISHED_NAMES.values()} <= {*COMPOSERS}
    for theirs, ours in PUBLISHED_NAMES.items():
        assert ModelSpec(model=theirs).composer == ours == ModelSpec(model=ours).composer
        images = "small-cnn" if ours == "tirg_last_conv" else "features"
        model = build(tiny_spec(theirs, images))
        assert type(model.composer) is COMPOSERS[ours]


def test_what_cannot_be_built_is_said() -> None:
    cases = {
        "unknown model 'trig'. Did you mean 'tirg'": {"model": "trig"},
        "unknown image encoder 'resnet19'. Did you mean 'resnet18'": {"image_encoder": "resnet19"},
        "unknown text encoder 'lsmt'. Did you mean 'lstm'": {"text_encoder": "lsmt"},
        "tirg_lastconv reads an image encoder's last map, and features have none; use tirg": {
            "model": "tirg_lastconv",
            "image_encoder": "features",
        },
        "needs their size as feature_dim, got 0": {"image_encoder": "features", "feature_dim": 0},
        "text encoder gru needs the vocabulary's words, got none": {
            "text_encoder": "gru",
            "words": (),
        },
        "states of three text layers, and lstm gives none; use bert or transformer": {
            "model": "comqueryformer"
        },
    }
    for message, changes in cases.items():
        spec = dataclasses.replace(TINY, image_encoder="small-cnn")
        with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(".", r"\.")):
            build_model(dataclasses.replace(spec, **changes))  # type: ignore[arg-type]


def test_features_of_another_size_are_refused() -> None:
    model = build(tiny_spec("tirg", "features"))
    with pytest.raises(ValueError, match=r"expects features \(B, 10\), got \(3, 7\); use the"):
        model.embed(torch.zeros(3, 7))


# image encoders


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "efficientnet-lite0"])
def test_towers_give_a_map_levels_and_embeddings(name: str) -> None:
    torch.manual_seed(0)
    tower = make_tower(name, 7).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        last, levels, embeddings = tower.map(images), tower.levels(images), tower(images)
        assert embeddings.shape == (2, 7)
        assert last.shape[:2] == (2, tower.channels)
        assert tuple(level.shape[1] for level in levels) == tower.level_channels
        sides = [level.shape[2] for level in levels]
        assert sides == sorted(sides, reverse=True)
        torch.testing.assert_close(tower.head(last), embeddings)
        alone = tower(images[1:])[0]
    np.testing.assert_allclose(alone, embeddings[1], rtol=1e-3, atol=1e-4)


def test_small_cnn_keeps_a_grid_of_16_places() -> None:
    """Five convolutions; the Linear tells what stands where, which pooling would not."""
    torch.manual_seed(0)
    tower = make_tower("small-cnn", 5).eval()
    with torch.inference_mode():
        maps = tower.map(torch.rand(1, 3, 64, 64))
        assert maps.shape == (1, 256, 4, 4)
        moved = maps.roll(2, -1)
        torch.testing.assert_close(moved.mean((2, 3)), maps.mean((2, 3)))
        assert (tower.head(moved) - tower.head(maps)).abs().max() > 1e-4
        assert tower(torch.rand(1, 3, 128, 96)).shape == (1, 5)
    convolutions = [weight for weight in tower.parameters() if weight.dim() == 4]
    assert len(convolutions) == 5
    assert tower.get_parameter("output.weight").shape == (5, 256 * 16)


def test_resnet_tower_is_torchvisions(tmp_path: Path) -> None:
    """Weights of a file, normalised pictures, the pooled map before the classifier."""
    from retrieval.vision import torchvision

    torch.manual_seed(1)
    net = torchvision().models.resnet18(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    tower = ResNetTower("resnet18", 512, str(tmp_path / "net.pth")).eval()
    with torch.no_grad():
        tower.get_parameter("output.weight").copy_(torch.eye(512))
        tower.get_parameter("output.bias").zero_()
    picture = torch.rand(1, 3, 96, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    net.fc = torch.nn.Identity()
    with torch.inference_mode():
        wanted = net((picture - mean[:, None, None]) / std[:, None, None])
        np.testing.assert_allclose(tower(picture), wanted, rtol=1e-3, atol=1e-5)


def test_swin_levels_are_where_the_published_ones_are(tmp_path: Path) -> None:
    """After the merging that follows stages 2 and 3, and after the last norm."""
    from retrieval.vision import torchvision

    torch.manual_seed(1)
    net = torchvision().models.swin_t(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "swin.pt")
    tower = SwinTower(8, str(tmp_path / "swin.pt")).eval()
    picture = torch.rand(1, 3, 64, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    kept: list[Tensor] = []
    for module in (net.features[4], net.features[6], net.norm):
        module.register_forward_hook(lambda module, given, result: kept.append(result))
    with torch.inference_mode():
        net((picture - mean[:, None, None]) / std[:, None, None])
        for level, wanted in zip(tower.levels(picture), kept, strict=True):
            np.testing.assert_allclose(level.permute(0, 2, 3, 1), wanted, rtol=1e-3, atol=1e-4)
    drops = [each.p for each in tower.modules() if type(each).__name__ == "StochasticDepth"]
    assert max(drops) == pytest.approx(0.1)


def test_weights_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    net = make_tower("small-cnn", 4)
    with pytest.raises(FileNotFoundError, match=r"no weights of resnet18 at .*none\.pt; give"):
        load_weights(net, "resnet18", str(tmp_path / "none.pt"))
    for content in (b"", b"nonsense"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot get weights '.*bad\.pt' of resnet18"):
            load_weights(net, "resnet18", str(tmp_path / "bad.pt"))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="of resnet18 .* give the path of a state dict"):
        load_weights(net, "resnet18", str(tmp_path / "other.pt"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_weights(net, "resnet18", "none")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_features_of_any_scale_feed_alike() -> None:
    tower = FeatureTower(10, 4)
    features = torch.randn(3, 10)
    torch.testing.assert_close(tower(features), tower(1000 * features))
    entries = 10**0.5 * F.normalize(features)
    torch.testing.assert_close(entries.square().mean(1), torch.ones(3))
    torch.testing.assert_close(tower(features), tower.output(entries))


@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="optional package")
def test_efficientnet_lite_trains_under_a_composer() -> None:
    spec = tiny_spec("tirg_lastconv", "efficientnet-lite0", embed_dim=8)
    model = build(spec)
    losses = model.losses(pictures(spec), model.token_ids(CAPTIONS), pictures(spec, 2), contrast)
    losses["metric"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="efficientnet-lite0 gives none; use swin_t, a ResNet"):
        build(tiny_spec("comqueryformer", "efficientnet-lite0", text_encoder="transformer"))


# text encoders


@pytest.mark.parametrize("name", [name for name in TEXT_ENCODERS if name != "minilm"])
def test_captions_read_the_same_alone(name: str) -> None:
    """Ids are as long as the longest caption; padding never counts."""
    spec = tiny_spec("tirg", "features", text_encoder=name, text_dim=64, text_layers=2)
    model = trained_a_little(spec)
    ids = model.token_ids(CAPTIONS)
    assert ids.shape == (B, 6 if name == "cnn" else 4)
    assert model.token_ids([" ".join(WORDS) * 3]).shape == (1, 6)
    with torch.inference_mode():
        together = model.text_encoder(ids)
        for row, caption in enumerate(CAPTIONS):
            alone = model.text_encoder(model.token_ids([caption]))[0]
            np.testing.assert_allclose(alone, together[row], atol=1e-5)
        empty = model.text_encoder(model.token_ids(["", "red"]))
    assert together.shape == (B, 64)
    assert torch.isfinite(empty).all()
    assert not torch.allclose(empty[0], empty[1])


def test_transformer_places_matter_and_levels_are_its_states() -> None:
    torch.manual_seed(0)
    encoder = TransformerTextEncoder(9, 8, layers=4).eval()
    ids = torch.tensor([[3, 4, 5], [5, 4, 3]])
    with torch.inference_mode():
        one, other = encoder(ids)
        levels = encoder.levels(ids)
        states = encoder.embedding(ids) + encoder.places[:3]
        for layer in encoder.layers:
            states = layer(states)
        wanted = encoder.output(states.mean(1))
    assert (one - other).abs().max() > 1e-3
    assert len(levels) == 3
    torch.testing.assert_close(levels[-1], states)
    torch.testing.assert_close(encoder(ids), wanted)


def test_bert_is_read_at_its_second_to_last_layer() -> None:
    """The mean over words of the layer before the last, which is then not built."""
    torch.manual_seed(0)
    net = random_bert(12, 64, 3).eval()
    ids = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
    with torch.inference_mode():
        states = net(
            input_ids=ids, attention_mask=(ids != 0).long(), output_hidden_states=True
        ).hidden_states
        levels = BertTextEncoder(net, "levels").eval().levels(ids)
        assert all(map(torch.equal, levels, states[-3:]))
        encoder = BertTextEncoder(net, "vector").eval()
        vectors = encoder(ids)
    torch.testing.assert_close(vectors[0], states[-2][0, :3].mean(0))
    torch.testing.assert_close(vectors[1], states[-2][1, 0])
    assert len(encoder.net.encoder.layer) == 2
    with pytest.raises(ValueError, match="read as levels needs at least 3 layers, got 2"):
        BertTextEncoder(net, "levels")


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `transformers` saves a small BERT with a word-piece tokenizer."""
    package = transformers()
    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "make", "it", "red", "##dish"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    package.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(4)
    random_bert(len(pieces), 64, 3).save_pretrained(folder)
    return folder


def test_bert_from_a_folder_is_frozen_except_in_comquery_former(saved_bert: Path) -> None:
    net, tokenizer = load_bert(str(saved_bert), length=6)
    assert tokenizer(["make it reddish", "red"]).tolist() == [
        [2, 5, 6, 7, 8, 3],
        [2, 7, 3, 0, 0, 0],
    ]
    spec = tiny_spec("composeAE", "features", text_encoder="bert", text_weights=str(saved_bert))
    model = build(spec).train()
    assert not any(p.requires_grad for p in model.text_encoder.parameters())
    assert not any(each.training for each in model.text_encoder.modules())
    torch.testing.assert_close(
        model.text_encoder.net.embeddings.word_embeddings.weight,
        net.embeddings.word_embeddings.weight,
    )
    learning = {id(p) for group in model.parameter_groups(0.1) for p in group["params"]}
    assert learning == {id(p) for p in model.parameters() if p.requires_grad}

    former = build(
        tiny_spec("comqueryformer", "small-cnn", text_encoder="bert", text_weights=str(saved_bert))
    ).train()
    assert all(p.requires_grad for p in former.text_encoder.parameters())
    assert former.text_encoder.training

    empty = build_model(spec, pretrained=False)  # a checkpoint fills it
    ours = empty.text_encoder.net.embeddings.word_embeddings.weight
    assert not torch.equal(ours, net.embeddings.word_embeddings.weight)
    empty.load_state_dict(model.state_dict())
    assert torch.equal(ours, model.text_encoder.net.embeddings.word_embeddings.weight)


def test_a_bert_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"cannot load a BERT and its tokenizer from '.*nowhere'"):
        load_bert(str(tmp_path / "nowhere"), length=6)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'dialog-retrieval\[bert\]'"):
        build(tiny_spec("tirg", "features", text_encoder="bert"))


def test_minilm_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.encoders.bert.MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(ImportError, match=r"pip install 'dialog-retrieval\[minilm\]'"):
        load_minilm(8)


@pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None, reason="optional package")
def test_minilm_knows_what_sentences_mean() -> None:
    spec = tiny_spec("tirg", "features", text_encoder="minilm", max_words=20)
    model = build(spec).train()
    pairs = ["a dark blue dress", "a navy gown", "the meeting was postponed until friday"]
    vectors = model.text_encoder.sentences(model.token_ids(pairs))
    np.testing.assert_allclose(vectors.norm(dim=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] + 0.3
    learning = [n for n, p in model.text_encoder.named_parameters() if p.requires_grad]
    assert learning == ["output.weight", "output.bias"]
    model.losses(pictures(spec, count=3), model.token_ids(pairs), pictures(spec, 2, 3), contrast)[
        "metric"
    ].backward()
    assert model.get_parameter("text_encoder.output.weight").grad.abs().max() > 0


# the published systems at full size


def linear_size(inner: int, outer: int) -> int:
    return inner * outer + outer


def norm_size(width: int) -> int:
    return 2 * width


RESNET18 = 11_689_512 - linear_size(512, 1000)  # torchvision's count, its classifier left out
SWIN_T = 28_288_354 - linear_size(768, 1000)
BERT_BASE = 109_482_240 - linear_size(768, 768)  # its pooler left out


def counts(model: RetrievalModel) -> dict[str, int]:
    """Numbers that learn in each part."""
    parts = ("image_encoder", "text_encoder", "composer")
    return {part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in parts}


def one_step(spec: ModelSpec, learning_rate: float) -> tuple[RetrievalModel, dict[str, Tensor]]:
    """Forward, loss and one optimiser step at 224 px in a batch of 2, with what must hold."""
    model = build(spec).train()
    images, targets = (pictures(spec, seed, count=2, side=224) for seed in (1, 2))
    losses = model.losses(images, model.token_ids(CAPTIONS[:2]), targets, contrast)
    torch.stack(list(losses.values())).sum().backward()
    before = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if not name.endswith(RESTING):
            assert parameter.grad.abs().max() > 0, name
            before[name] = parameter.detach().flatten()[:1000].clone()
    torch.optim.SGD(model.parameter_groups(learning_rate), momentum=0.9).step()
    moved = [
        name
        for name, parameter in model.named_parameters()
        if name in before and not torch.equal(parameter.detach().flatten()[:1000], before[name])
    ]
    assert len(moved) > 0.9 * len(before)  # a slope may be below the rounding of its weight
    return model, losses


def test_tirg_last_conv_at_full_size() -> None:
    """ResNet-18 and LSTM, D = 512, 224 px: 83 parameter tensors."""
    spec = ModelSpec(model="tirg_lastconv", image_encoder="resnet18", words=WORDS)
    model, losses = one_step(spec, 0.01)
    assert set(losses) == {"metric"}
    assert len(list(model.parameters())) == 83
    branch = (
        norm_size(1024) + (9 * 1024 * 1024 + 1024) + (9 * 1024 * 512 + 512)
    )  # norm, both convolutions
    lstm = 4 * (2 * 512 * 512 + 2 * 512)
    assert counts(model) == {
        "image_encoder": RESNET18 + linear_size(512, 512),
        "text_encoder": 512 * (len(WORDS) + 3) + lstm + linear_size(512, 512),
        "composer": 2 * branch + 4,
    }
    assert model.scale.item() == pytest.approx(4.0, abs=0.2)
    with torch.inference_mode():
        assert model.eval().image_encoder.map(torch.rand(1, 3, 224, 224)).shape == (1, 512, 7, 7)
        assert model.embed(torch.rand(1, 3, 224, 224)).shape == (1, 512)


def test_compose_ae_at_full_size() -> None:
    """ResNet-18, D = 512, captions of 768 numbers as BERT-base gives them."""
    spec = ModelSpec(
        model="composeAE", image_encoder="resnet18", text_encoder="bert", text_layers=3, words=WORDS
    )
    model, losses = one_step(spec, 0.01)
    assert set(losses) == {
        "metric",
        "image_reconstruction",
        "text_reconstruction",
        "rotational_symmetry",
    }
    assert model.text_encoder(model.token_ids(CAPTIONS)).shape == (B, 768)
    projection = (
        norm_size(512)
        + 2 * linear_size(512, 512)
        + norm_size(768)
        + linear_size(768, 512)
        + linear_size(512, 512)
    )
    mapping = norm_size(1024) + linear_size(1024, 512) + linear_size(512, 512)
    convolution = 64 * 5 * 3 + 64
    decoders = 2 * norm_size(512) + 2 * linear_size(512, 512)
    decoders += linear_size(512, 768) + linear_size(768, 768)
    found = counts(model)
    assert found["composer"] == 2 * projection + 2 * mapping + convolution + decoders + 4
    assert found["image_encoder"] == RESNET18 + linear_size(512, 512)


def test_comquery_former_at_full_size() -> None:
    """Swin-T and a BERT-base configuration at random weights, width 768, three levels.

    Published parameters that never learn are not built: BERT's pooler, the text pooler and the
    last layer of the text stream.
    """
    words = tuple(f"word{number}" for number in range(30_522 - 3 - len(WORDS)))
    spec = ModelSpec(
        model="comqueryformer",
        image_encoder="swin_t",
        text_encoder="bert",
        words=(*WORDS, *words),
        max_words=40,
    )
    model, losses = one_step(spec, 1e-3)
    assert set(losses) == {"metric"}
    attention = 4 * linear_size(768, 768)
    layer = 2 * attention + linear_size(768, 3072) + linear_size(3072, 768) + 3 * norm_size(768)
    learner = 9 * 768 * 8 + 8 + 1
    assert counts(model) == {
        "image_encoder": SWIN_T,
        "text_encoder": BERT_BASE,
        "composer": linear_size(384, 768)
        + 2 * linear_size(768, 768)
        + 3 * linear_size(768, 768)
        + 2 * 768
        + (4 + 3) * layer
        + linear_size(768, 768)
        + 6 * learner,
    }
    with torch.inference_mode():
        images = pictures(spec, count=1, side=224)
        levels = model.eval().image_encoder.levels(images)
        embedding = model.embed(images)
        query = model.compose(images, model.token_ids(CAPTIONS[:1]))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (384, 14, 14),
        (768, 7, 7),
        (768, 7, 7),
    ]
    assert embedding.shape == query.shape == (1, 3 * (768 + 6144))
