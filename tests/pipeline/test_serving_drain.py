"""`otmf serve` as systemd and Kubernetes end it: what is under way is answered first, and nothing is left running."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

from flows.serving import serve as flow
from otmf.runtime import layout
from tests.pipeline import production, serving
from tests.pipeline.serving import ask, large

pytestmark = pytest.mark.pipeline
SLOW = large(7_900, 7_900)  # takes about a second to decode, two at a time


def under_way(pool: ThreadPoolExecutor, server: serving.Served, count: int) -> list[Future]:
    """Requests that the server has begun to work on."""
    used = server.model.cpu_times().user
    asked = [pool.submit(ask, server.url, SLOW, timeout=60) for _ in range(count)]
    production.until(lambda: server.model.cpu_times().user > used + 0.2, 30)
    return asked


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGTERM] * 3, [signal.SIGINT], [signal.SIGHUP]],
    ids=["one", "three", "ctrl-C", "closed terminal"],
)
def test_requests_under_way_are_answered_and_then_it_ends(otmf, served_line, tmp_path, signals) -> None:
    with serving.served(served_line, tmp_path, "--linger", 1) as server, ThreadPoolExecutor(6) as pool:
        model, asked = server.model, under_way(pool, server, 6)
        for sign in signals:
            server.process.send_signal(sign)
            time.sleep(0.1)
        if signals[0] != signal.SIGINT:
            production.until(lambda: httpx.get(f"{server.url}/ready").status_code == 503, 2)
            ready = httpx.get(f"{server.url}/ready")
            assert (ready.status_code, ready.json()["status"], ready.headers["connection"]) == (503, "ending", "close")
            assert ask(server.url).status_code == 200, "what still comes in is answered"
        answers = [one.result() for one in asked]
        assert server.process.wait(30) == 0
        assert not model.is_running()
    assert [one.status_code for one in answers] == [200] * 6
    noted = {one["prediction_id"] for one in flow.predictions(layout.Layout(served_line))}
    assert noted >= {one.json()["prediction_id"] for one in answers}
    assert "class" in answers[0].json()["results"][0]
    assert "v2 (s02)" in otmf("trace", answers[0].json()["prediction_id"], "--line", served_line).stdout


@pytest.mark.parametrize("again", [False, True], ids=["grace", "second ctrl-C"])
def test_what_the_grace_is_too_short_for_is_refused_with_a_sentence(served_line, tmp_path, again) -> None:
    grace = 60 if again else 0.5
    with serving.served(served_line, tmp_path, "--grace", grace) as server, ThreadPoolExecutor(12) as pool:
        asked = under_way(pool, server, 12)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        if again:
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert time.monotonic() - begun < 5
        answers = [one.result() for one in asked]
    refused = [one for one in answers if one.status_code == 503]
    assert refused
    assert {one.status_code for one in answers} <= {200, 503}
    assert all("expected a server that goes on; received your request as this one ends" in one.text for one in refused)
    assert f"the grace is over; {len(refused)} requests were refused" in server.log.read_text()


def test_who_has_not_sent_a_whole_request_is_told_to_send_it_to_the_next(served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path, "--linger", 0) as server:
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with server.half_open() as half, server.half_open(whole) as idle:
            assert idle.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert server.end() == 0
            assert b"received part of one; send it to the next" in half.recv(1000)
            assert b"expected a whole request before this server ends; received none" in idle.recv(1000)
        with pytest.raises(httpx.ConnectError):
            ask(server.url)


def test_process_with_the_model_ends_with_a_command_that_is_killed(served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path) as server:
        model = server.model
        server.process.kill()
        production.until(lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE, 10)


def test_killed_process_with_the_model_is_said_in_a_sentence(served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path) as server:
        server.model.kill()
        assert server.process.wait(30) == 1
    said = " ".join(server.log.read_text().split())
    assert "expected the process with the model to go on; received its end by signal 9 (SIGKILL)" in said


@pytest.mark.parametrize("seconds", [0.3, 1, 2, 3.5, 5])
def test_asked_to_end_while_it_starts_it_ends(served_line, tmp_path, seconds) -> None:
    with serving.served(served_line, tmp_path, "--linger", 0, ready=False) as server:
        production.until(lambda: bool(server.log.read_text()), 30)  # before, it is Python that starts
        time.sleep(seconds)
        begun = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - begun < 5


def test_asked_to_end_while_the_next_version_is_loaded_it_ends(otmf, served_line, tmp_path) -> None:
    for version, pause in (("v1", 0.5), ("v2", 1.2)):
        with serving.served(served_line, tmp_path, "--linger", 0) as server:
            otmf("rollback", version, "--reason", "to see it end meanwhile", "--line", served_line)
            time.sleep(pause)
            assert server.end() == 0
