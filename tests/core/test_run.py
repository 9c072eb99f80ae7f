"""The run folder and its ledger."""

import json
import resource
import signal
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError, StorageError
from modelwright.core.run import STAGES, Number, Run, create, find_unfinished, refusal, reopen


@pytest.fixture
def root(tmp_path):
    """Where run folders are made."""
    return tmp_path / "runs"


def start(root, name="digits", digest="d1"):
    return create(root, name, "task: x\n", digest, version="1")


def test_a_run_starts_with_its_recipe_and_its_first_event(root):
    """The folder holds the recipe as given, and the ledger says what began it."""
    run = start(root)

    assert "task: x\n" == (run.folder / "recipe.yaml").read_text()
    (first,) = run.events()
    assert ("run", "started", "d1", "1") == (
        first["stage"], first["event"], first["recipe_digest"], first["version"],
    )  # fmt: skip


def test_runs_are_numbered(root):
    """Each run has the next free number of its name; none is overwritten."""
    names = [start(root, name).folder.name for name in ("digits", "digits", "other", "digits")]

    assert ["digits-001", "digits-002", "other-001", "digits-003"] == names


def test_a_number_that_is_taken_is_passed_over(root):
    """Whatever lies there, a file too, keeps its name."""
    root.mkdir()
    (root / "digits-001").mkdir()
    (root / "digits-002").write_text("mine")

    assert "digits-003" == start(root).folder.name
    assert "mine" == (root / "digits-002").read_text()


def test_two_runs_at_once_do_not_share_a_folder(root):
    """Eight that start together make eight folders, each with one first event."""
    ready, runs = threading.Barrier(8), []

    def go():
        ready.wait()
        runs.append(start(root))

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len({run.folder for run in runs})
    assert [1] * 8 == [len(list(run.events())) for run in runs]


def test_a_place_where_no_folder_can_be_made(tmp_path):
    """A root that is a file is a storage error with a repair."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*runs"):
        start(tmp_path / "runs")


def test_events_come_in_order_and_can_be_chosen(root):
    """All of them, those of one stage, those of one kind."""
    run = start(root)
    run.write("plan", "stage_started")
    run.write("plan", "decision", text="cnn")
    run.write("train", "stage_started")

    assert ["started", "stage_started", "decision", "stage_started"] == [
        event["event"] for event in run.events()
    ]
    assert ["stage_started", "decision"] == [event["event"] for event in run.events("plan")]
    assert ["plan", "train"] == [event["stage"] for event in run.events(event="stage_started")]
    assert ["cnn"] == [event["text"] for event in run.events("plan", "decision")]


def test_every_event_has_a_time_with_its_zone(root):
    """Times are ISO 8601 in UTC, to the millisecond."""
    (event,) = start(root).events()

    assert event["time"].endswith("+00:00")
    assert len("2026-01-01T00:00:00.000+00:00") == len(event["time"])


def test_a_figure_keeps_where_it_comes_from(root):
    """Value, unit, kind, how and machine; bounds only where there are some."""
    run = start(root)
    run.figure("plan", "cnn-tiny", "epoch_s", Number(2.0, "s", "predicted", "table", "m"))
    run.figure("certify", "run", "accuracy", Number(0.9, "share", "measured", "400 rows", "m",
                                                    0.87, 0.92))  # fmt: skip
    first, second = run.events(event="figure")

    assert {"value": 2.0, "unit": "s", "kind": "predicted", "how": "table", "machine": "m"} == (
        first["number"]
    )
    assert (0.87, 0.92) == (second["number"]["low"], second["number"]["high"])


def test_a_figure_that_is_no_number_is_refused(root):
    """NaN never reaches the ledger, and what stands there stays readable."""
    run = start(root)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.figure("plan", "run", "x", Number(float("nan"), "s", "measured", "clock", "m"))

    assert 1 == len(list(reopen(run.folder).events()))


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(cut=st.integers(1, 10_000), junk=st.sampled_from([b"", b"\0" * 7, b'{"half": "\xc3']))
def test_a_cut_ledger_loses_its_last_line_only(root, cut, junk):
    """Wherever a crash cut it, the whole lines before stay as they are and writing goes on."""
    run = start(root)
    for number in range(5):
        run.write("train", "decision", text=f"zeile ä {number}")
    lines = run.ledger.read_bytes().splitlines(keepends=True)
    first = len(lines[0])
    cut = first + cut % (len(b"".join(lines)) - first)
    run.ledger.write_bytes(b"".join(lines)[:cut] + junk)
    whole = [line for line in b"".join(lines)[:cut].splitlines(keepends=True) if line[-1:] == b"\n"]
    again = reopen(run.folder)
    again.mend()
    again.write("train", "resumed")

    assert [json.loads(line) for line in whole] == list(again.events())[:-1]
    assert "resumed" == list(again.events())[-1]["event"]


def test_a_line_that_a_full_disk_cut_spoils_no_other(root):
    """Of an event that the disk refused halfway nothing stays: the next one has its own line."""
    run = start(root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.ledger.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            run.write("train", "decision", text="more than twenty letters")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run.write("run", "refused")

    assert ["started", "refused"] == [event["event"] for event in run.events()]


def test_a_whole_ledger_is_left_alone(root):
    """Opening a sound run changes no byte."""
    run = start(root)
    before = run.ledger.read_bytes()
    reopen(run.folder).mend()

    assert before == run.ledger.read_bytes()


def test_who_only_reads_changes_nothing(root):
    """A line that is being written as another process reads is no event yet, and stays."""
    run = start(root)
    with open(run.ledger, "ab") as file:
        file.write(b'{"time": "20')
    before = run.ledger.read_bytes()

    assert ["started"] == [event["event"] for event in reopen(run.folder).events()]
    assert run == find_unfinished(root, "digits", "d1")
    assert before == run.ledger.read_bytes()


@pytest.mark.parametrize(
    ("later", "stands"),
    [([], True), (["decision"], True), (["resumed"], False), (["stage_started"], False)],
    ids=str,
)
def test_a_refusal_stands_until_the_run_goes_on(later, stands):
    """One of a candidate never ends a run."""
    refused = {"event": "refused", "final": True}
    events = [{"event": "stage_started"}, refused, *({"event": name} for name in later)]

    assert (refused if stands else None) == refusal(events)
    assert refusal([{"event": "refused"}]) is None


def test_what_cannot_be_read_says_why(root, tmp_path):
    """A name that the system does not take is an error with words, wherever it is looked up."""
    path = tmp_path / ("x" * 300)
    for look in (lambda: reopen(path), lambda: list(Run(path).events()),
                 lambda: find_unfinished(path / "runs", "digits", "d1")):  # fmt: skip
        with pytest.raises(ConfigError, match=r"cannot read .*File name too long"):
            look()


def test_a_recipe_is_kept_in_utf_8(root):
    """Whatever the machine's own encoding is: that is how it is read."""
    run = create(root, "digits", "data: {source: fotos/größe}\n", "d1", version="1")

    assert "größe".encode() in (run.folder / "recipe.yaml").read_bytes()


@pytest.mark.parametrize("missing", ["run.jsonl", "recipe.yaml"])
def test_a_folder_that_is_no_run(root, missing):
    """Without recipe or ledger it is refused, and the error says what a run has."""
    run = start(root)
    (run.folder / missing).unlink()
    with pytest.raises(ConfigError, match="is not a run folder") as caught:
        reopen(run.folder)

    assert "recipe.yaml and run.jsonl" in caught.value.expected


def test_an_unfinished_run_of_the_same_recipe_is_found(root):
    """The newest one, by the recipe's digest."""
    start(root)
    second = start(root)
    start(root, digest="d2")

    assert second == find_unfinished(root, "digits", "d1")
    assert find_unfinished(root, "digits", "d3") is None
    assert find_unfinished(root, "other", "d1") is None


def test_a_finished_run_is_not_continued(root):
    """When the newest came to its end the next one starts anew, whatever older ones did."""
    start(root)
    start(root).write("run", "finished", verdict="certified")

    assert find_unfinished(root, "digits", "d1") is None


def test_a_run_that_was_refused_is_continued(root):
    """A refusal can be mended; events of stages do not end a run either."""
    run = start(root)
    run.write("run", "refused", text="no")
    run.write("train", "stage_finished", seconds=1.0)

    assert run == find_unfinished(root, "digits", "d1")


def test_no_runs_yet(root):
    """A root that is not there holds no unfinished run."""
    assert find_unfinished(root, "digits", "d1") is None


def test_the_newest_run_beyond_999(root):
    """Numbers are compared as numbers: run 1000 is newer than run 999."""
    root.mkdir()
    for number in range(1, 999):
        (root / f"digits-{number:03d}").mkdir()
    start(root)
    newest = start(root)

    assert "digits-1000" == newest.folder.name
    assert newest == find_unfinished(root, "digits", "d1")


def test_a_folder_without_ledger_is_passed_over(root):
    """What a crash left before the first event is no run to continue."""
    run = start(root)
    (root / "digits-002").mkdir()

    assert run == find_unfinished(root, "digits", "d1")


def test_a_run_cut_within_its_first_event_is_passed_over(root):
    """A ledger without one whole line is no run to continue, and not in the way either."""
    run = start(root)
    second = start(root)
    second.ledger.write_bytes(second.ledger.read_bytes()[:20])

    assert run == find_unfinished(root, "digits", "d1")


def test_a_stage_is_done_after_its_last_write(root):
    """done.json stands in the stage's own folder, with the summary."""
    run = start(root)
    assert [False] * len(STAGES) == [run.done(stage) for stage in STAGES]
    run.mark_done("gate", rows=3)

    assert ["gate"] == [stage for stage in STAGES if run.done(stage)]
    assert 3 == json.loads((run.folder / "data" / "done.json").read_bytes())["rows"]


def test_a_stage_folder_is_its_name(root):
    """Except for the gate, whose folder is called after what lies in it."""
    assert ["data", "plan", "train"] == [
        Run(root).stage_folder(stage).name for stage in ("gate", "plan", "train")
    ]
