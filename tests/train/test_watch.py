"""Signs of life: who stands still is named, by files alone and in a group of two processes."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from modelwright.core.errors import Exit, TrainingFailed
from modelwright.train.watch import SILENT_BEATS, Watch, unwatched

TIMED_OUT = "[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv"


def other(watch, rank, step, *, waiting=False, age_s=0.0, host="node7"):
    """The file of another rank, written so many seconds before this one's."""
    path = watch.folder / f"rank-{rank}"
    path.write_text(json.dumps({"host": host, "pid": 1, "step": step, "waiting": waiting}))
    own = (watch.folder / f"rank-{watch.rank}").stat().st_mtime
    os.utime(path, (own - age_s, own - age_s))


@pytest.fixture
def watch(tmp_path):
    """Rank 0 of three, at step 40, its file written; no thread moves it."""
    made = Watch(tmp_path / "ranks", 0, 3, timeout_s=8.0)
    made.at(40)
    made._write()
    return made


def timing_out(watch):
    with watch.waiting():
        raise RuntimeError(TIMED_OUT)


def test_a_silent_rank_is_named(watch):
    """A rank whose file has not moved for long is the one, whatever step it says."""
    other(watch, 1, 40, waiting=True)
    other(watch, 2, 40, waiting=True, age_s=SILENT_BEATS * watch.beat_s + 1)
    with pytest.raises(TrainingFailed, match="rank 0 waited at step 40 for rank 2 on node7, last "
                       "seen at step 40, 7") as caught:  # fmt: skip
        timing_out(watch)

    assert "rank 1" not in caught.value.what and "Timed out" in caught.value.what
    assert "train.stuck_minutes" in caught.value.expected
    assert Exit.BAD_INPUT == caught.value.exit_code


def test_a_rank_behind_is_named(watch):
    """Where all are alive, it is the one that has not come to the meeting."""
    other(watch, 1, 40, waiting=False)
    other(watch, 2, 40, waiting=True)
    with pytest.raises(TrainingFailed, match="for rank 1 on node7, last seen at step 40"):
        timing_out(watch)


def test_a_rank_that_has_no_rows_yet_is_named(watch):
    """This one has its own of the same step, and waits."""
    other(watch, 1, 40, waiting=True)
    other(watch, 2, 40, waiting=False)
    with (
        pytest.raises(TrainingFailed, match="for rank 2 on node7, last seen at step 40"),
        watch.waiting(),
    ):
        watch.at(40)
        watch.at(40, waiting=True)
        raise RuntimeError(TIMED_OUT)


def test_a_rank_that_never_began_is_named(watch):
    """A rank without a file has a number, and no host."""
    other(watch, 1, 40, waiting=True)
    with pytest.raises(TrainingFailed, match="for rank 2 on an unknown host, last seen at step 0"):
        timing_out(watch)


def test_nobody_is_blamed_without_evidence(watch):
    """Where all say that they wait at the same step, no rank is named."""
    for rank in (1, 2):
        other(watch, rank, 40, waiting=True)
    with pytest.raises(TrainingFailed, match="the others, none of which is behind"):
        timing_out(watch)


def test_other_errors_pass(watch):
    """What is no silence of another rank stays the error that it was."""
    with pytest.raises(RuntimeError, match="shapes differ"), watch.waiting():
        raise RuntimeError("shapes differ")


def test_the_file_says_where_this_rank_is(tmp_path):
    """At once the newest step; a thread writes on while a step lasts, but not behind the block."""
    with Watch(tmp_path, 3, 4, timeout_s=0.04) as watch:
        watch.at(1000)
        watch.at(7)
        assert 7 == watch.look()[3].step
        os.utime(tmp_path / "rank-3", (0, 0))
        while not (tmp_path / "rank-3").stat().st_mtime:
            pass
        assert {"rank-3"} == {path.name for path in tmp_path.glob("rank-*")}

    assert "watch" not in {thread.name for thread in threading.enumerate()}


MEMBER = """\
import datetime, os, signal, sys
import torch, torch.distributed as dist
from modelwright.core.errors import ModelwrightError
from modelwright.train import ranks
from modelwright.train.watch import Watch
from torch.distributed.distributed_c10d import _set_pg_timeout
from pathlib import Path
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=4))
_set_pg_timeout(datetime.timedelta(seconds=4), ranks.channel())
try:
    with Watch(folder / "ranks", rank, 2, timeout_s=4) as watch:
        for step in range(100):
            watch.at(step)
            if (rank, step) == (1, 3):
                os.kill(os.getpid(), signal.SIGSTOP)
            with watch.waiting():
                {act}
except ModelwrightError as error:
    print(error.what, flush=True)
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize(("act", "end"), [
    pytest.param("dist.all_reduce(torch.ones(1))", ")", marks=pytest.mark.slow),
    ("ranks.share(step)", " at a checkpoint)"),
])  # fmt: skip
def test_a_stopped_process_is_named_by_the_other(tmp_path, act, end):
    """Of two processes in a gloo group one is stopped by a signal; the other ends with its rank,
    its host and its last step once the group's timeout is over, also where they save."""
    stopped, other = (
        subprocess.Popen(
            [sys.executable, "-c", MEMBER.replace("{act}", act), str(rank), tmp_path], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in (1, 0)
    )  # fmt: skip
    try:
        said, wrong = other.communicate()
    finally:
        stopped.send_signal(signal.SIGKILL)
        stopped.communicate()

    assert 2 == other.returncode, wrong[-2000:]
    assert (
        f"rank 0 waited at step 3 for rank 1 on {os.uname().nodename}, last seen at step 3" in said
    )
    assert "s ago" in said and said.strip().endswith(end)


@pytest.mark.parametrize(("said", "kind"), [
    ("Connection closed by peer [127.0.0.1]:1", TrainingFailed), ("shapes differ", RuntimeError),
])  # fmt: skip
def test_who_is_gone_before_training_is_no_bug_of_ours(said, kind):
    with pytest.raises(kind) as caught, unwatched():
        raise RuntimeError(said)

    assert kind is type(caught.value)
