"""Cleaning steps over captions and running text, by language, and where none would count."""

import json
import tracemalloc

import numpy as np
import pytest

from modelwright.core.errors import ConfigError, MissingExtra
from modelwright.core.recipe import Clean
from modelwright.data import catalog, checks, clean, parallel, text, text_stream
from modelwright.data.image import encode_png

from .conftest import section

GERMAN = "Ein Hund läuft mit dem Kind durch den tiefen Schnee"
ENGLISH = "A dog runs with the child through the deep snow"


def text_of(path, part="train", **keys):
    keys = {"valid": 0.2, "test": 0.2, **keys}
    return text_stream.read(path, section(path, **keys))[0][part].origins[0]


def test_running_text_is_cleaned_line_by_line(tmp_path):
    """Blank lines part paragraphs and stay; what a step did is a finding."""
    lines = ["one <b>line</b>", "", "of a fi\ufb01ne text", "", "one <b>line</b>", "x"] * 3
    (tmp_path / "a.txt").write_text("\n".join(lines))
    steps = [{"strip": "html"}, {"normalize": "NFKC"}, {"shortest": 3}, {"drop": "duplicates"}]
    keys = section(tmp_path / "a.txt", clean=steps, split_rows=[19, 4, 3])
    parts, _, found = text_stream.read(tmp_path / "a.txt", keys)

    assert "one  line \n\nof a fi" == parts["train"].origins[0]
    assert [
        "strip: html: 6 rows changed, of 12", "normalize: NFKC: 3 rows changed, of 12",
        "shortest: 3: 3 rows left out, 9 of 12 kept",
        "drop: duplicates: 7 rows left out, 2 of 9 kept",
    ] == [one.text for one in found]  # fmt: skip
    assert [6, 3, 3, 7] == [one.count for one in found]


def test_pairs_tell_rows_changed_from_rows_left_out():
    """Each step of those that the ones before it kept; without rows there is nothing of either."""
    steps = [Clean(shortest=2), Clean(strip="html"), Clean(drop="duplicates")]
    pairs = [("ab", "cd"), ("<i>ab", "cd"), ("a", "cd"), (" ab", "cd")]
    counts: dict[str, int] = {}
    kept = list(clean.cleaned_pairs((("", *pair) for pair in pairs), steps, counts))
    none: dict[str, int] = {}

    assert [("", "ab", "cd"), ("", " ab", "cd")] == kept
    assert [
        "shortest: 2: 1 rows left out, 3 of 4 kept", "strip: html: 1 rows changed, of 3",
        "drop: duplicates: 1 rows left out, 2 of 3 kept",
    ] == [one.text for one in clean.findings(counts)]  # fmt: skip
    assert [] == list(clean.cleaned(iter([]), steps[:1], none))
    assert ["shortest: 2: 0 rows left out, 0 of 0 kept"] == [
        one.text for one in clean.findings(none)
    ]


def test_a_folder_of_any_texts_is_one_text(tmp_path):
    """In the order of names, folders among them where data.format says so; each file is a text."""
    (tmp_path / "b").mkdir()
    for name in ("b/2.txt", "a.txt", "c.txt"):
        (tmp_path / name).write_text(f"Subject: {name}\n\ntext of {name}")
    keys = {"clean": [{"strip": "mail_headers"}], "split_rows": [37, 2, 2]}

    assert not text_stream.is_here(tmp_path)  # they may be classes
    assert "text of a.txt\ntext of b/2.txt\ntext of" == text_of(tmp_path, **keys)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_headers_end_at_the_first_empty_line(end):
    """However lines end, as mail does with two characters; a text without headers stays."""
    mail, plain = f"Subject: a{end}To: b{end}{end}one{end}{end}two", f"one{end}two"
    rows = iter([("1", mail, ""), ("2", plain, "")])
    kept = clean.cleaned(rows, [Clean(strip="mail_headers")], {})

    assert [f"one{end}{end}two", plain] == [text for _, text, _ in kept]


def test_texts_of_a_table_are_running_text(tmp_path):
    """A row a line; several columns are joined by blanks."""
    rows = [{"title": f"day {n}", "text": "of snow"} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = text_of(tmp_path / "a.jsonl", columns={"text": ["title", "text"]})

    assert found.startswith("day 0 of snow\nday 1 of snow\n")
    assert text_stream.is_here(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"columns": {"text": "say"}}, "data.columns.text: a.txt has no columns"),
        ({"clean": [{"strip": "mail_headers"}]}, "mail_headers takes whole texts, and a.txt is"),
        ({"files": {"train": "b.txt"}}, "data.files names files of a folder"),
    ],
)
def test_what_a_file_of_text_does_not_go_with_is_refused(tmp_path, keys, what):
    """A key that would change nothing stops the run."""
    (tmp_path / "a.txt").write_text(10 * "some text, ")
    with pytest.raises(ConfigError, match=what):
        text_of(tmp_path / "a.txt", **keys)


def test_captions_are_cleaned(tmp_path):
    """Each for itself; a picture keeps those that are left."""
    pytest.importorskip("PIL")
    lines = []
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encode_png(np.full((3, 8, 8), number, np.uint8)))
        said = [f"<i>picture</i> {number}", "x"]
        lines.append(json.dumps({"image": f"{number}.png", "captions": said}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    keys = section(tmp_path, clean=[{"strip": "html"}, {"shortest": 2}])
    data = catalog.load(keys, "image_text", "vectors")
    kept = sorted(text for rows in data.parts.values() for text in rows.origins)

    assert sorted(f"picture  {number}" for number in range(12)) == kept
    assert ["cleaned", "cleaned"] == [one.check for one in data.findings]


def test_texts_of_another_language_are_left_out():
    """A classifier tells them apart; numbers alone are in no language."""
    pytest.importorskip("py3langid")
    counts: dict[str, int] = {}
    rows = iter([("1", GERMAN, ""), ("2", ENGLISH, ""), ("3", "12345 678", "")])
    kept = list(clean.cleaned(rows, [Clean(language="en")], counts))

    assert [("2", ENGLISH, "")] == kept
    assert {clean.ROWS: 3, "language: en": 2} == counts


def test_an_unknown_language_is_refused():
    """With the nearest that is known; pairs of texts are in two languages."""
    with pytest.raises(ConfigError, match="pairs are in two"):
        list(clean.cleaned_pairs(iter([("1", GERMAN, ENGLISH)]), [Clean(language="en")], {}))
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match="'xx' is no language"):
        list(clean.cleaned(iter([]), [Clean(language="xx")], {}))


def test_without_the_classifier_the_extra_is_named(monkeypatch):
    """The message says what to install."""
    clean._identifier.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    with pytest.raises(MissingExtra, match=r"modelwright\[text\]"):
        list(clean.cleaned(iter([]), [Clean(language="en")], {}))


def peak_of(act):
    """The most memory that Python and NumPy held beyond what was there before."""
    tracemalloc.start()
    try:
        result = act()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


LONG = "x" * 2000


def _lines_of_text(folder):
    lines = (LONG if number % 100 else f"line {number}" for number in range(4000))
    (folder / "a.txt").write_text("\n".join(lines))
    return folder / "a.txt", lambda path, keys: text_stream.read(path, keys)[0]


def _pairs_of_texts(folder):
    for language in ("de", "en"):
        lines = (LONG if number % 100 else f"line {number}" for number in range(2000))
        (folder / f"train.{language}").write_text("\n".join(lines))
    return folder, lambda path, keys: parallel.read(path, keys)[0]


def _texts_in_classes(folder):
    lines = (f"{LONG if number % 100 else number},{number % 2}" for number in range(4000))
    (folder / "a.csv").write_text("\n".join(["text,label", *lines]))
    return folder / "a.csv", lambda path, keys: text.read_table(path, keys)[0]


@pytest.mark.parametrize("make", [_lines_of_text, _pairs_of_texts, _texts_in_classes])
def test_what_is_left_out_is_never_in_memory(tmp_path, make):
    """Rows are cleaned as they are read: 8 MB of which a hundredth stays never take one of them."""
    path, read = make(tmp_path)
    steps = [{"normalize": "NFC"}, {"longest": 100}, {"drop": "duplicates"}]
    keys = {"pair": ["de", "en"]} if path.is_dir() else {}
    asked = section(path, clean=steps, **keys)
    most, parts = peak_of(lambda: read(path, asked))

    assert len(parts["train"]) and most < 1_000_000


@pytest.mark.parametrize("step", [
    {"normalize": "NFKC"}, {"strip": "html"}, {"shortest": 3}, {"longest": 9}, {"script": "latin"},
])  # fmt: skip
def test_memory_of_a_step_does_not_grow(step):
    """Ten times as many rows take no more, whatever a step does to them."""

    def rows(number):
        return ((f"line {place}", f"<b>text {place}</b>", "") for place in range(number))

    def clean_all(number):
        return lambda: sum(1 for _ in clean.cleaned(rows(number), [Clean(**step)], {}))

    few, many = (peak_of(clean_all(number))[0] for number in (500, 5000))

    assert many < few + 4000


STEPS = [{"strip": "mail_headers"}, {"strip": "html"}, {"normalize": "NFKC"}, {"shortest": 2}]
RAW, CLEAN = "Subject: a\n\n<b>of</b> a \ufb01ne &amp; day", " of  a fine & day"


@pytest.mark.parametrize(("kind", "module", "answers"), [
    ("text", text, "classes"), ("pairs", parallel, "sequence"),
])  # fmt: skip
def test_what_is_asked_is_cleaned_as_the_rows_were(tmp_path, kind, module, answers):
    """A raw text is read as its clean form; the manifest says the steps, but those that choose."""
    columns = {"text": ("text", "label"), "pairs": ("source", "target")}[kind]
    rows = [
        dict(zip(columns, (f"{RAW} {n}", ("one", "two")[n % 2]), strict=True)) for n in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = section(tmp_path / "rows.jsonl", clean=STEPS, valid=0.2, test=0.2)
    data, _ = checks.check(catalog.load(keys, kind, answers), keys)
    raw, kept = (module.read_input(one.encode(), data.inputs, data.files) for one in (RAW, CLEAN))
    first = next(iter(raw))

    np.testing.assert_array_equal(kept[first], raw[first])
    assert STEPS[:3] == module.preprocess(data.inputs)["clean"]


@pytest.mark.parametrize(("line", "wanted"), [
    ("I <3 this, 5 > 4", "I <3 this, 5 > 4"),
    ("x < 3 and y > 2", "x < 3 and y > 2"),
    ("a<br/>b <!-- no --> c</p>", "a b   c "),
    ("if <\n> quoted", "if <\n> quoted"),
])  # fmt: skip
def test_only_markup_is_markup(line, wanted):
    """What is less than something stays, and what is quoted below it."""
    assert wanted == clean.STEPS["strip"]("html")(line)


@pytest.mark.parametrize("line", ["これはペンです", "日本語のテキスト", "中文"])
def test_kana_are_of_cjk(line):
    """Most sentences in Japanese hold more of them than of the others."""
    steps = [clean.STEPS["script"](name) for name in ("cjk", "latin")]
    assert [line, None] == [step(line) for step in steps]
