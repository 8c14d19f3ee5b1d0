"""scripts/serve.py as a user starts it: load, signals, and the page as a browser shows it."""

import base64
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.demo.samples import scene
from tests.runtime.samples import write_exported

from .browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[2]
CLIENTS, REQUESTS = 50, 6
GROWTH = 40_000  # kB of resident memory that may come with hundreds of requests


class Served:
    """The script in a process of its own, with a file whose labels are thirds of red."""

    def __init__(self, model, *options):
        command = [sys.executable, "scripts/serve.py", model, "--port=0", *options]
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self.log = []
        while not (found := re.search(r"running on (http://127\.0\.0\.1:(\d+))", self._line())):
            pass
        self.address, self.port = found[1], int(found[2])
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def _line(self):
        self.log.append(self.process.stderr.readline())
        assert self.log[-1], self.log
        return self.log[-1]

    def ask(self, path, body=None):
        """The status, and the body."""
        try:
            with urllib.request.urlopen(f"{self.address}{path}", body, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def memory(self):
        """In kB."""
        done = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True
        )
        return int(done.stdout)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "street.onnx"
    return write_exported(file, resize={"short": 256, "longest": 512})


@pytest.fixture(scope="module")
def served(model):
    served = Served(model, "--queue=20", "--max-pixels=1000000", "--max-bytes=1000000")
    yield served
    served.end()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_server_does_not_wait_for_torch():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import serve; "
        "sys.exit(bool({'torch', 'cv2', 'scipy', 'hydra', 'detectron2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.thorough
def test_fifty_clients_with_good_and_bad_images(served):
    """Nothing dies, each gets its answer, health is told meanwhile, and memory stays flat."""
    good = [png(scene(*size)) for size in ((40, 64), (240, 320), (500, 600))]
    bad = [b"", b"no image", good[1][:1000], bytes(1_100_000), png(np.zeros((1001, 1000), "u1"))]
    pauses, counts = [], Counter()

    def client(seed):
        choose = random.Random(seed)
        for _ in range(REQUESTS):
            body = choose.choice(good if choose.random() < 0.7 else bad)
            form = choose.choice(["json", "png", "overlay"])
            status, content = served.ask(f"/predict?format={form}", body)
            counts[status] += 1
            assert status in ((200, 503) if body in good else (400, 413, 415, 503)), content

    def all_clients():
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            started = time.monotonic()
            assert served.ask("/health")[0] == 200
            pauses.append(time.monotonic() - started)
            time.sleep(0.05)

    all_clients()  # buffers of all threads are made
    before = served.memory()
    all_clients()
    assert sum(counts.values()) == 2 * REQUESTS * CLIENTS  # no client has ended early
    assert {200, 400, 413, 415} <= set(counts)
    assert max(pauses) < 10
    print(f"counts {counts}, health within {max(pauses):.2f} s, {served.memory() - before} kB more")
    assert served.memory() - before < GROWTH
    assert json.loads(served.ask("/health")[1])["requests"] == 0
    assert served.process.poll() is None
    assert not re.search("Traceback", "".join(served.log))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_end_before_the_server(model, number):
    served, photo = Served(model), png(scene(40, 64))
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(photo)}\r\n\r\n"
    connection.sendall(head.encode() + photo[:100])
    while json.loads(served.ask("/health")[1])["requests"] == 0:
        time.sleep(0.02)
    served.process.send_signal(number)
    until = time.monotonic() + 30
    while time.monotonic() < until:  # nobody else is let in
        try:
            socket.create_connection(("127.0.0.1", served.port)).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.02)
    connection.sendall(photo[100:])
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["annotations"]
    assert served.process.wait(30) in (0, -number)
    assert not re.search("Traceback|[Ee]rror", "".join(served.log)), served.log


def test_a_port_that_is_taken_is_one_message(served, model):
    command = [sys.executable, "scripts/serve.py", model, f"--port={served.port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode > 0
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, served):
    browser.resize(1280, 800)
    browser.prefer("light")
    browser.open(f"{served.address}/")
    return browser


def look(page, pixels, kind="image/png"):
    """Give the page an image, as dropping it does; the words that it then says."""
    data = base64.b64encode(png(pixels)).decode()
    return page.run(
        "(() => { const bytes = Uint8Array.from(atob("
        + json.dumps(data)
        + "), c => c.charCodeAt());"
        f"const file = new File([bytes], 'my street.png', {{ type: '{kind}' }});"
        "const data = new DataTransfer(); data.items.add(file);"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }));"
        "return new Promise((done) => setInterval(() => document.body.className === '' &&"
        " done(document.getElementById('status').textContent), 20)); })()"
    )


def street():
    """Road below and sky above, two persons: of red 0, 100 and 200."""
    image = np.zeros((80, 120, 3), np.uint8)
    image[:40] = (100, 150, 200)
    image[20:70, 30:50] = (200, 40, 40)
    return image


COLOR = "[...canvas.getContext('2d').getImageData({}, {}, 1, 1).data].slice(0, 3)"
ROWS = (
    "[...document.querySelectorAll('li label')].map((row) => row.innerText.split('\\n').join(' '))"
)


def test_a_dropped_photograph_is_shown_with_its_segments(page, served):
    assert page.run("document.getElementById('panel').hidden")
    assert re.fullmatch(r"3 segments in \d+\.\d s", look(page, street()))
    assert page.run("document.getElementById('model').textContent") == "street.onnx, 3 classes"
    rows = page.run(ROWS)
    assert [row.split()[0] for row in rows] == ["road", "sky", "person"]
    assert re.search(r"0\.\d\d\s+(9|10)\.\d %", rows[2])
    content = json.loads(served.ask("/predict", png(street()))[1])
    # All pixels of the page are those of the PNG.
    found = page.run("[...places].map((place) => segments[place - 1].id)")
    ids = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["png"])))).astype(int)
    assert np.array_equal(found, (ids @ [1, 256, 256**2]).ravel())
    # Tinted by the color of the segment, in the middle of it.
    (person,) = [row for row in content["annotations"][0]["segments_info"] if row["isthing"]]
    expected = 0.45 * np.array([200, 40, 40]) + 0.55 * np.array(person["color"])
    assert np.allclose(page.run(COLOR.format(40, 45)), expected, atol=2)
    assert page.run("answer.images[0].file_name") == "my street"
    assert page.complaints() == []
    assert {url.split("?")[0] for url in page.requests()} == {
        f"{served.address}/health",
        f"{served.address}/predict",
    }


def test_segments_are_toggled_highlighted_and_faded(page):
    look(page, street())
    person, tinted = COLOR.format(40, 45), page.run(COLOR.format(40, 45))
    page.run("document.querySelectorAll('li input')[2].click()")
    assert page.run(person) == [200, 40, 40]  # the photograph
    assert page.run(COLOR.format(10, 10)) != [100, 150, 200]  # sky stays
    page.run("document.getElementById('all').click()")
    assert page.run(COLOR.format(10, 10)) == [100, 150, 200]
    assert page.run("document.getElementById('all').textContent") == "Show all"
    page.run("document.getElementById('all').click()")
    assert page.run(person) == tinted
    page.run("opacity.value = 0; opacity.oninput()")
    assert page.run(person) == [200, 40, 40]
    page.run("opacity.value = 55; opacity.oninput()")
    place = page.run(
        "(() => { const box = canvas.getBoundingClientRect();"
        "return [box.left + (40.5 / 120) * box.width, box.top + (45.5 / 80) * box.height]; })()"
    )
    page("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    caption = "document.getElementById('caption').textContent"
    assert re.fullmatch(r"person · 0\.\d\d · (9|10)\.\d %", page.run(caption))
    assert page.run("document.querySelector('.lit').innerText").startswith("person")
    assert page.run(person) != tinted
    page("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert page.run(caption) == ""
    assert page.run(person) == tinted


def test_the_page_is_usable_by_keys_alone(page):
    look(page, street())
    assert page.run("document.activeElement.tagName") == "BODY"
    names = []
    for _ in range(9):
        page.press("Tab")
        names.append(page.run("document.activeElement.id || document.activeElement.tagName"))
        if len(names) == 3:  # the first class is highlighted, and hidden
            assert page.run("document.getElementById('caption').textContent").startswith("road")
            page.press(" ")
            assert page.run("[...hidden].map((one) => one.name)") == ["road"]
    assert names == ["file", "opacity", "INPUT", "INPUT", "INPUT", "all", "json", "ids", "picture"]


def test_downloads_are_the_answer(page, served):
    look(page, street())
    page.run("saved = []; save = async (blob, ending) => saved.push([ending, await blob.text()])")
    for name in ("json", "ids", "picture"):
        page.run(f"document.getElementById('{name}').click()")
        page.run("new Promise((done) => setTimeout(done, 200))")
    (ending, text), (other, _), (last, _) = page.run("saved")
    assert (ending, other, last) == (".json", ".png", "-segments.png")
    content = json.loads(text)
    assert set(content) == {"images", "annotations", "categories"}
    assert content["annotations"][0]["file_name"] == "my street.png"


def test_what_the_page_cannot_show_or_the_server_refuses_is_said(page):
    text = "look(new File(['hello'], 'a.txt')).then(() => status_.textContent)"
    page.run("status_ = document.getElementById('status')")
    assert page.run(text) == "This browser cannot show that file"
    page.run(
        'fetch = async () => new Response(\'{"error": "all places are taken"}\', {status: 503})'
    )
    assert look(page, street()) == "The server says: all places are taken"


def test_a_large_photograph_is_made_smaller(page):
    large = np.zeros((1200, 1600, 3), np.uint8)
    large[:600] = (100, 150, 200)
    assert look(page, large).endswith(" 866 pixels")
    assert page.run("[canvas.width, canvas.height]") == [1154, 866]


def test_nothing_overflows_on_a_phone_and_in_the_dark(page, tmp_path):
    look(page, street())
    page.resize(360, 740, mobile=True)
    page.prefer("dark")
    assert page.run("document.documentElement.scrollWidth - window.innerWidth") <= 0
    picture = Image.open(page.picture(tmp_path / "dark.png"))
    assert max(picture.convert("RGB").getpixel((2, 2))) < 60
    page("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": 150, "y": 200}])
    assert page.run("document.getElementById('caption').textContent")
    page("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
