"""Start, signal, drain, stop: the server as a process of its own."""

import gc
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from tests.serve.conftest import question, running

from modelwright.core.errors import ConfigError
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
        time.sleep(0.15)
        process.send_signal(name)
        time.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/v2/health/live")
        thread.join()

        assert [200] == replies
        assert 0 == process.wait(5)
    finally:
        process.kill()
        process.stdout.close()


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
