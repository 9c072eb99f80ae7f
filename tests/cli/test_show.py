"""What a person sees of answers, measures and proofs, whatever the task."""

import pytest

from modelwright import show


@pytest.fixture
def said(capsys):
    """What a function of show prints, as words with single blanks."""

    def print_and_read(function, found):
        function(found)
        return " ".join(capsys.readouterr().out.split())

    return print_and_read


def tagged(text, spans, kinds=("LOC", "ORG", "PER")):
    """An answer about a text, of which spans are of some kinds."""
    found = [
        {"text": own, "kind": kind, "start_char": text.index(own),
         "end_char": text.index(own) + len(own)}
        for own, kind in spans.items()
    ]  # fmt: skip
    return {"file": text, "text": text, "answer": found, "tags": [], "kinds": list(kinds)}


def test_a_tagged_text_is_shown_with_its_spans(said):
    """Each span has its kind behind it; the words around stay as they are, markup or not."""
    one = tagged("Ann saw [red] New York, [/]", {"Ann": "PER", "New York": "LOC"})

    assert "Ann[PER] saw [red] New York[LOC], [/]" == said(show.predict, {"answers": [one]})


def test_a_tagged_text_is_shown_as_it_came(capsys):
    """Blanks, commas of full width and letters of two parts are those of the person."""
    one = tagged("他在  Google 北京，e\u0301t\u00e9 。", {"Google": "ORG", "北京": "LOC"})
    show.predict({"answers": [one]})

    assert "他在  Google[ORG] 北京[LOC]，e\u0301t\u00e9 。\n" == capsys.readouterr().out


def test_each_kind_of_span_has_a_colour_of_its_own():
    """By its place among all kinds of the model, whichever of them a text has."""
    kinds = ["ADJP", "LOC", "ORG", "PER", "PP", "VP"]
    whole = show._marked(tagged(" ".join(kinds), dict(zip(kinds, kinds, strict=True)), kinds))
    alone = show._marked(tagged("in Paris", {"Paris": "LOC"}, kinds))
    colors = [str(span.style) for span in whole.spans if "bold" not in str(span.style)]

    assert 6 == len(set(colors))
    assert colors[1] == str(alone.spans[-1].style)


def test_a_text_with_markup_is_one_cell(said):
    """Nobody's text is taken for a colour, or for a mistake in one."""
    shares = [{"label": "[b]", "probability": 0.9}, {"label": "bad", "probability": 0.1}]
    one = {"file": "so [/] so", "answer": "[b]", "probabilities": shares}

    assert "so [/] so [b] 90.0% bad 10.0%" in said(show.predict, {"answers": [one]})


def test_a_goal_on_size_alone_is_exact(said):
    """An interval without width is still an interval where it was measured on rows."""
    goal = {"bound": ">= 0.9", "measured": 1.0, "low": 1.0, "high": 1.0, "met": True}
    size = {"bound": "<= 5", "measured": 0.1, "low": 0.1, "high": 0.1, "met": True}
    found = {"goals": {"f1": goal, "size_mb": size}, "verdict": "certified", "run": "runs/x",
             "artifact": None, "report": None}  # fmt: skip
    text = said(show.result, found)

    assert "f1 >= 0.9 1 1 to 1 met" in text
    assert "size_mb <= 5 0.1 exact met" in text


@pytest.mark.parametrize(
    ("where", "kind"), [("by prediction, compressed", "predicted"), ("on valid", "measured")]
)
def test_what_was_only_predicted_is_not_called_measured(said, where, kind):
    """Of a run that ended before it trained."""
    goal = {"bound": "<= 5", "measured": 7.0, "low": None, "high": None, "met": False}
    found = {"goals": {"size_mb": goal}, "verdict": "infeasible", "run": "runs/x", "where": where,
             "artifact": None, "report": None}  # fmt: skip

    assert f"goal asked {kind} 95 % interval" in said(show.result, found)


def test_runs_of_several_tasks_each_fill_their_own_column(said):
    """A run has a value where it was measured by that metric, and a blank elsewhere."""
    rest = {"verdict": "certified", "size_mb": 0.5, "latency_p99_ms": 2.0, "minutes": 3.0}
    runs = [{"run": "a", "metric": "accuracy", "accuracy": 0.98, **rest},
            {"run": "b", "metric": "mse", "mse": 0.31, **rest},
            {"run": "c", "metric": None, **dict.fromkeys(rest), "verdict": "no run"}]  # fmt: skip
    text = said(show.report, {"runs": runs, "reports": []})

    assert "run verdict accuracy mse size MB p99 ms minutes a certified 0.98 0.5" in text
    assert "b certified 0.31 0.5 2 3 c no run" in text


def test_a_hop_without_decisions_says_nothing_of_them(said):
    """Where answers are numbers there is nothing to count."""
    hop = {"name": "trained → onnx", "rows": 40, "max_error": 1e-6, "decisions_equal": 0,
           "decisions_total": 0}  # fmt: skip

    assert "trained → onnx 40 1e-06 passed" in said(show.verify, {"hops": [hop]})


def test_a_forecast_stands_beside_the_last_known_value(said):
    """Of each series what it is now, the first steps and the last."""
    series = {"[load]": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    one = {"file": "a.csv", "answer": series, "before": {"[load]": [9.0, 0.5]}, "drawn": "x/a.svg"}
    text = said(show.predict, {"answers": [one]})

    assert "a.csv: 6 steps ahead series now +1 +2 +3 +4 +6 [load] 0.5 1 2 3 4 6" in text
    assert "drawn: x/a.svg" in text


def test_a_forecast_of_a_table_with_times_says_when(said):
    """Each step shown has its time above."""
    times = [f"2024-01-0{day}" for day in range(1, 7)]
    series = {"load": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    one = {"file": "a.csv", "answer": series, "before": {"load": [0.5]}, "times": times}
    text = said(show.predict, {"answers": [one]})

    assert "a.csv: 6 steps ahead, 2024-01-01 to 2024-01-06 series now 2024-01-01" in text
    assert "2024-01-04 2024-01-06 load 0.5 1 2 3 4 6" in text


def test_a_rating_is_shown_with_its_item(said):
    """A number alone says nothing."""
    one = {"file": "1=5, 2", "answer": "3.5", "item": "Heat [2]", "rating": 3.5}

    assert "1=5, 2: 3.5 for Heat [2]" == said(show.predict, {"answers": [one]})


@pytest.mark.parametrize("name", ["a[/b]", "[old] a", "a :x: b"])
def test_names_with_brackets_or_colons_are_shown_as_they_are(said, name):
    """Wherever a person's own words stand: in sentences, in tables, in the names of their files."""
    finding = {"check": "labels", "text": name, "blocking": True}
    row = {"metric": None, "size_mb": 1.0, "latency_p99_ms": 1.0, "minutes": 1.0, "verdict": "x"}
    layout = {"family": "cnn", "name": name, "processes": 2, "loss": None, "refused": name}
    found = {"run": name, "artifact": name, "report": name, "goals": {}, "verdict": "certified"}
    shown = [
        said(show.init, {"recipe": name, "rows": {}, "labels": [], "findings": [finding]}),
        said(show.report, {"runs": [{**row, "run": name}] * 2, "reports": [name]}),
        said(show.stages, {"run": name, "done": [], "to_do": []}),
        said(show.layout, layout), said(show.result, found),
    ]  # fmt: skip

    assert [3, 3, 1, 2, 4] == [text.count(name) for text in shown]


def test_what_is_written_comes_out_as_it_is(capsys):
    """Tabs and returns of a text belong to it."""
    for text in ("\tif x:\r\n", "[b] :x:"):
        show.piece(text)

    assert "\tif x:\r\n[b] :x:" == capsys.readouterr().out


def test_a_long_path_stays_in_one_piece(capsys):
    """Or nobody can open it."""
    path = "runs/" + "x" * 200 + "/report.html"
    show.report({"runs": [{}], "reports": [path]})
    show.stages({"run": path, "done": [], "to_do": []})

    assert f"{path}\n{path}: done nothing\n" in capsys.readouterr().out


def test_a_plan_fits_a_narrow_terminal(capsys, monkeypatch):
    """Names are whole at 80 columns, and a reason that several share stands below, once."""
    monkeypatch.setattr(show.console, "_width", 80)
    figures = {"memory_bytes": 5e8, "epoch_s": 1.5, "size_bytes": 3e6, "latency_ms": 0.4}
    names = ("transformer-tiny", "transformer-small", "transformer-base", "transformer-large")
    shared = "not timed: transformer-small would already make 1,116 steps in the budget"
    show.plan({"fits": True, "candidates": [
        {"name": name, "num_params": 3_000_000, "forward_flops": 400_000_000,
         "predicted": figures if place < 2 else {}, "reason": "" if place < 2 else shared}
        for place, name in enumerate(names)
    ]})  # fmt: skip
    lines = capsys.readouterr().out.splitlines()

    assert set(names) <= {line.split()[0] for line in lines if line.strip()}
    assert all(len(line) <= 80 for line in lines)
    assert "out: transformer-base, transformer-large: not timed" in " ".join(lines)
    assert 1 == " ".join(" ".join(lines).split()).count(shared)
