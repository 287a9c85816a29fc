"""The commands serve and web as processes: they answer, and they finish what they accepted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from service_world import npy, wait_for
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program

IMAGE = npy(np.random.default_rng(2).random((64, 64, 3), dtype=np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return str(path)


@contextmanager
def command(*arguments, **environment):
    """The process, its address, and what it writes on stderr once it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "latino_engine", *arguments, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait(60)


def ask(url, **fields):
    data = {"operator": "blur:std=1", "num_samples": "1", "steps": "2", **fields}
    with httpx.Client(timeout=120, trust_env=False) as client:
        return client.post(f"{url}/v1/sample", data=data, files={"image": IMAGE})


def test_it_finishes_what_it_accepted(folder):
    with command("serve", folder) as (process, url):
        assert ask(url).status_code == 200
        answers = []
        long = {"num_samples": "16", "steps": "16", "format": "npy"}
        thread = threading.Thread(target=lambda: answers.append(ask(url, **long)))
        thread.start()

        def drawing():
            with httpx.Client(timeout=60, trust_env=False) as client:
                counted = client.get(f"{url}/metrics").text
            return "latino_queue_seconds_count 1.0" in counted and thread.is_alive()

        wait_for(drawing)
        process.send_signal(signal.SIGTERM)
        thread.join(120)
        assert answers and answers[0].status_code == 200
        assert process.wait(60) in (
            0,
            -signal.SIGTERM,
        )  # uvicorn raises the signal again at its end
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    told = [line for line in lines if line["message"] == "request"]
    assert [line["status"] for line in told] == [200, 200]
    assert told[1]["num_samples"] == 16 and told[1]["engine"] == "tiny"


def test_a_token_from_the_environment(folder):
    with command("serve", folder, LATINO_ENGINE_TOKEN="word") as (_, url):
        assert ask(url).status_code == 401


def test_web_takes_an_engine(folder):
    with command("web", folder) as (_, url), httpx.Client(trust_env=False) as client:
        page = client.get(url)
        assert page.status_code == 200 and "<form" in page.text
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "http" not in page.text.replace("http-equiv", "")  # nothing from another host


def run(capsys, *arguments):
    status = program.run([*arguments])
    return status, capsys.readouterr().err


def test_mistakes_are_one_line(capsys, folder, tmp_path):
    status, err = run(capsys, "serve", folder, "--host", "0.0.0.0")
    assert status == 2 and "token: expected a bearer token to listen at 0.0.0.0" in err
    status, err = run(capsys, "serve", folder, folder)
    assert status == 2 and "tiny twice" in err
    status, err = run(capsys, "serve", folder, "--max-queue", "0")
    assert status == 2 and "max_queue: expected a number of at least" in err
    status, err = run(capsys, "serve", folder, "--token-file", str(tmp_path / "none"))
    assert status == 2 and "token-file: expected a file with a token" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, err = run(capsys, "serve", folder, "--port", port)
    assert status == 2 and "address already in use; choose --port 0" in err
