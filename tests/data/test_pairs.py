"""Pictures with texts: files to rows, parts cut by picture, what is refused, a question."""

import gzip
import json

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.data import catalog, checks, pairs
from modelwright.data.image import encode_png
from modelwright.data.rows import joined, load_part, row_hashes, save
from modelwright.data.shared import Shared, telling

pytest.importorskip("PIL")


def written(folder, number=12, texts=3, **more):
    """A folder of pictures, each of another colour, with texts and a table of them."""
    (folder / "images").mkdir()
    lines = []
    for place in range(number):
        pixels = np.full((3, 8, 8), 7 * place, np.uint8)
        pixels[0, :, : place % 8] = 255
        (folder / "images" / f"{place}.png").write_bytes(encode_png(pixels))
        own = [f"a picture {place} with text {one}" for one in range(texts)]
        lines.append({"image": f"{place}.png", "captions": own, **more})
    return lines


def put(folder, lines, name="captions.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, lines)))
    return folder


def load(source, **keys):
    section = recipe.Data(source=str(source), **keys)
    return catalog.load(section, "image_text", "vectors")


def test_a_row_is_a_picture_with_one_of_its_texts(tmp_path):
    """A picture is kept once, and its number is the target of each of its texts."""
    lines = written(tmp_path)
    for line, part in zip(lines, ["train"] * 6 + ["valid"] * 2 + ["test"] * 4, strict=True):
        line["split"] = part
    data = load(put(tmp_path, lines))
    test = data.parts["test"]

    assert {"train": 18, "valid": 6, "test": 12} == {p: len(r) for p, r in data.parts.items()}
    assert 4 == len(test.inputs["image"].values)
    assert [8, 8, 8, 9, 9, 9, 10, 10, 10, 11, 11, 11] == test.targets.tolist()
    assert "a picture 9 with text 1" == test.origins[4]
    assert (2, 3, 8, 8) == test.batch(np.array([4, 0]))["image"].shape
    assert {"kind": "vectors", "dim": pairs.VECTOR_DIM} == data.outputs


def test_parts_are_cut_by_picture(tmp_path):
    """No picture stands in two parts, even under two names."""
    lines = written(tmp_path, number=30)
    twin = tmp_path / "images" / "twin.png"
    twin.write_bytes((tmp_path / "images" / "3.png").read_bytes())
    lines.append({"image": "twin.png", "text": "another text of picture 3"})
    data = load(put(tmp_path, lines))
    hashes = [set(row_hashes(telling(rows.inputs))) for rows in data.parts.values()]

    assert all(len(rows) for rows in data.parts.values())
    assert set() == (hashes[0] & hashes[1]) | (hashes[0] & hashes[2]) | (hashes[1] & hashes[2])
    assert 91 == sum(map(len, data.parts.values()))


def test_a_picture_in_two_parts_stops_the_gate(tmp_path):
    """Another caption of a training picture in test is a leak; waived, train gives it up."""
    lines = written(tmp_path)
    for line, part in zip(lines, ["train"] * 6 + ["valid"] * 2 + ["test"] * 4, strict=True):
        line["split"] = part
    lines.append({"image": "2.png", "captions": ["seen before"], "split": "test"})
    source = put(tmp_path, lines)
    _, report = checks.check(load(source), recipe.Data(source=str(source)))
    waived = recipe.Data(source=str(source), checks={"waive": ["duplicates_across_splits"]})
    data, _ = checks.check(load(source), waived)

    with pytest.raises(DataError, match="duplicates_across_splits"):
        checks.refuse(report)
    assert 15 == len(data.parts["train"])


def test_pictures_that_are_nearly_equal_are_found_once(tmp_path):
    """Each pair of pictures counts once, whatever the number of texts; so does a plain colour."""
    draw = np.random.default_rng(0)
    lines = written(tmp_path, number=8)
    for place in range(8):
        pixels = draw.integers(0, 256, (3, 8, 8)).astype(np.uint8)
        if place == 2:
            kept = pixels
        if place == 5:  # as picture 2, but for one value
            pixels = kept.copy()
            pixels[0, 0, 0] ^= 1
        if place == 7:
            pixels = np.full((3, 8, 8), 90, np.uint8)
        (tmp_path / "images" / f"{place}.png").write_bytes(encode_png(pixels))
    for line, part in zip(lines, ["train"] * 4 + ["valid"] * 2 + ["test"] * 2, strict=True):
        line["split"] = part
    data = load(put(tmp_path, lines))
    _, report = checks.check(data, recipe.Data(source=str(tmp_path)))
    found = {one["check"]: one for one in report["findings"]}

    assert 1 == found["near_duplicates"]["count"]
    assert "1 across parts" in found["near_duplicates"]["text"]
    (pair,) = found["near_duplicates"]["rows"]
    assert ["train 6 (a picture 2 with text 0)", "valid 3 (a picture 5 with text 0)"] == pair
    assert [["test 3 (a picture 7 with text 0)"]] == found["constant_images"]["rows"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("file_name", "text"), ("file", "caption"), ("path", "sentences"), ("image", "caption")],
)
def test_other_spellings_of_the_keys_are_read(tmp_path, name, said):
    """As in the metadata.jsonl of Hugging Face's image folders."""
    lines = [
        {"id": 1, name: f"images/{line['image']}", said: line["captions"]}
        for line in written(tmp_path)
    ]
    source = put(tmp_path, lines, "metadata.jsonl")

    assert catalog.SOURCES["image_texts"] is catalog.recognise(recipe.Data(source=str(source)))
    assert 36 == sum(map(len, load(source).parts.values()))


def test_a_missing_picture_stops_the_gate(tmp_path):
    """It becomes a blocking finding that names it; its texts are left out."""
    lines = [*written(tmp_path), {"image": "gone.png", "captions": ["nobody sees it"]}]
    data = load(put(tmp_path, lines))

    assert ["broken_files"] == [one.check for one in data.findings]
    assert "gone.png" in data.findings[0].text
    assert 36 == sum(map(len, data.parts.values()))


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("not json", "line 2"),
        ('{"image": "0.png", "captions": "one text", "split": "elsewhere"}', "line 2"),
        ('{"image": "0.png", "captions": [1]}', "line 2"),
        ('{"captions": ["no picture"]}', "line 2"),
        ('{"image": "../../secret.png", "captions": ["outside"]}', "line 2.*leaves the folder"),
        ("[]", "line 2"),
        ("[" * 100_000, "line 2"),
    ],
    ids=["no json", "part", "caption", "no picture", "outside", "no object", "deep"],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, where):
    """File, line and what is expected."""
    lines = written(tmp_path)
    (tmp_path / "captions.jsonl").write_text(json.dumps(lines[0]) + "\n" + line)

    with pytest.raises(DataError, match=where):
        load(tmp_path / "captions.jsonl")


def test_a_packed_table_is_read(tmp_path):
    """captions.jsonl.gz is the same, also in a folder beside other files."""
    lines = written(tmp_path)
    with gzip.open(tmp_path / "captions.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))

    assert pairs.is_here(tmp_path)
    assert 36 == sum(map(len, load(tmp_path).parts.values()))


def test_half_a_character_stands_in_nobodys_way(tmp_path):
    """What JSON can hold and UTF-8 cannot becomes a question mark."""
    lines = written(tmp_path)
    lines[0]["captions"] = ["half \ud83d a smile"] * 3
    data = load(put(tmp_path, lines))

    assert "half ? a smile" in [one for rows in data.parts.values() for one in rows.origins]


def test_rows_come_back_from_disk(tmp_path):
    """Shared pictures, their index and the order of inputs survive; pictures are kept once."""
    data = load(put(tmp_path, written(tmp_path)))
    (tmp_path / "data").mkdir()
    save(data, tmp_path / "data")
    back, train = load_part(tmp_path / "data", "train"), data.parts["train"]
    every = np.arange(len(train))

    assert ["image", "ids"] == list(back.inputs)
    assert isinstance(back.inputs["image"], Shared)
    for name, value in train.batch(every).items():
        np.testing.assert_array_equal(value, back.batch(every)[name])


def test_shared_rows_are_taken_and_joined():
    """Taking drops what no row needs; joining keeps who has what."""
    column = Shared(np.arange(5) * 10, np.array([0, 0, 3, 4, 3]))
    some = column.take(np.array([4, 1, 2]))
    both = some.joined(column)

    assert [0, 30] == sorted(some.values.tolist())
    assert [30, 0, 30] == some.gather(np.arange(3)).tolist()
    assert [30, 0, 30, 0, 0, 30, 40, 30] == both.gather(np.arange(8)).tolist()
    assert [0, 2, 3] == column.firsts().tolist()
    assert 2 == len(joined_rows(some).inputs["image"].values) // 2


def joined_rows(column):
    from modelwright.data.rows import Rows

    rows = Rows({"image": column}, np.arange(len(column)), [""] * len(column))
    return joined(rows, rows)


def test_a_question_is_a_picture_and_texts(tmp_path):
    """A batch with a row for each text, in their order, and the texts as tokens."""
    data = load(put(tmp_path, written(tmp_path)))
    picture = (tmp_path / "images" / "5.png").read_bytes()
    content = pairs.ask(picture, ["a picture 5", "  ", "with text 1", "a picture 5"])
    found = pairs.read_input(content, data.inputs, data.files)

    assert ["a picture 5", "with text 1"] == pairs.tokens(content, data.inputs)
    assert (2, 3, 8, 8) == found["image"].shape
    assert (found["image"][0] == found["image"][1]).all()
    assert 2 == len(found["ids"])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"picture": "?", "texts": ["a"]}', b'{"picture": "", "texts": []}',
                b'{"picture": "", "texts": [7]}', b'{"picture": "aGk=", "texts": ["no picture"]}']
)  # fmt: skip
def test_a_question_that_is_none_is_refused(tmp_path, content):
    """A typed error, whatever comes."""
    data = load(put(tmp_path, written(tmp_path)))

    with pytest.raises(DataError):
        pairs.read_input(content, data.inputs, data.files)


def test_texts_go_with_a_choice_only():
    """Texts for a model that has no use for them are refused, and a choice without texts is."""
    with pytest.raises(ConfigError, match="there are none"):
        catalog.KINDS["image_text"].asked(b"", ())
    with pytest.raises(ConfigError, match="no use for texts"):
        catalog.KINDS["image"].asked(b"", ("a dog",))


def test_half_a_character_in_a_text_to_choose_is_read(tmp_path):
    """As a terminal of another encoding hands it over, or JSON from elsewhere."""
    data = load(put(tmp_path, written(tmp_path)))
    picture = (tmp_path / "images" / "5.png").read_bytes()
    content = pairs.ask(picture, ["caf\udce9"])

    assert ["caf?"] == pairs.tokens(content, data.inputs)
    assert 1 == len(pairs.read_input(content, data.inputs, data.files)["ids"])
