"""Start, signal, drain, stop: the server as a process of its own."""

import gc
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from tests.serve.conftest import png, question, running
from tests.serve.test_abuse import wait_until

from modelwright.core.errors import ConfigError
from modelwright.serve.answers import Answers
from modelwright.serve.limits import Limits
from modelwright.serve.server import prepare

SCRIPT = """
import sys, time
from pathlib import Path
from modelwright.runtime import catalog
real = catalog.open_session
def slow(artifact, threads):
    session = real(artifact, threads=threads)
    def run(batch):
        if batch["image"].any():
            print("busy", flush=True)
            time.sleep(0.5)
        return session(batch)
    return run
catalog.open_session = slow
from modelwright.serve.server import serve
serve(Path(sys.argv[1]), port=0, announce=lambda url, name: print(url, name, flush=True))
"""


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_request_finish_and_exits_with_0(deploy, name):
    """The request in flight is answered, a new connection is refused, the exit code is 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(deploy)], stdout=subprocess.PIPE, text=True
    )
    try:
        url, model = process.stdout.readline().split()
        replies = []
        post = lambda: replies.append(  # noqa: E731
            httpx.post(f"{url}/v2/models/{model}/infer", json=question()).status_code
        )
        thread = threading.Thread(target=post)
        thread.start()
        assert "busy\n" == process.stdout.readline()
        process.send_signal(name)
        time.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/v2/health/live")
        thread.join()

        assert [200] == replies
        assert 0 == process.wait(20)
    finally:
        process.kill()
        process.stdout.close()


def test_work_aside_that_hangs_does_not_outlast_the_grace(deploy, monkeypatch):
    """A search for which nobody waits any more is left behind when the server is told to stop."""
    go = threading.Event()
    monkeypatch.setattr(Answers, "answer", lambda self, *given: go.wait(60))
    server = prepare(deploy, port=0, limits=Limits(deadline_s=0.1, grace_s=0.1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started)
    headers, content = {"Content-Type": "image/png"}, png(np.zeros((8, 8), np.uint8))
    late = httpx.post(server.url + "/page/answer", content=content, headers=headers)
    server.should_exit = True
    thread.join(20)
    ended = not thread.is_alive()
    go.set()

    assert (504, True) == (late.status_code, ended)


@pytest.mark.parametrize(("seconds", "start_s", "words"), [
    (0.3, 9, None), (0.3, 0.05, "gave no answer to one row within 0.05 s"),
    (None, 9, "fails on one row: ValueError: odd"),
])  # fmt: skip
def test_the_first_row_has_a_deadline_of_its_own(deploy, monkeypatch, seconds, start_s, words):
    """A model may take longer to warm up than to be ready later; without an answer none is
    served, and the reason is no traceback."""

    def slow(batch):
        if seconds is None:
            raise ValueError("odd")
        time.sleep(seconds)
        return {"logits": np.zeros((1, 10), np.float32)}

    monkeypatch.setattr("modelwright.runtime.catalog.open_session", lambda artifact, threads: slow)

    def stop(url, name):
        server.should_exit = True

    limits = Limits(ready_s=0.05, start_s=start_s)
    server = prepare(deploy, port=0, limits=limits, announce=stop)
    if words is None:
        server.run()
        assert server.started
    else:
        with pytest.raises(ConfigError, match=words):
            server.run()


def test_what_was_loaded_is_not_walked_again(deploy, monkeypatch):
    """Before the first request, what is in memory leaves the sight of the garbage collector."""
    seen = []
    monkeypatch.setattr(gc, "freeze", lambda: seen.append("frozen"))

    def stop(url, name):
        seen.append("announced")
        server.should_exit = True

    server = prepare(deploy, port=0, announce=stop)
    server.run()

    assert ["frozen", "announced"] == seen


def test_a_draining_server_says_that_it_is_not_ready(deploy):
    """Between the signal and the end, ready and infer on an open connection get 503."""
    with running(deploy) as server:
        server.served.batcher._closed = True
        ready = httpx.get(server.url + "/v2/health/ready")
        infer = httpx.post(server.url + "/v2/models/cnn-tiny/infer", json=question())

    assert [503, 503] == [ready.status_code, infer.status_code]
    assert {"error": "the server is stopping"} == infer.json()
    assert "1" == infer.headers["retry-after"]


@pytest.mark.parametrize(("argument", "words"), [
    ({"name": "a/b"}, "does not fit into an address"), ({"threads": 0}, "threads=0"),
    ({"port": 70000}, "cannot listen"), ({"host": "192.0.2.1"}, "no API key"),
])  # fmt: skip
def test_a_wrong_argument_is_a_config_error(deploy, argument, words):
    """Names, threads, ports and hosts are checked before anything listens."""
    with pytest.raises(ConfigError, match=words):
        prepare(deploy, **{"port": 0} | argument)
