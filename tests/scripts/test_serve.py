"""scripts/serve.py: its answers, what it refuses and in which words, and how it stands load."""

import argparse
import base64
import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl.runtime import Session
from scripts import serve
from tests.demo.samples import scene
from tests.runtime.samples import COLORS, write_exported

LIMITS = {"workers": 1, "queue": 8, "timeout": 60, "max_bytes": 100_000, "max_pixels": 5000}


@contextlib.contextmanager
def running(session, **limits):
    """A server on a free port of this machine, which is yielded."""
    app = serve.create_app(session, "tiny.onnx", argparse.Namespace(**LIMITS | limits))
    options = {"headers": [*serve.HEADERS.items()], "server_header": False, "log_level": "critical"}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        getattr(session, "go_on", threading.Event()).set()
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return Session(write_exported(tmp_path_factory.mktemp("exported") / "tiny.onnx"))


@pytest.fixture(scope="module")
def port(session):
    with running(session) as port:
        yield port


class Blocked:
    """A session that waits until it may go on."""

    def __init__(self, session):
        self.session, self.classes, self.go_on = session, session.classes, threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, image):
        self.begun.release()
        assert self.go_on.wait(20)
        return self.session(image)


def ask(port, path="/predict", body=None, headers=None):
    """The answer: its status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    sent = {
        **(headers or {}),
        "connection": "close",
    }  # as urllib has it: nothing is read after the answer
    connection.request("GET" if body is None else "POST", path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return SimpleNamespace(status=answer.status, headers=answer.headers, body=content)


def health(port):
    return json.loads(ask(port, "/health").body)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.02)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_of(width, height):
    """A PNG that claims a size, and has hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PHOTO = encoded(scene(40, 64))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_json_is_coco_panoptic_and_exact(port, session, kind):
    data = encoded(scene(40, 64), kind)
    annotation, pixels = session(Image.open(io.BytesIO(data))).to_coco("a street")
    answer = ask(port, "/predict?name=a%20street", data, {"content-type": "image/anything"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    content = json.loads(answer.body)
    (found,) = content["annotations"]
    for row in found["segments_info"]:
        assert row.pop("name") == session.classes.names[(7, 23, 24).index(row["category_id"])]
        color = tuple(row.pop("color"))
        assert (color == COLORS[(7, 23, 24).index(row["category_id"])]) == (not row["isthing"])
    assert found == annotation
    assert content["categories"] == session.classes.categories()
    assert content["images"][0] | {"id": 0} == {
        **{"id": 0, "file_name": "a street", "height": 40, "width": 64}
    }
    ids = rgb2id(np.asarray(Image.open(io.BytesIO(base64.b64decode(content["png"])))))
    assert np.array_equal(ids, rgb2id(pixels))
    assert len(np.unique(ids)) == len(annotation["segments_info"]) > 1
    runs = np.array(content["runs"]).reshape(-1, 2)
    assert np.array_equal(np.repeat(*runs.T), ids.ravel())
    assert (runs[1:, 0] != runs[:-1, 0]).all()


def test_void_is_the_id_0(session):
    def sees_void(image):
        result = session(image)
        panoptic = np.where(np.arange(64) < 5, -1, result.panoptic)
        return replace(result, panoptic=panoptic)

    sees_void.classes = session.classes
    with running(sees_void) as port:
        runs = json.loads(ask(port, body=PHOTO).body)["runs"]
    assert runs[:2] == [0, 5]
    assert sum(runs[1::2]) == 40 * 64


def test_pictures_are_those_of_the_result(port, session):
    result = session(scene(40, 64))
    for form, pixels in (("png", result.to_coco()[1]), ("overlay", result.draw())):
        answer = ask(port, f"/predict?format={form}", PHOTO)
        assert answer.headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), pixels)


def test_a_photograph_is_turned_upright(port):
    exif = Image.Exif()
    exif[274] = 6
    content = json.loads(ask(port, body=encoded(scene(40, 64), "JPEG", exif=exif)).body)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (64, 40)


def chunks(data, size=1000):
    return (data[start : start + size] for start in range(0, len(data), size))


JPEG = encoded(scene(60, 80), "JPEG")
WRONG = [  # path, body, status, text
    ("/predict", b"", 415, "no whole image; read are JPEG, PNG, WEBP, GIF, BMP, TIFF"),
    ("/predict", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "no whole image"),
    ("/predict", b"P6 2 2 255 xxxxxxxxxxxx", 415, "no whole image"),
    ("/predict", b"--x\r\ncontent-type: image/png\r\n\r\n" + PHOTO, 415, "no whole image"),
    ("/predict", PHOTO[: len(PHOTO) // 2], 400, "no whole image"),
    ("/predict", JPEG[: len(JPEG) // 2], 400, "no whole image"),
    ("/predict", PHOTO[:100] + bytes(100) + PHOTO[200:], 400, "no whole image"),
    ("/predict", png_of(60, 80), 400, "no whole image"),
    ("/predict", encoded(np.zeros((9, 9), np.uint16)), 400, "has more than 8 bits a pixel"),
    ("/predict", encoded(np.zeros((51, 100), np.uint8)), 413, "over 5,000 pixels"),
    ("/predict", png_of(2**31 - 1, 2**31 - 1), 413, "over 5,000 pixels"),
    ("/predict", png_of(9000, 9000), 413, "over 5,000 pixels"),
    ("/predict", bytes(100_001), 413, "the file has over 100,000 bytes"),
    ("/predict", bytes(30_000_000), 413, "the file has over 100,000 bytes"),
    ("/predict", chunks(bytes(5_000_000)), 413, "the file has over 100,000 bytes"),
    ("/predict?format=svg", PHOTO, 400, "format is one of json, png, overlay"),
    ("/predict", None, 405, "Method Not Allowed"),
    ("/etc/passwd", None, 404, "Not Found"),
    ("/../serve.py", None, 404, "Not Found"),
]


@pytest.mark.parametrize("case", WRONG, ids=range(len(WRONG)))
def test_what_is_refused_is_told_in_json(port, case):
    path, body, status, text = case
    answer = ask(port, path, body, {"content-type": "image/png"} if body else {})
    assert answer.status == status
    assert text in json.loads(answer.body).pop("error")
    for hint in (b"Traceback", b"site-packages", b"/tmp", b".py", b"0x"):
        assert hint not in answer.body
    assert health(port)["requests"] == 0


def test_all_answers_have_the_headers(port):
    asked = (("/", None), ("/health", None), ("/predict", PHOTO), ("/predict", b""), ("/no", None))
    for path, body in asked:
        headers = ask(port, path, body).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'sha256-")
        assert "unsafe" not in policy
        assert "server" not in headers


def test_the_page_names_no_other_address(port):
    answer = ask(port, "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.body.decode()
    for word in ("http:", "https:", "//cdn", "@import", "url(", "style=", "onclick=", "innerHTML"):
        assert word not in text, word


def test_page_and_server_are_250_lines():
    script = Path(serve.__file__)
    files = (script, script.with_suffix(".html"))
    assert sum(len(file.read_text().splitlines()) for file in files) <= 250


def in_threads(function, many):
    threads = [
        threading.Thread(target=function, args=(number,), daemon=True) for number in range(many)
    ]
    for thread in threads:
        thread.start()
    return threads


def test_a_full_queue_refuses_and_all_else_is_answered(session):
    blocked, found = Blocked(session), []
    with running(blocked, queue=2, max_bytes=5_000_000) as port:
        threads = in_threads(lambda _: found.append(ask(port, body=PHOTO).status), 3)
        until(lambda: health(port)["requests"] == 3)
        for body in (PHOTO, bytes(4_000_000)):  # one that is refused while it is still sent
            refused = ask(port, body=body)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            assert json.loads(refused.body) == {"error": "all places are taken"}
        assert ask(port, "/").status == 200
        assert found == []
        blocked.go_on.set()
        for thread in threads:
            thread.join()
        assert found == [200] * 3
        assert health(port)["requests"] == 0
        assert ask(port, body=PHOTO).status == 200


def test_a_time_out_is_told_and_its_place_stays_taken_until_the_thread_is_free(session):
    blocked = Blocked(session)
    with running(blocked, queue=1, timeout=1) as port:
        found = []
        threads = in_threads(lambda _: found.append(ask(port, body=PHOTO)), 2)
        for thread in threads:
            thread.join()
        assert [answer.status for answer in found] == [504, 504]
        assert json.loads(found[0].body) == {"error": "no answer within 1 seconds"}
        assert health(port)["requests"] == 1  # the one that runs; the other has left the queue
        blocked.go_on.set()
        until(lambda: health(port)["requests"] == 0)
        assert ask(port, body=PHOTO).status == 200
    assert blocked.begun._value == 2


def upload(port, sent):
    """Begin to send a photograph."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
    connection.sendall(head.encode() + PHOTO[:sent])
    return connection


def test_slow_uploads_are_ended_and_broken_ones_forgotten(session):
    with running(session, timeout=1, queue=0) as port:
        connection = upload(port, 50)
        assert b" 504 " in connection.recv(100)
        connection.close()
        until(lambda: health(port)["requests"] == 0)
        connection = upload(port, 50)
        until(lambda: health(port)["requests"] == 1)
        connection.close()
        until(lambda: health(port)["requests"] == 0)
        assert ask(port, body=PHOTO).status == 200


def test_a_fault_of_ours_is_logged_and_not_told(session, caplog):
    def fails(image):
        raise RuntimeError("/home/secret is broken")

    fails.classes = session.classes
    with running(fails) as port:
        answer = ask(port, body=PHOTO)
        assert answer.status == 500
        assert json.loads(answer.body) == {"error": "the server failed: its log says why"}
        assert health(port)["requests"] == 0


def test_health_names_the_model_its_classes_and_limits(port, session):
    found = health(port)
    assert found["status"] == "ready"
    assert found["model"] == "tiny.onnx"
    assert found["classes"] == session.classes.categories()
    assert (found["queue"], found["max_bytes"], found["max_pixels"]) == (8, 100_000, 5000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx"], "nowhere.onnx: there is no such file"),
        (["{semantic}"], "is of task=semantic, which finds no segments"),
        (["{tiny}", "--workers=0"], "all other numbers at least 1"),
        (["{tiny}", "--threads=-1"], "threads=-1: give a whole number from 1"),
        (["{tiny}", "--timeout=0"], "all other numbers at least 1"),
        (["{tiny}", "--max-bytes=0"], "all other numbers at least 1"),
        (["{tiny}", "--queue=-1"], "--queue is at least 0"),
        (["{tiny}", "--port=65536"], "--port 0..65535"),
    ],
)
def test_bad_arguments_are_one_clear_message(tmp_path, monkeypatch, arguments, message):
    files = {"tiny": write_exported(tmp_path / "tiny.onnx")}
    files["semantic"] = write_exported(tmp_path / "semantic.onnx", task="semantic")
    monkeypatch.setattr("sys.argv", ["serve.py", *(each.format(**files) for each in arguments)])
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        serve.main()
