"""One's own catalogue: messy tables read, pictures measured, captions true, splits apart."""

import dataclasses
import itertools
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from retrieval.catalog.captions import DRAWS, MAX_WORDS, differences, product_caption
from retrieval.catalog.claims import (
    ABSENT,
    CLEAR,
    COMPARISONS,
    MUCH,
    PRESENT,
    SAME,
    SLIGHT,
    SLIGHT_AT_MOST,
    TEMPLATES,
    Claim,
    said,
)
from retrieval.catalog.colors import color_layout
from retrieval.catalog.encoding import Reduction, extract_catalogue
from retrieval.catalog.gallery import CatalogGallery
from retrieval.catalog.language import Language
from retrieval.catalog.looks import MEASURES, foreground, measure, to_lab
from retrieval.catalog.nouns import as_noun, singular
from retrieval.catalog.pairs import CaptionedPairs, main_columns
from retrieval.catalog.roles import PictureFiles, Roles, cast_of, phrase
from retrieval.catalog.table import find_table, read_table
from retrieval.datasets import COMPOSED, DATASETS, catalog
from retrieval.text import Vocabulary, words
from tests.tiny_catalog import make_shop, products, write_table

OWN = "catalog-cnn+color"
PRODUCT_PHOTOS = Path(__file__).resolve().parents[3] / "shared/data/product_photos"
NAMES = [one.name for one in MEASURES]


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory):
    """Nothing is made in the user's own cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shop"
    make_shop(root, 80)
    return root


@pytest.fixture(scope="module")
def opened(shop):
    return catalog.open_catalogue(shop)


@pytest.fixture(scope="module")
def extracted(opened):
    assert extract_catalogue(opened, OWN, epochs=1) == OWN
    return opened


def table_of(tmp_path, content: bytes):
    path = tmp_path / "catalog.csv"
    path.write_bytes(content)
    return read_table(path)


# ---- tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_are_read_in_any_encoding_and_with_any_delimiter(tmp_path, encoding, delimiter):
    lines = [["id", "Größe", "name"], ["1", "groß", 'a "fine", 3.5; one'], ["2", "Café", "x\ty|z"]]
    quoted = [
        delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines
    ]
    table = table_of(tmp_path, "\r\n".join(quoted).encode(encoding))
    assert table.columns == ("id", "Größe", "name")
    assert table.delimiter == delimiter
    assert table.column("Größe") == ["groß", "Café"]
    assert table.column("name") == ['a "fine", 3.5; one', "x y|z"]


def test_bytes_that_no_encoding_knows_are_still_read(tmp_path):
    table = table_of(tmp_path, b"id,name\n1,caf\xe9 \x81\n")
    assert table.encoding == "latin-1"
    assert table.column("id") == ["1"]
    assert table.column("name")[0].startswith("café")


def test_missing_cells_say_nothing(tmp_path):
    table = table_of(tmp_path, b"id,a,b\n1,NA,n/a\n2,,null\n3, - ,NaN\n4,Nappa,none\n5,nana\n")
    assert table.column("a") == ["", "", "", "Nappa", "nana"]
    assert table.column("b") == [""] * 5


def test_rows_with_too_many_cells_are_counted_and_headers_made_unique(tmp_path):
    table = table_of(tmp_path, b"id,a,a,\n1,x,y,z\n2,x,y,z,more\n\n3,x\n,,,\n4,x,y,z,,\n")
    assert table.columns == ("id", "a", "a (2)", "column 4")
    assert [row[0] for row in table.rows] == ["1", "3", "4"]
    assert table.dropped == {"rows with more cells than the header": 1}


def test_a_delimiter_may_be_declared(tmp_path):
    table = table_of(tmp_path, b"sep=;\r\nid;a,b\r\n1;x,y\r\n")
    assert table.columns == ("id", "a,b")
    assert table.rows == (("1", "x,y"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"id,a\n", "has a header but no rows"),
    ],
)
def test_tables_without_rows_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        table_of(tmp_path, content)


def test_the_table_is_found_or_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_table(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="expected a table"):
        find_table(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "goods.TSV").write_text("x")
    assert find_table(tmp_path).name == "goods.TSV"
    (tmp_path / "more.csv").write_text("x")
    with pytest.raises(ValueError, match=r"holds 2 tables .*--table"):
        find_table(tmp_path)
    assert find_table(tmp_path, "more.csv").name == "more.csv"
    (tmp_path / "catalog.csv").write_text("x")
    assert find_table(tmp_path).name == "catalog.csv"
    with pytest.raises(FileNotFoundError, match="no table lots.csv"):
        find_table(tmp_path, "lots.csv")


# ---- roles


def test_roles_are_found_from_the_cells(shop):
    cast = cast_of(read_table(shop / "catalog.csv"), Roles(), PictureFiles(shop))
    assert (cast.id_column, cast.title) == ("sku", "name")
    assert cast.attributes == ("kind", "colour", "for whom")  # the price is no word


def test_roles_may_be_given(shop):
    table = read_table(shop / "catalog.csv")
    given = Roles.of("sku", "colour, price", "kind")
    cast = cast_of(table, given, PictureFiles(shop))
    assert (cast.attributes, cast.title) == (("colour", "price"), "kind")
    with pytest.raises(ValueError, match=r"unknown column 'color'. Did you mean 'colour'"):
        cast_of(table, Roles.of(attributes=["color"]), PictureFiles(shop))
    with pytest.raises(ValueError, match=r"no cell of column 'kind' names a picture.*--id-column"):
        cast_of(table, Roles.of("kind"), PictureFiles(shop))


@pytest.mark.parametrize(
    "cell",
    [
        "17",
        "17.0",
        "17.JPG",
        "a/17.jpg",
        "A\\17.jpg",
        "https://shop.example/x/17.jpg?w=300",
        "17.png",
    ],
)
def test_cells_name_pictures_in_many_ways(tmp_path, cell):
    (tmp_path / "a").mkdir()
    for name in ("a/17.jpg", "18.jpg", "a/18.jpg", "17.txt"):
        (tmp_path / name).write_bytes(b"")
    files = PictureFiles(tmp_path)
    assert files.named(cell) == "a/17.jpg"
    assert files.named("a/18") == files.named("a/18.jpg") == "a/18.jpg"
    assert files.named("18.jpg") == "18.jpg"
    assert files.named("19") is None


def test_folders_without_pictures_or_ids_are_refused(tmp_path):
    (tmp_path / "catalog.csv").write_text("id,a\n1,x\n2,y\n")
    with pytest.raises(ValueError, match="expected pictures .* found none"):
        catalog.open_catalogue(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "seven.png")
    with pytest.raises(ValueError, match=r"no column of the table names the pictures"):
        catalog.open_catalogue(tmp_path)


# ---- a messy folder


def test_a_messy_catalogue_is_read_as_far_as_it_goes(tmp_path):
    """Every defect is counted once; what is left is right."""
    root = tmp_path / "mess"
    rows = make_shop(root, 30)
    photos = root / "photos"
    shutil.copy(photos / "1000.png", photos / "idle.png")  # 1 picture without a row
    (photos / "1003.png").write_bytes(b"not a picture")  # 2 broken
    (photos / "1004.png").write_bytes((photos / "1005.png").read_bytes()[:90])
    (photos / "1006.png").unlink()  # 1 row without a picture
    Image.open(photos / "1007.png").convert("L").save(photos / "1007.png")  # these are fine
    Image.open(photos / "1008.png").resize((20, 31)).save(photos / "1008.png")
    Image.open(photos / "1009.png").convert("P").save(photos / "1009.png")
    Image.new("RGBA", (48, 48), (0, 0, 0, 0)).save(photos / "1010.png")
    rows[11]["colour"], rows[12]["name"], rows[13]["kind"] = "NA", "", "-"
    rows += [{**rows[0], "colour": "Green"}, {**rows[1], "sku": ""}]  # duplicate, without id
    rows += [{**rows[2], "sku": "1002.png"}]  # another id for the picture of 1002
    write_table(root / "catalog.csv", rows, "cp1252", ";")
    with open(root / "catalog.csv", "ab") as file:
        file.write(b"1;2;3;4;5;6;7;8\r\n")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    opened = catalog.open_catalogue(root)

    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before  # never written to
    assert opened.dropped == {
        "broken pictures": 2,
        "pictures without a row": 1,
        "rows whose id came before": 1,
        "rows whose picture came before": 1,
        "rows with more cells than the header": 1,
        "rows without a picture": 1,
        "rows without an id": 1,
    }
    assert sorted(opened.names) == [str(1000 + n) for n in range(30) if n not in (3, 4, 6)]
    assert "2 broken pictures" in opened.summary()
    by_name = dict(zip(opened.names, opened.rows, strict=True))
    assert by_name["1000"]["colour"] == rows[0]["colour"]  # the first of two rows counts
    assert by_name["1011"]["colour"] == ""
    pictures = dict(zip(opened.names, opened.pictures, strict=True))
    assert (np.asarray(pictures["1010"]) == 255).all()  # transparent is white, not black
    for name in ("1000", "1001"):  # the right picture with each id
        with Image.open(photos / f"{name}.png") as image:
            shown = np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR))
        assert np.abs(pictures[name].astype(int) - shown).max() <= 2
    codes = dict(zip(opened.names, opened.codes, strict=True))
    assert codes["1011"][opened.cast.attributes.index("colour")] == 0


def test_too_few_products_are_refused_with_the_reasons(tmp_path):
    make_shop(tmp_path / "few", 5)
    for name in ("1000", "1001"):
        (tmp_path / "few" / "photos" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"at least 4 products .* got 3 \(.*2 broken pictures"):
        catalog.open_catalogue(tmp_path / "few")
    for path in (tmp_path / "few" / "photos").iterdir():
        path.write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError)):
        catalog.open_catalogue(tmp_path / "few")


def test_a_table_of_ids_alone_leaves_what_can_be_seen(tmp_path):
    make_shop(tmp_path / "bare", 12)
    lines = ["id"] + [str(1000 + number) for number in range(12)]
    (tmp_path / "bare" / "catalog.csv").write_text("\n".join(lines))
    opened = catalog.open_catalogue(tmp_path / "bare")
    assert opened.cast.attributes == () and opened.cast.title is None
    kinds = {
        claim.kind
        for triplet in catalog.relative_triplets(opened, "train")
        for claim in opened.language.reader.read(triplet.caption)
    }
    assert kinds <= {"more", "less", "same"} and len(kinds) > 1


# ---- splits


def test_splits_are_disjoint_and_do_not_move_when_the_catalogue_grows(tmp_path, opened):
    train, test = (set(opened.names[opened.part(split)]) for split in catalog.SPLITS)
    assert not train & test
    assert train | test == {str(1000 + number) for number in range(80)}
    make_shop(tmp_path / "grown", 120)
    rows = products(120)[::-1]
    write_table(tmp_path / "grown" / "catalog.csv", rows)
    grown = catalog.open_catalogue(tmp_path / "grown")
    assert train <= set(grown.names[grown.part("train")])
    assert test <= set(grown.names[grown.part("test")])
    shares = [catalog.split_of(str(number)) == "test" for number in range(8000)]
    assert abs(np.mean(shares) - 0.25) < 0.02
    with pytest.raises(ValueError, match=r"unknown split 'tests'. Did you mean 'test'"):
        opened.part("tests")


@pytest.mark.parametrize("count", [4, 5, 7])
def test_small_catalogues_have_two_products_in_each_split(tmp_path, count):
    make_shop(tmp_path / "small", count)
    opened = catalog.open_catalogue(tmp_path / "small")
    assert 2 <= opened.train_size <= count - 2


# ---- what can be seen


def drawn(box=(30, 20, 90, 100), fill=(120, 120, 120), size=128, **_):
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).rectangle(box, fill=fill)
    return np.asarray(image)


def measured(*pictures):
    return [dict(zip(NAMES, row, strict=True)) for row in measure(np.stack(pictures)).tolist()]


def test_lab_is_that_of_the_standard():
    rgb = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
    wanted = [[100, 0, 0], [53.2, 80.1, 67.2], [87.7, -86.2, 83.2], [32.3, 79.2, -107.9], [0, 0, 0]]
    np.testing.assert_allclose(to_lab(rgb[None])[0, 0], wanted, atol=0.15)


def test_measures_of_a_box_can_be_worked_out():
    (box,) = measured(drawn())
    assert box["size"] == pytest.approx(61 * 81 / 128**2, rel=1e-6)
    assert box["length"] == pytest.approx(np.log(81 / 61), abs=1e-6)
    assert box["lightness"] == pytest.approx(50.4, abs=0.2)  # L of grey 120
    for name in ("colorfulness", "red", "yellow", "green", "blue", "purple", "pattern"):
        assert box[name] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("red", (210, 20, 40)), ("yellow", (240, 220, 30)), ("green", (30, 150, 60)),
        ("blue", (30, 60, 200)), ("blue", (30, 40, 110)), ("purple", (120, 30, 140)),
    ],
)  # fmt: skip
def test_each_colour_is_measured_as_its_own(name, color):
    (seen,) = measured(drawn(fill=color))
    tints = {tint: seen[tint] for tint in ("red", "yellow", "green", "blue", "purple")}
    assert max(tints, key=tints.get) == name
    assert tints[name] > 0.4 and sum(tints.values()) == pytest.approx(tints[name])


def test_more_of_something_measures_more():
    plain = drawn()
    striped = plain.copy()
    striped[22:98:6, 32:88] = 20
    pairs = {
        "lightness": (drawn(fill=(160, 160, 160)), plain),
        "colorfulness": (drawn(fill=(160, 100, 100)), plain),
        "pattern": (striped, plain),
        "length": (drawn(box=(45, 10, 80, 118)), plain),
        "size": (drawn(box=(10, 10, 115, 115)), plain),
    }
    for name, (more, less) in pairs.items():
        high, low = measured(more, less)
        assert high[name] > low[name] + 0.05, name
    two_shirts = (drawn(fill=(250, 250, 250), box=(20, 20, 110, 110)), plain)
    assert measured(*two_shirts)[0]["size"] < measured(plain)[0]["size"] * 4  # near-white survives


def test_the_product_is_found_whatever_the_ground():
    for ground in ("white", "black", (200, 220, 240)):
        image = Image.new("RGB", (64, 64), ground)
        pen = ImageDraw.Draw(image)
        pen.rectangle((20, 10, 43, 53), outline=(180, 60, 20), width=3)  # a hollow frame
        inside = foreground(to_lab(np.asarray(image)[None]))[0]
        wanted = np.zeros((64, 64), bool)
        wanted[10:54, 20:44] = True  # its hole is filled
        np.testing.assert_array_equal(inside, wanted)
    noise = np.random.default_rng(0).integers(256, size=(1, 64, 64, 3)).astype(np.uint8)
    assert foreground(to_lab(noise)).all()  # no ground: the whole picture
    assert foreground(to_lab(np.full((1, 64, 64, 3), 255, np.uint8))).all()  # nothing on it


def test_measures_do_not_depend_on_the_pictures_beside():
    rng = np.random.default_rng(0)
    pictures = np.stack([drawn(fill=tuple(rng.integers(256, size=3).tolist())) for _ in range(70)])
    together = measure(pictures)
    assert together.shape == (70, len(MEASURES)) and np.isfinite(together).all()
    np.testing.assert_allclose(measure(pictures[69:]), together[69:], rtol=1e-5, atol=1e-6)
    assert measure(pictures[:0]).shape == (0, len(MEASURES))


def test_the_colour_layout_is_the_mean_of_each_cell():
    picture = np.random.default_rng(0).integers(256, size=(1, 28, 28, 3)).astype(np.uint8)
    vector, grid = color_layout(picture, side=4)
    lab = to_lab(picture)[0]
    for row, column in itertools.product(range(4), range(4)):
        cell = lab[row * 7 : row * 7 + 7, column * 7 : column * 7 + 7].reshape(-1, 3)
        wanted = [*cell.mean(0), np.hypot(cell[:, 1], cell[:, 2]).mean()]
        np.testing.assert_allclose(grid[0, row * 4 + column] * 100, wanted, rtol=1e-3, atol=1e-2)
    assert vector.shape == (1, 12 + 64) and 0 <= vector[0, :12].sum() <= 1


# ---- how columns are said


def test_columns_are_said_by_what_stands_in_them(opened):
    manners = {column.name: column.manner for column in opened.language.columns}
    assert manners["kind"] == "noun"  # it ends the titles
    assert manners["colour"] == "color"
    assert manners["for whom"] == "for"
    assert manners["brand"] == "brand"  # it begins the titles
    assert manners["striped"] == manners["solid"] == "trait"
    brand = next(column for column in opened.language.columns if column.name == "brand")
    assert set(brand.phrases) == {"acme", "gini jony", "sol mar"}
    assert len(manners) == 6


def test_codes_are_what_the_table_says(opened):
    """Against the cells, one by one."""
    columns = opened.language.columns
    for row, codes in zip(opened.rows, opened.codes, strict=True):
        for column, code in zip(columns, codes.tolist(), strict=False):
            if column.manner == "trait":
                assert code == (PRESENT if column.name in row["name"].lower() else ABSENT)
            elif column.manner == "brand":
                assert (
                    row["name"].lower().replace(" and ", " ").startswith(column.phrases[code - 1])
                )
            else:
                assert column.phrases[code - 1] == row[column.name].lower()


def test_measures_are_in_spreads_of_the_train_pictures(opened):
    first = opened.language.first_measure
    raw = measure(opened.pictures)
    train = raw[: opened.train_size].astype(np.float64)
    wanted = np.rint((raw - train.mean(0)) / np.maximum(train.std(0), 1e-9) * 1000)
    at = [NAMES.index(name) for name in ("lightness", "red", "pattern", "size")]
    np.testing.assert_allclose(opened.codes[:, first:][:, at], wanted[:, at], atol=1.01)


def test_english_of_tables():
    assert [as_noun(one) for one in ("watches", "heels", "eyewear")] == [
        "a watch", "heels", "eyewear",
    ]  # fmt: skip
    assert [singular(one) for one in ("stripes", "canvas", "bus", "kurtas")] == [
        "stripe", "canvas", "bus", "kurta",
    ]  # fmt: skip
    assert phrase("Noir & Blanc / été") == "noir blanc ete"
    assert phrase("黒") == ""


def test_a_language_pickles(opened):
    opened.language.reader.read("is red")
    twin = pickle.loads(pickle.dumps(opened.language))
    assert twin == opened.language and isinstance(twin, Language)
    assert twin.reader.read("is red") == opened.language.reader.read("is red")


# ---- captions


def random_pairs(opened, count, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(opened.codes), size=(count, 2))
    return [(a, b, rng.random(DRAWS)) for a, b in pairs.tolist()]


def test_every_caption_is_true_short_and_spelt_in_the_vocabulary(opened):
    reader, kinds, captions = opened.language.reader, Counter(), []
    for shown, meant, draws in random_pairs(opened, 3000):
        caption = product_caption(opened.language, opened.codes[shown], opened.codes[meant], draws)
        assert caption == " ".join(words(caption)) and len(caption.split()) <= MAX_WORDS
        assert reader.is_faithful(caption, opened.codes[shown], opened.codes[meant]), caption
        kinds.update(claim.kind for claim in reader.read(caption))
        captions.append(caption)
    assert sorted(kinds) == ["instead", "is", "lacks", "less", "more", "other", "same"]
    relative = sum(kinds[kind] for kind in ("more", "less", "other"))
    assert 0.35 < relative / sum(kinds.values()) < 0.8  # they lean on the reference
    vocabulary = Vocabulary.build(captions)
    assert vocabulary.decode(vocabulary.encode([captions[0]], 16)[0].tolist()) == captions[0]


def slow_truth(clause, shown, meant, brighter):
    """What a clause says of two rows of the table, worked out from its words; None if unknown."""
    colours = {"red", "green", "grey", "navy blue"}
    one, other = meant["colour"].lower(), shown["colour"].lower()
    for colour, old in itertools.product(colours, colours):
        if clause == f"is {colour} instead of {old}":
            return (one, other) == (colour, old)
    for colour in colours:
        if clause in (f"is {colour}", f"comes in {colour}", f"is {colour} in color"):
            return one == colour
        if clause == f"has no {colour}":
            return one != colour
    if clause == "is a different color":
        return one != other
    if clause in ("is for men", "is made for women"):
        return meant["for whom"].lower() == clause.split()[-1]
    if clause in ("is a disc", "shows a disc"):
        return meant["kind"] == "Discs"
    if clause == "is not striped":
        return "Striped" not in meant["name"]
    if clause in ("is by gini jony", "is from gini jony"):
        return meant["name"].startswith("Gini and Jony")
    if clause in ("is lighter", "looks brighter"):
        return brighter > 0.4
    if clause in ("is much darker", "is a lot darker in color"):
        return brighter < -1.5
    return None


def test_claims_agree_with_the_words_read_slowly(opened):
    """Clauses about the wrong pairs too, so that both answers occur."""
    raw = measure(opened.pictures)[:, 0].astype(np.float64)
    spread = raw[: opened.train_size].std()
    said_of, rng = set(), np.random.default_rng(1)
    for shown, meant, draws in random_pairs(opened, 2000):
        caption = product_caption(opened.language, opened.codes[shown], opened.codes[meant], draws)
        said_of |= set(caption.split(" and "))
    answers = Counter()
    for clause in sorted(said_of):
        (claim,) = opened.language.reader.read(clause)
        for shown, meant in rng.integers(len(opened.rows), size=(40, 2)).tolist():
            brighter = (raw[meant] - raw[shown]) / spread
            truth = slow_truth(clause, opened.rows[shown], opened.rows[meant], brighter)
            if truth is None or min(abs(abs(brighter) - 0.4), abs(abs(brighter) - 1.5)) < 0.002:
                continue
            assert bool(claim.holds(opened.codes[shown], opened.codes[meant])) == truth, clause
            answers[truth] += 1
    assert min(answers.values()) > 100


def test_what_the_two_share_is_left_out(opened):
    for shown, meant, draws in random_pairs(opened, 800, seed=2):
        reference, target = opened.codes[shown], opened.codes[meant]
        caption = product_caption(opened.language, reference, target, draws)
        for claim in opened.language.reader.read(caption):
            assert not (claim.new and any(reference[at] == code for at, code in claim.new)), caption
            if claim.kind == "lacks":
                assert any(reference[at] == code for at, code in claim.old), caption


def test_the_same_product_is_said_to_be_the_same(opened):
    codes = opened.codes[3]
    assert differences(opened.language, codes, codes) == []
    said_of = {
        product_caption(opened.language, codes, codes, row)
        for row in np.random.default_rng(0).random((40, DRAWS))
    }
    assert said_of == set(SAME)


def test_every_template_is_read_as_its_own_kind(opened):
    language = opened.language
    phrases = {column.manner: column.phrases[-2:] for column in language.columns}
    for manner, kinds in TEMPLATES.items():
        if manner not in phrases:
            continue
        new, old = (
            said(one or "x", manner) for one in (*phrases[manner], phrases[manner][-1])[-2:]
        )
        for kind, templates in kinds.items():
            for template in templates:
                (claim,) = language.reader.read(template.format(new=new, old=old))
                assert claim is not None and claim.kind == kind, template
    for at, one in enumerate(MEASURES):
        for kind, hows in (("more", one.more), ("less", one.less)):
            for how, (degree, templates) in itertools.product(hows, COMPARISONS.items()):
                for template in templates:
                    (claim,) = language.reader.read(template.format(how=how))
                    wanted = (kind, degree, frozenset([language.first_measure + at]))
                    assert (claim.kind, claim.degree, claim.columns) == wanted


def test_nonsense_claims_nothing(opened):
    reader = opened.language.reader
    for nonsense in ("", "blah", "is teal", "is a red", "is red and", "is much longer longer"):
        assert None in reader.read(nonsense)
        assert not reader.is_faithful(nonsense, opened.codes[0], opened.codes[1])


@pytest.mark.parametrize(
    ("degree", "low", "high"),
    [("", CLEAR, None), ("much", MUCH, None), ("slightly", SLIGHT, SLIGHT_AT_MOST)],
)
def test_degrees_hold_between_their_bounds(degree, low, high):
    rows = np.zeros((3000, 2 + len(MEASURES)), np.int32)
    rows[:, 4] = np.arange(3000)
    for kind, sign in (("more", 1), ("less", -1)):
        claim = Claim(kind, columns=frozenset([4]), degree=degree)
        true = claim.holds(np.zeros_like(rows[0]), rows * sign)
        wanted = [change > low and (high is None or change <= high) for change in range(3000)]
        assert true.tolist() == wanted
        assert not claim.holds(np.zeros_like(rows[0]), -rows * sign).any()


def test_unknown_values_are_neither_true_nor_false():
    unknown, red, blue = (np.array([code, *[0] * len(MEASURES)]) for code in (0, 1, 2))
    red_fact = frozenset([(0, 1)])
    assert not Claim("is", red_fact).holds(red, unknown)
    assert not Claim("lacks", old=red_fact).holds(red, unknown)
    assert Claim("lacks", old=red_fact).holds(red, blue)
    other = Claim("other", columns=frozenset([0]))
    assert [bool(other.holds(a, b)) for a, b in ((red, blue), (red, unknown), (red, red))] == [
        True, False, False,
    ]  # fmt: skip
    assert Claim("same").holds(red, unknown) and not Claim("same").holds(red, blue)


# ---- pairs and queries


def test_references_are_others_and_often_alike(opened):
    pairs = CaptionedPairs(opened.language, opened.codes)
    rng = np.random.default_rng(0)
    triplets = pairs(rng, 600)
    assert all(triplet.reference != triplet.target for triplet in triplets)
    assert len({triplet.target for triplet in triplets}) > 70

    def differ(a, b):
        return sum(
            opened.rows[a][name] != opened.rows[b][name] for name in ("kind", "colour", "for whom")
        )

    near = np.mean([differ(one.reference, one.target) for one in triplets])
    far = np.mean([differ(a, b) for a, b, _ in random_pairs(opened, 600)])
    assert near < far - 0.4
    again = pairs(np.random.default_rng(0), 600)
    assert again == triplets


def test_replacements_change_one_attribute_alone(opened):
    """Against all pairs, compared cell by cell."""
    names = ("kind", "colour", "for whom")
    assert [opened.language.columns[at].name for at in main_columns(opened.language)] == list(names)
    queries = catalog.replace_triplets(opened, "train")
    rows = opened.rows[opened.part("train")]
    assert len(set(queries)) == len(queries) > 50
    for reference, caption, target in queries:
        changed = [name for name in names if rows[reference][name] != rows[target][name]]
        assert len(changed) == 1
        old, new = (rows[one][changed[0]].lower() for one in (reference, target))
        assert caption == f"replace {old} with {new}"
    possible = {
        (a, name)
        for a, b in itertools.permutations(range(len(rows)), 2)
        for name in names
        if [one for one in names if rows[a][one] != rows[b][one]] == [name]
    }
    found = {
        (one.reference, name)
        for one in queries
        for name in names
        if rows[one.reference][name] != rows[one.target][name]
    }
    assert found == possible


# ---- features and loading


def test_a_reduction_keeps_distances():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 30)) + 3
    whole = Reduction.fit(rows, 30)
    assert whole.axes.shape == (30, 5)  # no more axes than there are
    reduced = whole(rows)
    assert reduced.mean(0) == pytest.approx(np.zeros(5), abs=1e-4)
    assert (reduced**2).sum(1).mean() == pytest.approx(1, rel=1e-4)
    ratio = np.linalg.norm(reduced[1:] - reduced[0], axis=1) / np.linalg.norm(
        rows[1:] - rows[0], axis=1
    )
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    two = Reduction.fit(rows, 2)(rows)
    assert np.var(two, axis=0).sum() < np.var(reduced, axis=0).sum() + 1e-6 or two.shape[1] == 2


def test_a_split_is_loaded_with_features_and_captions(extracted, shop):
    galleries = {}
    for split in catalog.SPLITS:
        gallery, triplets = DATASETS["catalog"](shop, split, OWN)
        galleries[split] = gallery
        assert isinstance(gallery, CatalogGallery) and gallery.kind == "catalog"
        assert gallery.names == extracted.names[extracted.part(split)]
        assert gallery.features.shape[0] == len(gallery) == gallery.grids.shape[0]
        np.testing.assert_allclose(np.linalg.norm(gallery.features, axis=1), 1, rtol=1e-5)
        per_product = catalog.TRIPLETS_PER_PRODUCT[split]
        assert Counter(one.target for one in triplets) == dict.fromkeys(
            range(len(gallery)), per_product
        )
        reader = gallery.spoken.reader
        for reference, caption, target in triplets:
            assert reader.is_faithful(
                caption, gallery.attributes[reference], gallery.attributes[target]
            )
        assert DATASETS["catalog"](shop, split, OWN)[1] == triplets  # always the same ones
    train, test = galleries["train"], galleries["test"]
    assert train.features.shape[1] == test.features.shape[1]
    assert train.spoken == test.spoken
    dataclasses.replace(train, kind="catalog")


def test_captions_are_written_once_and_anew_when_spoilt(extracted):
    files = list(catalog.workspace(extracted.root).glob("captions-test-*.json"))
    triplets = catalog.relative_triplets(extracted, "test")
    rng = np.random.default_rng([1, 23])
    part = extracted.codes[extracted.part("test")]
    target = np.tile(np.arange(len(part)), catalog.TRIPLETS_PER_PRODUCT["test"])
    assert triplets == CaptionedPairs(extracted.language, part).about(target, rng)
    for path in files:
        path.write_text("[[1, ")
    assert catalog.relative_triplets(extracted, "test") == triplets
    other = dataclasses.replace(extracted, codes=extracted.codes[::-1].copy())
    assert catalog.relative_triplets(other, "test") != triplets


def test_colours_are_in_the_features(extracted, shop):
    """Products of one colour are nearer to each other than to the rest."""
    gallery, _ = catalog.load(shop, "train", OWN)
    rows = extracted.rows[extracted.part("train")]
    scores = gallery.features @ gallery.features.T
    alike = np.array([[a["colour"] == b["colour"] for b in rows] for a in rows])
    others = ~np.eye(len(rows), dtype=bool)
    assert scores[alike & others].mean() > scores[~alike].mean() + 0.1


def test_features_are_made_once_and_anew_for_changed_products(tmp_path, shop, extracted, capsys):
    folder = catalog.workspace(shop) / "features" / OWN
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    extract_catalogue(extracted, OWN)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    root = tmp_path / "copy"
    shutil.copytree(shop, root)
    opened = catalog.open_catalogue(root)
    assert not catalog.is_extracted(opened, OWN)
    with pytest.raises(FileNotFoundError, match=r"no .* features .*extract_features --dataset"):
        catalog.load(root, "train", OWN)
    assert catalog.workspace(root) != catalog.workspace(shop)
    Image.new("RGB", (30, 30), "red").save(root / "photos" / "1000.png")
    assert catalog.open_catalogue(root).key != opened.key


@pytest.mark.parametrize("captions", catalog.CAPTIONS)
@pytest.mark.parametrize("split", catalog.SPLITS)
def test_a_composed_split_is_ready_for_training(extracted, shop, split, captions, monkeypatch):
    monkeypatch.setattr(catalog, "default_encoder", lambda: OWN)
    made = COMPOSED["catalog"](shop, split, captions=captions)
    assert (made.dataset, made.split, len(made)) == ("catalog", split, len(made.names))
    assert made.features is not None and made.pictures.shape[1:] == (128, 128, 3)
    assert made.queries and made.texts
    if split == "train":
        assert made.texts == tuple(query.caption for query in made.queries)
    rows = dict(zip(extracted.names, extracted.rows, strict=True))
    for reference, _, target in made.queries:
        assert reference != target
        alike = [
            name
            for name in made.names
            if all(
                rows[name][c] == rows[made.names[target]][c] for c in ("kind", "colour", "for whom")
            )
        ]
        hits = [
            n
            for n, label in zip(made.names, made.labels, strict=True)
            if label == made.labels[target]
        ]
        assert hits == (alike if captions == "replace" else [made.names[target]])
    if captions == "relative":
        fresh = made.sample(np.random.default_rng(5), 30)
        assert len(fresh) == 30 and set(fresh) - set(made.queries)
    else:
        assert made.sample is None


def test_pictures_of_another_size_change_neither_features_nor_captions(extracted, shop):
    small = catalog.load_composed(shop, "test", size=32, encoder=OWN)
    usual = catalog.load_composed(shop, "test", encoder=OWN)
    assert small.pictures.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(small.features, usual.features)
    assert small.queries == usual.queries


def test_what_a_composed_split_is_asked_for_wrongly_is_named(shop, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown kind of captions 'relativ'. Did you mean"):
        catalog.load_composed(shop, "train", captions="relativ")
    with pytest.raises(FileNotFoundError, match="no resnet18 features"):
        catalog.load_composed(shop, "train", encoder="resnet18")
    monkeypatch.setattr(catalog, "default_encoder", lambda: "resnet50")
    assert catalog.load_composed(shop, "train").features is None  # not extracted: left out
    made = catalog.load_composed(shop, "train", attributes="colour", title="kind")
    assert made.features is None and "women" not in " ".join(made.texts)


def test_the_default_encoder_is_one_that_is_installed(monkeypatch):
    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: None)
    assert catalog.default_encoder() == "catalog-cnn+color"
    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: object())
    assert catalog.default_encoder() == "efficientnet-lite0+color"


def test_without_colours_features_come_from_the_network_alone(opened):
    assert extract_catalogue(opened, "catalog-cnn", epochs=1) == "catalog-cnn"
    bare, _ = catalog.load(opened.root, "test", "catalog-cnn")
    colored, _ = catalog.load(opened.root, "test", OWN)
    assert colored.grids.shape[2] > 4 and bare.features.shape[1] != colored.features.shape[1]
    with pytest.raises(ValueError, match="resnet"):
        extract_catalogue(opened, "renset18")


@pytest.mark.skipif(
    not PRODUCT_PHOTOS.is_dir(), reason="the real photos of ../shared/data are not here"
)
def test_the_real_table_is_understood():
    table = read_table(find_table(PRODUCT_PHOTOS))
    files = PictureFiles(PRODUCT_PHOTOS)
    cast = cast_of(table, Roles(), files)
    assert len(table.rows) == len(files.names) == 3000
    assert (cast.id_column, cast.title) == ("id", "productDisplayName")
    assert "year" not in cast.attributes and {"articleType", "baseColour"} <= set(cast.attributes)
    assert all(files.named(cell) for cell in table.column("id"))
