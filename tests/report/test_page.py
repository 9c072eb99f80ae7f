"""The report as a file: what it says of whole, broken, infeasible and hostile runs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modelwright import __version__
from modelwright.core.errors import ConfigError
from modelwright.core.run import Run
from modelwright.report import sections
from modelwright.report.page import write_report

from .conftest import event, forecasting, matching, older, tagging, translating

VOID = {"meta", "link", "br", "img", "hr", "input"}
CHAPTERS = ("goals", "predicted", "data", "candidates", "training", "compression", "quality",
            "latency", "parity", "reproduce")  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are balanced; gathers attributes, ids and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids = [], [], []
        self.links, self.styles, self.words, self.classes = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def note(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
                self.links.append(value)
            if name == "class":
                self.classes.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)


@pytest.fixture
def page(make_run):
    """Files of a run to the parsed report."""
    return lambda files: Page(write_report(make_run(files)).read_text())


def test_report_lies_in_the_run_folder_and_replaces_the_old_one(make_run, certified):
    """Writing twice gives the same bytes at report.html and leaves nothing else behind."""
    run = make_run(certified)
    first = write_report(run).read_bytes()
    before = sorted(path.name for path in run.folder.iterdir())

    assert first == write_report(run).read_bytes()
    assert run.folder / "report.html" == write_report(run)
    assert before == sorted(path.name for path in run.folder.iterdir())


def test_a_certified_run_says_so_in_plain_words(page, certified):
    """Verdict, task, data, date, duration and the main figures stand at the top."""
    text = page(certified).text

    for words in ("digits-001: certified", "All 4 goals hold on 399 rows", "image classification",
                  "2026-03-01 10:00", "4:25 min", "98.25%", "3.2× smaller than uncompressed",
                  "median 2.3× as fast"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(("name", "places"), [
    ("data/data.json", ("labels",)), ("data/data.json", ("checked",)),
    ("data/data.json", ("class_counts", "train")), ("data/data.json", ("class_counts", "train", 1)),
    ("data/data.json", ("outputs", "labels")), ("certify/certificate.json", ("confusion", 2)),
    ("certify/certificate.json", ("confusion", 2, 1)),
    ("certify/certificate.json", ("latency", "histogram", "counts", 3)),
])  # fmt: skip
@pytest.mark.parametrize("value", [-1, "x", {}, 1e308], ids=repr)
def test_what_should_be_a_list_is_left_out_with_a_notice(page, certified, name, places, value):
    """The rest of the report is there; a value that a list of counts may hold stands in it."""
    part = certified[name]
    for place in places[:-1]:
        part = part[place]
    part[places[-1]] = value
    key = ".".join(one for one in places if isinstance(one, str))
    fine = value == 1e308 and isinstance(places[-1], int) and places != ("confusion", 2)
    text = page(certified).text

    assert fine != (f"{name}: {key} is no list" in text)
    assert "Repeat" in text or "repeat the whole run" in text


def test_a_bound_is_printed_as_it_was_set(page, certified):
    """Not rounded to the digits of what is measured."""
    goals = certified["certify/certificate.json"]["goals"]
    goals["size_mb"] |= {"bound": "<= 0.1985", "measured": 0.1984}

    assert "≤ 0.1985 MB" in page(certified).text


def test_what_no_race_foretold_is_called_measured(page, certified):
    """The look at valid is one figure without a race, and a forecast's counterpart with one."""
    number = {"value": 0.8382, "unit": "share", "kind": "measured", "how": "valid rows"}
    certified["run.jsonl"].append({"stage": "train", "event": "figure", "subject": "cnn-small",
                                   "name": "valid_accuracy", "number": number})  # fmt: skip
    text = page(certified).text

    assert "accuracy on valid" in text and "forecast by the race" not in text


def test_every_goal_has_bound_measured_interval_and_verdict(page, certified):
    """A goal whose interval reaches past its bound is met, with a warning."""
    text = page(certified).text

    assert "accuracy ✓ met Met, but the interval reaches past the bound" in text
    assert "98.25% ≥ 97% 96.42 to 99.15%" in text
    assert "latency, p99 ✓ met 0.0582 ms ≤ 0.1 ms 0.0571 to 0.0603 ms" in text
    assert "size ✓ met 0.1 MB ≤ 0.15 MB –" in text


def test_predictions_stand_beside_measurements_with_their_error(page, certified):
    """The table shows both figures and how far the prediction was off."""
    text = page(certified).text

    assert "parameters 77,850 77,850 exact" in text
    assert "time per epoch 1.9 s 2.03 s 6.5% too low training loop" in text
    assert "train time 2:51 min 2:44 min 4.3% too high wall clock" in text


def test_the_races_forecast_stands_beside_what_training_reached(page, certified):
    """A forecast accuracy is off by points, and leaves the errors of the other figures alone."""
    before = page(certified).text
    for kind, value in (("predicted", 0.977), ("measured", 0.937)):
        figure = {"value": value, "unit": "share", "kind": kind, "how": "valid rows"}
        certified["run.jsonl"].append(
            event(270, "train", "figure", subject="cnn-small", name="valid_accuracy", number=figure)
        )
    after = page(certified).text

    assert "forecast by the race 97.70% 93.70% 4.00 pt too high valid rows" in after
    checked = re.compile(r"\d+ figures can be checked: [^.]+\.[^.]+\.")
    assert checked.findall(before) == checked.findall(after) != []


def test_training_says_how_much_of_it_was_the_race(page, certified):
    """The winner's slices are part of its training, and are told apart."""
    assert "2:51 min, of which 12 s in the race" in page(certified).text


def test_figures_read_like_prose(page, certified):
    """No exponent, no list, no bare bytes."""
    certified["export/parity.json"]["hops"][0] |= {"max_error": 1e-6, "tolerance": 1.6e-4}
    certified["certify/certificate.json"]["machine"] |= {
        "memory_bytes": 25276518400, "instruction_sets": ["AVX512", "VNNI"],
    }  # fmt: skip
    text = page(certified).text

    for words in ("160 times below", "memory 25.3 GB", "instruction sets AVX512, VNNI"):
        assert words in text


def test_a_runner_up_is_not_called_beaten(page, certified):
    """Another calibration keeps its own mark, chip and reason."""
    certified["compress/compress.json"]["candidates"][1] |= {
        "status": "runner-up", "reason": "0.12 pt less accurate on valid than int8-entropy",
    }  # fmt: skip
    found = page(certified)

    assert "runner-up 0.12 pt less accurate on valid than int8-entropy" in found.text
    assert found.classes.count("mark runner-up") == 2


def test_findings_candidates_and_compression_are_explained(page, certified):
    """Each finding has its rows, each loser its reason, each candidate its ratios."""
    text = page(certified).text

    for words in ("train 12 = test 3", "waived duplicates across splits", "1,797 rows, 10 classes",
                  "dropped predicted size 4.93 MB", "raced 1.4 points behind after round 3",
                  "Chosen: int8-entropy, 3.2× smaller and 2.3× as fast",
                  "refused one scale is zero", "prune (ratio 0.25), then quantize"):  # fmt: skip
        assert words in text


def test_quality_latency_parity_and_reproduction_are_there(page, certified):
    """The last chapters name mistakes, percentiles, hops, commands, digests and fallbacks."""
    found = page(certified)

    for words in ("7 wrong answers", "true 8 said 1 91%", "2,478 calls on onnxruntime on cpu",
                  "gives a ratio of 1.010", "50 times below the tolerance", "1,398 of 1,398",
                  "modelwright run runs/digits-001/recipe.yaml",
                  "modelwright serve runs/digits-001/deploy", "ef" * 32, "AMD EPYC 7B13",
                  "done differently train no compiler found"):  # fmt: skip
        assert words in found.text
    assert found.tags.count("img") == 7


def test_who_began_a_run_and_who_wrote_its_page_are_told_apart(page, certified):
    """A run can be older than the program that reports it."""
    certified["run.jsonl"][0]["version"] = "0.0.7"
    certified["certify/certificate.json"]["versions"] = {"torch": "2.99.0"}
    text = page(certified).text

    for words in ("modelwright, which began the run 0.0.7", "torch 2.99.0",
                  f"modelwright, which wrote this page {__version__}"):  # fmt: skip
        assert words in text


def test_all_chapters_have_anchors_and_tables_have_scopes(page, certified, make_run):
    """Every link of the contents leads somewhere, and every header cell has a scope."""
    found = page(certified)
    source = write_report(make_run(certified)).read_text()

    assert set(CHAPTERS) <= set(found.ids)
    assert {f"#{name}" for name in CHAPTERS} == {x for x in found.links if x.startswith("#")}
    assert len(found.ids) == len(set(found.ids))
    assert re.findall(r"<th(?![a-z])(?![^>]*scope=)[^>]*>", source) == []


def test_nothing_is_loaded_from_anywhere(page, certified):
    """No script, no link, no import: images are data, the policy forbids the rest."""
    found = page(certified)

    assert not {"script", "link", "iframe", "object", "form", "base"} & set(found.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert not re.search(r"url\(|@import|https?:", "".join(found.styles))


def test_an_infeasible_run_names_the_binding_goal_and_the_way_out(page, impossible):
    """The misses are told with their distance, before anything else about the making."""
    found = page(impossible)

    for words in ("not feasible as asked", "size ✗ missed 20 times the bound",
                  "prune25-int8 size ≤ 0.005 MB 0.072 MB",
                  "14.4 times the bound", "Allow 0.08 MB"):  # fmt: skip
        assert words in found.text
    assert "modelwright run runs/digits-001 'goals.size_mb=<= 0.08'" in found.text
    assert "misses" in found.ids
    assert "modelwright serve" not in found.text
    assert "This run is not whole" not in found.text


def test_what_another_run_has_trained_is_told_as_that(page, certified):
    """Whose model it is stands at the top, and beside the stages that took no time here."""
    lines = certified["run.jsonl"]
    lines[0]["origin"] = "/elsewhere/digits-000"
    taken = ("gate", "plan", "train")
    certified["run.jsonl"] = [
        line for line in lines
        if line["stage"] not in taken or not line["event"].startswith("stage_")
    ]  # fmt: skip
    found = page(certified)

    assert "trained in digits-000" in found.text
    assert "of its own stages together" in found.text
    assert "train from digits-000 –" in found.text
    assert "certify done 9 s" in found.text


def test_very_many_classes_are_told_by_their_confusions(page, certified):
    """There is no table of them all, and the wrong answers are counted all the same."""
    proof = certified["certify/certificate.json"]
    del proof["confusion"]
    whole, cut = (
        [[3, 8, 5, 40], [1, 7, 2, 38]],
        [[9, 4]],
    )  # a row that a damaged file cut is left out
    proof |= {"confused": whole + cut, "rows": 400, "accuracy": 0.97}
    found = page(certified)

    assert "12 wrong answers on 400 unseen rows" in found.text
    assert "3 8 5 12%" in found.text
    assert "Confusion matrix" not in found.text


@pytest.mark.parametrize(
    ("p99", "said"), [(1.2, "calm enough to trust"), (9.0, "one call in a hundred took 18 times")]
)
def test_a_tail_that_other_work_makes_is_told(page, certified, p99, said):
    """A control of medians says nothing of the slowest calls."""
    certified["certify/certificate.json"]["latency"] |= {
        "control_ratio": 1.01, "p50_ms": 0.5, "p99_ms": p99,
    }  # fmt: skip

    assert said in page(certified).text


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("on the valid part", "measured"),
        ("by prediction, with compression at its best", "predicted"),
    ],
)
def test_what_was_only_predicted_is_not_called_measured(page, impossible, where, kind):
    """Of a run that ended before it trained."""
    impossible["certify/certificate.json"]["where"] = where
    found = page(impossible)

    assert f"goal verdict {kind} bound" in found.text
    assert f"goal missed bound {kind} by how much" in found.text


def test_a_failed_hop_names_the_first_differing_node(page, certified):
    """Parity that failed makes the run refused, whatever the certificate says."""
    hop = certified["export/parity.json"]["hops"][1]
    hop |= {"passed": False, "max_error": 0.3, "first_differing_node": "/body/Conv_3"}
    certified["export/parity.json"]["passed"] = False
    text = page(certified).text

    assert "digits-001: refused" in text
    assert "The first node that differs: /body/Conv_3" in text
    assert "3,000 times the tolerance" in text


STAGE_FOLDERS = ("data", "plan", "train", "compress", "export", "certify", "deploy")


@pytest.mark.parametrize("count", range(len(STAGE_FOLDERS)))
def test_a_run_that_stopped_is_reported_as_far_as_it_came(count, page, certified):
    """Any beginning of a run gives a whole page that says what is missing."""
    kept = ("recipe.yaml", "run.jsonl", *STAGE_FOLDERS[:count])
    files = {name: v for name, v in certified.items() if name.split("/")[0] in kept}
    files["run.jsonl"] = files["run.jsonl"][:1]
    found = page(files)

    if count < 6:
        assert "not finished" in found.text
        assert "This run is not whole" in found.text
        assert "98.25%" not in found.text
    assert set(CHAPTERS) <= set(found.ids)


@pytest.mark.parametrize("lost", ["recipe.yaml", "run.jsonl", "data/data.json", "plan/plan.json",
                                  "train/model/manifest.json", "train/metrics.jsonl",
                                  "compress/compress.json", "export/parity.json"])  # fmt: skip
def test_any_single_file_may_be_missing(lost, page, certified):
    """A report without one of its sources still stands."""
    del certified[lost]

    assert set(CHAPTERS) <= set(page(certified).ids)


@pytest.mark.parametrize("emptied", ["data/data.json", "plan/plan.json", "compress/compress.json",
                                     "export/parity.json", "certify/certificate.json"])  # fmt: skip
@pytest.mark.parametrize("content", [
    "{}", "[]", "{",
    '{"candidates": [{}], "hops": [{}], "goals": {"x": 1}, "verdict": "certified"}',
    '{"latency": {"p50_ms": null}, "confusion": []}',
])  # fmt: skip
def test_hollow_files_do_not_break_the_page(emptied, content, page, certified):
    """Files without their keys, or cut in half, give dashes and notices, never a crash."""
    certified[emptied] = content
    found = page(certified)

    assert set(CHAPTERS) <= set(found.ids)
    if content in ("{", "[]"):
        assert emptied.split("/")[1] in found.text


def test_hostile_strings_stay_text_everywhere(page, certified):
    """Markup and quotes in any string of any file add no element and leave no attribute."""
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"

    def poison(value, key=""):
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        keep = ("time", "event", "stage", "status", "kind", "verdict", "bound", "unit", "winner",
                "chosen", "finished")  # fmt: skip
        return f"{value}{hostile}" if isinstance(value, str) and key not in keep else value

    calm = page(certified)
    files = {name: value if isinstance(value, str) else poison(value)
             for name, value in certified.items()}  # fmt: skip
    files["recipe.yaml"] += f"# {hostile}\n"
    found = page(files)

    assert "script" not in found.tags
    assert calm.tags.count("img") - 7 == found.tags.count("img")  # pictures that are no PNG go
    assert "49" not in re.findall(r"&(\d+)", found.text)
    assert hostile in found.text


def test_a_picture_that_is_no_png_is_not_shown(page, certified):
    """Only inline PNG is drawn; any other address is left out and said so."""
    for n, address in enumerate(("http://x/y.png", "data:text/html;base64,AA==", "javascript:1",
                                 'data:image/png;base64,AA" onload="x')):  # fmt: skip
        certified["certify/certificate.json"]["mistakes"][n]["image"] = address
    found = page(certified)

    assert found.tags.count("img") == 3
    assert found.text.count("no picture") == 4


def test_a_loss_that_is_no_number_is_said(page, certified):
    """NaN in the log is counted in words and never drawn."""
    certified["train/metrics.jsonl"][7]["loss"] = float("nan")
    found = page(certified)

    assert "1 steps have a loss that is not a number" in found.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    """An empty folder gets no report, and the error says what was expected."""
    with pytest.raises(ConfigError, match="is not a run folder") as caught:
        write_report(Run(tmp_path))

    assert "recipe.yaml and run.jsonl" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_cut_by_a_crash_is_read_up_to_the_cut(make_run, certified):
    """Half a line at the ledger's end becomes a notice."""
    run = make_run(certified)
    with open(run.ledger, "a") as file:
        file.write(json.dumps({"time": "x"})[:5])

    assert "run.jsonl: 1 line cannot be read" in write_report(run).read_text()


def test_a_run_of_the_first_version_has_the_same_page(page, certified):
    """Files that knew pictures and accuracy alone are read as the same life."""
    assert page(certified).text == page(older()).text.replace("digits-002", "digits-001")


def test_another_metric_is_never_called_accuracy(page, other_task):
    """Every chapter, heading and caption names what the task is measured by."""
    found = page(other_task)

    assert "accuracy" not in found.text.lower()
    assert set(CHAPTERS) <= set(found.ids)
    assert "onfusion" not in found.text and "img" not in found.tags


def test_a_tagger_shows_precision_and_recall(page):
    """The chapter on quality says in figures what no matrix can show; shares are in percent."""
    text = page(tagging()).text

    for words in ("F1 98.25% on 399 unseen rows; 98.50% before compression", "precision 98.01%",
                  "recall 98.49%", "F1 98.25% 96.42 to 99.15%", "F1 on valid, %", "best F1",
                  "F1 98.57% → 98.57%", "5 tags", "up and to the left is better",
                  "One row is a text, typically of 16 words, cut at 256 words, with 21,345 entries",
                  "answer for one text modelwright predict runs/digits-001/deploy 'A "
                  "TEXT'"):  # fmt: skip
        assert words in text


def test_pictures_are_shown_with_the_texts_that_they_find(page):
    """Recall each way in figures, and some test pictures with their nearest texts."""
    found = page(matching())

    for words in ("recall@10 98.25% on 399 unseen rows", "recall@5, texts found 35.00%",
                  "✗ a dog <runs> 0.41", "✓ two girls swim 0.32", "first right text at place 2",
                  "One row is a picture with a text, of 3 × 32 × 32 (channels × height × width), "
                  "the text typically of 16 words, with 1,428 entries in the vocabulary",
                  "deploy IMAGE.png --text 'A TEXT'"):  # fmt: skip
        assert words in found.text, words
    assert "img" in found.tags and "accuracy" not in found.text.lower()


def test_a_forecast_is_judged_by_what_is_less(page):
    """Errors are no percentages, the smallest is the best, and the goal is kept from below."""
    found = page(forecasting())

    for words in ("MSE 0.0175 0.0085 to 0.0358 on 399 unseen rows", "MAE 0.101",
                  "MSE ✓ met Met, but the interval reaches past the bound", "0.0175 ≤ 0.03",
                  "MSE added ✓ met", "down and to the left is better", "best valid MSE 0.014",
                  "it is as a rule too low", "MSE 0.0143 → 0.0143", "compared (1,398 real rows",
                  "One row is a window, of 96 steps, of 2 series (HUFL, OT), to be continued by 24",
                  "candidate MSE added median"):  # fmt: skip
        assert words in found.text
    for text in ("98.25", "1.75%", "of 0", "Rows of each class"):
        assert text not in found.text
    ranked = re.findall(r"0\.\d+ (?=winner|raced)", found.text.partition("best MSE outcome")[2])
    assert ["0.021 ", "0.036 ", "0.257 ", "0.571 "] == ranked


def test_texts_that_were_mistaken_stand_in_cards(page, certified):
    """A wrong answer about a text shows the text, cut where it is long, and never as markup."""
    mistakes = certified["certify/certificate.json"]["mistakes"]
    for item in mistakes:
        del item["image"]
        item["text"] = "<b>so so</b> " + "long " * 100
    found = page(certified)

    assert found.tags.count("q") == len(mistakes)
    assert "mistakes texts" in found.classes
    assert "<b>so so</b> long" in found.text and "long …" not in found.text
    assert "no picture" not in found.text


def test_a_translator_is_raced_by_one_metric_and_judged_by_another(page):
    """The race and the curve say what was looked at; BLEU, and what went wrong, stand below."""
    found = page(translating())

    assert "Nats per token on valid" in found.text and "Bleu on valid" not in found.text
    assert "best valid nats per token" in found.text
    assert "quality" in found.ids and "ein Hund" in found.text and "a cat" in found.text


def test_goals_that_were_judged_before_the_end_say_where(page, impossible):
    """Not on rows of test, which nobody looked at."""
    proof = impossible["certify/certificate.json"]
    proof |= {"where": "on the valid part"}
    del proof["rows"]
    found = page(impossible)

    assert "missed, on the valid part." in found.text and "judged on" not in found.text


def test_a_run_without_a_race_tells_of_none(page, certified):
    """Where the recipe names the model, nothing was raced."""
    winner = next(one for one in certified["plan/plan.json"]["candidates"]
                  if one["status"] == "winner")  # fmt: skip
    certified["plan/plan.json"]["candidates"] = [winner | {"rounds": []}]
    found = page(certified)

    assert "1 architecture considered, 0 dropped." in found.text
    assert "The race took" not in found.text


@pytest.mark.parametrize(("size", "said"), [
    (0.32, "as large as uncompressed"), (0.31, "as large as uncompressed"),
    (0.64, "2.0× as large as uncompressed"), (0.16, "2.0× smaller than uncompressed"),
])  # fmt: skip
def test_only_what_is_smaller_is_called_so(page, certified, size, said):
    """Neither 1.0× nor 0.96× is smaller."""
    proof = certified["certify/certificate.json"]
    proof["size_mb"], proof["baseline"]["size_mb"] = size, 0.32

    assert said in page(certified).text


@pytest.mark.parametrize(("low", "high", "unit", "said"), [
    (2.1e-6, 3.4e-6, "", "2.1e-6 to 3.4e-6"), (2.1e-4, 3.4e-4, "ms", "2.1e-4 to 3.4e-4 ms"),
    (80, 140, "s", "1:20 min to 2:20 min"), (3700, 7500, "s", "1:01 h to 2:05 h"),
    (0.5, 2, "s", "500 ms to 2 s"), (0.97, 0.99, "share", "97.00 to 99.00%"),
    (2e6, 3e6, "bytes", "2 to 3 MB"), (2e3, 3e3, "params", "2k to 3k"), (-0.5, 3, "", "−0.5 to 3"),
])  # fmt: skip
def test_an_interval_says_a_unit_once_where_both_ends_have_it(low, high, unit, said):
    """An exponent, and what stands behind a colon, are no unit and stay."""
    assert said == sections._interval(low, high, unit)
