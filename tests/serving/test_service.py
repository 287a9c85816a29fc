"""The service: what comes back is what the engine draws, and nothing of the server leaks."""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
import threading
import zlib
from contextlib import suppress

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from service_world import Held, npy, png, running, wait_for
from tiny import tiny_prior

import latino_engine as le
from latino_engine.errors import InvalidArgument
from latino_engine.serving.logs import JsonLines
from latino_engine.serving.settings import Settings

PIXELS = np.random.default_rng(4).random((16, 20, 3))
IMAGE = png(PIXELS)
Y = torch.from_numpy(np.asarray(Image.open(io.BytesIO(IMAGE)), dtype=np.float64) / 255)
Y = Y.float().permute(2, 0, 1)[None].contiguous()
ASK = {"operator": "blur:std=1,size=5", "noise_std": "0.05", "num_samples": "2", "steps": "2"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return le.load(path, threads=1)


@pytest.fixture(scope="module")
def client(engine):
    with running({"tiny": engine, "again": engine}, max_pixels=4096) as found:
        yield found


def ask(client, files=None, image=IMAGE, **fields):
    data = {k: v for k, v in {**ASK, **fields}.items() if v is not None}
    return client.post("/v1/sample", data=data, files={"image": ("a.png", image), **(files or {})})


def direct(engine, op=None, y=Y, **options):
    op = op or le.BorderedBlur(le.Blur.gaussian(1.0, 0.05, size=5).kernel, 0.05)
    return engine.sample(y, op, **{"num_samples": 2, "steps": 2, **options})


def sentence(answer):
    return answer.json()["error"]["sentence"]


def test_the_samples_are_those_of_the_engine(client, engine, tmp_path):
    answer = ask(client, seed="7")
    assert answer.status_code == 200
    (tmp_path / "result.npz").write_bytes(answer.content)
    post = le.Posterior.load(tmp_path / "result.npz")
    expected = direct(engine, seed=7)
    assert torch.equal(post.samples, expected.samples)
    assert torch.equal(post.residual_chi2, expected.residual_chi2)
    assert torch.equal(post.repeat(engine).samples, expected.samples)
    told = json.loads(answer.headers["Latino-Figures"])
    assert (told["nfe"], told["seed"], told["shape"]) == (2, 7, [3, 16, 20])


def test_the_forms_of_an_answer(client, engine):
    expected = direct(engine)
    shown = (expected.mean[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    answer = ask(client, format="png")
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), shown)
    for what, array in {
        "mean": expected.mean[0],
        "std": expected.std[0],
        "samples": expected.samples[:, 0],
    }.items():
        answer = ask(client, format="npy", what=what)
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), array.numpy())
    body = ask(client, format="json").json()
    assert len(body["images"]["samples"]) == 2
    mean = Image.open(io.BytesIO(base64.b64decode(body["images"]["mean"])))
    np.testing.assert_array_equal(np.asarray(mean), shown)
    assert body["residual_chi2"] == expected.residual_chi2[:, 0].tolist()


def test_json_asks_for_the_same_as_a_form(client):
    mask = (np.arange(320).reshape(16, 20) % 3 > 0).astype(float)
    fields = {"operator": "inpaint:mask=mask.png", "num_samples": 1, "steps": 2, "format": "npy"}
    files = {"mask.png": base64.b64encode(png(mask)).decode()}
    body = {"image": base64.b64encode(IMAGE).decode(), "files": files, **fields}
    by_json = client.post("/v1/sample", json={**body, "noise_std": 0.05})
    by_form = ask(client, {"mask": ("mask.png", png(mask))}, **fields)
    assert by_json.status_code == by_form.status_code == 200
    assert by_json.content == by_form.content


def test_uploads_are_masks_and_kernels(client, engine):
    kernel = np.random.default_rng(1).random((3, 5))
    expected = direct(engine, le.BorderedBlur(kernel / kernel.sum(), 0.05)).samples[:, 0].numpy()
    for operator, name in (("blur:kernel=psf.npy", "psf.npy"), ("blur:kernel=psf", "other.npy")):
        files = {"psf": (name, npy(kernel))}
        answer = ask(client, files, operator=operator, format="npy", what="samples")
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), expected)


def test_a_clean_image_is_measured_first(client, engine):
    op = le.SuperResolution(2, 0.05, grid="centred")
    expected = direct(engine, op, op.measure(Y, seed=3), seed=3)
    answer = ask(client, operator="sr:factor=2", simulate="true", seed="3", format="npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), expected.mean[0].numpy())


@pytest.mark.parametrize(
    "form", ["inpaint:mask={}", "blur:kernel={}", "sr:factor=2, kernel = {}", "varying:kernels={}"]
)
def test_a_path_in_a_request_is_never_opened(client, tmp_path, form):
    np.save(tmp_path / "mask.npy", np.eye(16, 20))
    there = tmp_path / "mask.npy"
    texts = [form.format(path) for path in (there, f"file://{there}", "../" * 20 + str(there)[1:])]
    texts += [f"blur:std=1 then {form.format(there)}", f"saved:file={there}"]
    for text in texts:
        answer = ask(client, operator=text)
        assert answer.status_code == 400
        assert "expected an upload named" in sentence(answer)


def bomb() -> bytes:
    """A PNG whose header says 60,000 x 60,000, of few bytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


MISTAKES = {
    "no operator": ({"operator": None}, 400, "operator: expected a description, got none"),
    "word": ({"operator": "blurr:std=1"}, 400, "did you mean 'blur'"),
    "number": ({"num_samples": "two"}, 400, "num_samples: expected a whole number, got 'two'"),
    "many": ({"num_samples": "65"}, 400, "num_samples: expected 1 to 64, got 65"),
    "work": ({"steps": "4000"}, 400, "at most 4096 evaluations in all, got 8000"),
    "seed": ({"seed": "-1"}, 400, "seed"),
    "noise": ({"noise_std": "-0.1"}, 400, "noise_std: expected a standard deviation >= 0"),
    "nan": ({"noise_std": "nan"}, 400, "noise_std"),
    "field": ({"path": "/etc/passwd"}, 400, "field: expected one of"),
    "format": ({"format": "exe"}, 400, "format: expected one of npz, json, png, npy"),
    "what": ({"format": "png", "what": "sample-2"}, 400, "sample-0 to sample-1"),
    "engine": ({"engine": "other"}, 404, "engine: expected one of tiny, again, got 'other'"),
    "sampler": ({"sampler": "none"}, 400, "sampler"),
    "no image": ({"image": b"no image"}, 400, "image: expected an image file"),
    "cut": ({"image": IMAGE[:200]}, 400, "image: expected"),
    "bomb": ({"image": bomb()}, 413, "at most 4096 pixels, got 3600000000"),
    "large": ({"image": npy(np.zeros((70, 70)))}, 413, "at most 4096 pixels, got 4900"),
    "behind": ({"operator": "sr:factor=8"}, 413, "restored to at most 4096 pixels"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(client, name):
    fields, status, part = MISTAKES[name]
    answer = ask(client, **fields)
    assert answer.status_code == status, answer.text
    assert part in sentence(answer)
    assert "/tmp" not in answer.text and "Traceback" not in answer.text
    assert "\n" not in sentence(answer)


def test_other_bodies(client):
    assert client.post("/v1/sample", content=b"x").status_code == 415
    answer = client.post("/v1/sample", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "body: expected JSON" in sentence(answer)
    answer = client.post("/v1/sample", json={"image": "*", "operator": "denoise"})
    assert answer.status_code == 400 and "image: expected base64" in sentence(answer)
    answer = client.post("/v1/sample", json=["image"])
    assert "body: expected a JSON object, got list" in sentence(answer)


def test_a_body_is_counted_before_it_is_decoded(engine):
    with running({"tiny": engine}, max_body_bytes=20_000) as client:
        assert ask(client, image=bytes(30_000)).status_code == 413

        def pieces():
            for _ in range(30):
                yield bytes(1000)

        headers = {"content-type": "application/json"}  # in pieces: no length is stated
        with suppress(httpx.WriteError):  # the service may close before all pieces are sent
            assert client.post("/v1/sample", content=pieces(), headers=headers).status_code == 413
        assert ask(client).status_code == 200


def in_threads(calls):
    answers = [None] * len(calls)

    def one(i):
        answers[i] = calls[i]()

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    return threads, answers


def finish(threads):
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def test_requests_that_wait_are_drawn_together(engine):
    """Each gets what it gets alone, to float32 rounding, whatever it travelled with."""
    held = Held(engine)
    blurs = [("1", "0.05", "0"), ("1.5", "0.1", "3"), ("0.7", "0.05", "0"), ("1.2", "0.02", "9")]
    asked = [(f"blur:std={std},size=5", noise, image) for std, noise, image in blurs]
    asked += [(f"inpaint:random=0.{5 + k},seed={k}", "0.1", str(k)) for k in range(3)]
    with running({"tiny": held}) as client:
        first, _ = in_threads([lambda: ask(client)])
        held.entered.wait(60)
        rest = {"format": "npy", "what": "samples"}
        calls = [
            lambda op=op, noise=noise, i=i: ask(
                client, operator=op, noise_std=noise, image_id=i, **rest
            )
            for op, noise, i in asked
        ]
        threads, answers = in_threads(calls)
        waiting = 'latino_queue_length{engine="tiny"} 7.0'
        wait_for(lambda: waiting in client.get("/metrics").text)
        held.go.set()
        finish(first + threads)
    assert sorted(held.batches) == [1, 3, 4]
    for answer, (text, noise, image) in zip(answers, asked, strict=True):
        op = le.operator(text, float(noise), (16, 20), border="reflect")
        alone = direct(engine, op, image_ids=[int(image)]).samples[:, 0].numpy()
        got = np.load(io.BytesIO(answer.content))
        assert np.abs(got - alone).max() < 1e-5
        assert np.abs(got[0] - got[1]).max() > 1e-2  # two samples of one posterior differ


def test_a_mistake_of_one_is_not_that_of_the_others(engine):
    held = Held(engine)
    bad = np.full((16, 20, 3), np.nan)
    with running({"tiny": held}) as client:
        first, _ = in_threads([lambda: ask(client)])
        held.entered.wait(60)
        calls = [lambda: ask(client), lambda: ask(client, sampler="ud2m", unfold="0")]
        threads, answers = in_threads([*calls, lambda: ask(client, image=npy(bad))])
        held.go.set()
        finish(first + threads)
    assert [answer.status_code for answer in answers] == [200, 400, 400]


def test_a_full_queue_says_when_to_come_back(engine):
    held = Held(engine)
    with running({"tiny": held}, max_queue=2) as client:
        first, _ = in_threads([lambda: ask(client)])
        held.entered.wait(60)
        threads, answers = in_threads([lambda: ask(client)] * 2)
        wait_for(lambda: client.get("/ready").status_code == 503)
        refused = ask(client)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "queue: expected fewer than 2 waiting requests" in sentence(refused)
        held.go.set()
        finish(first + threads)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get("/ready").status_code == 200


def test_a_time_limit_ends_the_request_and_the_work(engine):
    held = Held(engine)
    with running({"tiny": held}, time_limit_s=0.5) as client:
        answer = ask(client)
        assert answer.status_code == 504
        assert "time: expected an answer within 0.5 s" in sentence(answer)
        wait_for(lambda: held.ended == ["_AllGone"])


def test_a_client_that_goes_away_ends_the_work(engine):
    held = Held(engine)
    with running({"tiny": held}) as client:
        short = httpx.Timeout(60, read=1.0)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/sample", data=ASK, files={"image": IMAGE}, timeout=short)
        wait_for(lambda: held.ended == ["_AllGone"])
        held.go.set()
        assert ask(client).status_code == 200
        assert 'latino_errors_total{kind="ClientGone"} 1.0' in client.get("/metrics").text


def test_a_token_where_others_can_reach_it(engine):
    with pytest.raises(InvalidArgument, match="token: expected a bearer token to listen at"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", token="secret").token == "secret"
    with running({"tiny": engine}, token="secret") as client:
        assert ask(client).status_code == 200
        for value in (
            "",
            "Bearer",
            "Bearer secre",
            "Bearer secrets",
            "Basic secret",
            "Bearer \xff",
        ):
            headers = {"Authorization": value.encode("latin-1")}
            for path in ("/metrics", "/v1/engines", "/openapi.json"):
                assert client.get(path, headers=headers).status_code == 401
            answer = client.post("/v1/sample", data=ASK, files={"image": IMAGE}, headers=headers)
            assert answer.status_code == 401
        assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_other_sites_cannot_use_a_service_at_loopback(client):
    assert client.get("/v1/engines", headers={"Host": "evil.example"}).status_code == 403
    own = f"http://127.0.0.1:{client.base_url.port}"
    for origin, status in (("http://evil.example", 403), ("null", 403), (own, 200)):
        headers = {"Origin": origin}
        answer = client.post("/v1/sample", data=ASK, files={"image": IMAGE}, headers=headers)
        assert answer.status_code == status


def test_what_is_counted(engine):
    with running({"tiny": engine}) as client:
        for _ in range(3):
            ask(client)
        ask(client, operator="nothing")
        text = client.get("/metrics").text
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["latino_requests_total", (("engine", "tiny"), ("status", "200"))] == 3
    assert found["latino_requests_total", (("engine", "tiny"), ("status", "400"))] == 1
    assert found["latino_evaluations_total", (("engine", "tiny"),)] == 3 * 2 * 2
    assert found["latino_samples_total", (("engine", "tiny"),)] == 3 * 2
    assert found["latino_errors_total", (("kind", "InvalidArgument"),)] == 1
    assert found["latino_request_seconds_count", ()] == 4


def test_what_is_told(client, engine):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/v1/engines").json()["tiny"]["sha256"] == engine.sha256
    told = client.get("/openapi.json").json()
    request = told["paths"]["/v1/sample"]["post"]["requestBody"]["content"]
    assert set(request) == {"multipart/form-data", "application/json"}
    examples = request["application/json"]["examples"].values()
    fields = request["application/json"]["schema"]["properties"]
    assert examples and all(set(example["value"]) <= set(fields) for example in examples)
    responses = told["paths"]["/v1/sample"]["post"]["responses"]
    assert {"200", "400", "401", "413", "429", "504"} <= set(responses)
    assert client.get("/docs").status_code == 404  # its scripts would come from another host


def test_a_line_for_each_request(client, caplog):
    with caplog.at_level(logging.INFO, "latino_engine.serving"):
        answer = ask(client, operator="denoise")
    lines = [JsonLines().format(record) for record in caplog.records if hasattr(record, "told")]
    told = next(line for line in map(json.loads, lines) if line.get("operator") == "denoise")
    assert told["status"] == 200
    assert told["id"] == answer.headers["X-Request-Id"]
    assert told["measurement"] == [1, 3, 16, 20]
    assert (told["nfe"], told["num_samples"]) == (2, 2)
