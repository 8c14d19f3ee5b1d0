"""Serve an exported model: a page for people at /, an address for programs, and GET /health.

python scripts/serve.py model.onnx
curl --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?format=json'  # or png, or overlay
"""

import argparse
import asyncio
import base64
import hashlib
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_dl.core.errors import DemoError, UnreadableImageError, one_line_errors
from panoptic_dl.core.files import local_path
from panoptic_dl.core.images import upright_rgb
from panoptic_dl.runtime import Session
from panoptic_dl.visualize.style import instance_color

with one_line_errors():  # of the extra: pip install 'panoptic-dl[serve]'
    import anyio
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
PARTS = re.findall("<(?:style|script)>(.*?)</(?:style|script)>", PAGE, re.DOTALL)
HASHES = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in PARTS]
POLICY = "default-src 'sha256-{}' 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; "
POLICY += "form-action 'none'; frame-ancestors 'none'"  # the page runs what is in it, and no more
HEADERS = {"content-security-policy": POLICY.format(*HASHES), "x-content-type-options": "nosniff"}
FORMATS = {"json": "application/json", "png": "image/png", "overlay": "image/png"}
FROM_1 = ("workers", "timeout", "max_bytes", "max_pixels")
DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow's others are not tried
NUMBERS = {
    "port": (8000, "0: any that is free"),
    "workers": (1, "images that are predicted at once"),
    "threads": (None, "of onnxruntime for an image; None: one per core"),
    "queue": (8, "requests that wait; more are refused"),
    "timeout": (60, "seconds of a request, with its upload"),
    "max-bytes": (20_000_000, "of a file"),
    "max-pixels": (2048**2, "of an image: memory grows with it, times the number of classes"),
}


def create_app(session: Session, model: str, limits: argparse.Namespace) -> Starlette:
    """The application: it predicts in threads of its own, and answers all else meanwhile."""
    pool, places = ThreadPoolExecutor(limits.workers), set[Request]()

    async def health(_: Request) -> Response:
        facts = {"status": "ready", "model": model, "requests": len(places)}
        facts |= {key: getattr(limits, key) for key in ("queue", "max_bytes", "max_pixels")}
        return JSONResponse(facts | {"classes": session.classes.categories()})

    async def predict(request: Request) -> Response:
        form, name = (request.query_params.get(key) for key in ("format", "name"))
        size, stream = int(request.headers.get("content-length", 0)), request.stream()
        form, body, job = form or "json", bytearray(), None
        try:
            with anyio.fail_after(limits.timeout):
                if form not in FORMATS:
                    raise HTTPException(400, f"format is one of {', '.join(FORMATS)}")
                if len(places) >= limits.workers + limits.queue:
                    raise HTTPException(503, "all places are taken", {"retry-after": "2"})
                places.add(request)
                async for chunk in stream:
                    body += chunk
                    if max(size, len(body)) > limits.max_bytes:
                        raise HTTPException(413, f"the file has over {limits.max_bytes:,} bytes")
                job = pool.submit(answer, session, body, limits.max_pixels, form, name or "image")
                job.add_done_callback(lambda _: places.discard(request))  # be it after a time-out
                return Response(await asyncio.wrap_future(job), media_type=FORMATS[form])
        except TimeoutError:
            raise HTTPException(504, f"no answer within {limits.timeout} seconds") from None
        finally:
            if job is None:
                places.discard(request)
                with anyio.move_on_after(5):  # closed while it sends, a client loses the answer
                    async for _ in stream:
                        pass

    async def error(_: Request, error: Exception) -> Response:  # others than these are logged, too
        text = getattr(error, "detail", "the server failed: its log says why")
        status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
        return JSONResponse({"error": text}, status, headers)

    routes = [Route("/", lambda _: HTMLResponse(PAGE)), Route("/health", health)]
    routes += [Route("/predict", predict, methods=["POST"])]
    handlers = dict.fromkeys((HTTPException, ClientDisconnect, Exception), error)
    return Starlette(routes=routes, exception_handlers=handlers)


def answer(session: Session, body: bytearray, max_pixels: int, form: str, name: str) -> bytes:
    """Predict the image that a file's bytes are; HTTPException says why they are none."""
    try:
        image = Image.open(io.BytesIO(body), formats=DECODERS)
        if image.width * image.height > max_pixels:  # in the header: a bomb is not unpacked
            raise Image.DecompressionBombError
        pixels = np.array(upright_rgb(image, "the image"))
    except Image.DecompressionBombError:
        raise HTTPException(413, f"the image has over {max_pixels:,} pixels") from None
    except UnreadableImageError as error:  # it has more than 8 bits a channel
        raise HTTPException(400, str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly all kinds on damaged files
        status = 415 if isinstance(error, Image.UnidentifiedImageError) else 400
        raise HTTPException(status, f"no whole image; read are {', '.join(DECODERS)}") from None
    result, file = session(pixels), io.BytesIO()
    annotation, ids = result.to_coco(name)
    Image.fromarray(result.draw() if form == "overlay" else ids).save(file, "PNG", compress_level=1)
    if form != "json":
        return file.getvalue()
    for row, segment in zip(annotation["segments_info"], result.segments, strict=True):
        color, instance = result.classes.colors[segment.category], segment.id % result.label_divisor
        shade = instance_color(np.array(color, np.uint8), instance).tolist() if instance else color
        row |= {"name": segment.name, "color": shade}
    numbers = ids.reshape(-1, 3) @ np.array([1, 256, 256**2])
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    runs = np.stack([numbers[starts], np.diff(starts, append=len(numbers))], axis=1)
    size = {"height": ids.shape[0], "width": ids.shape[1]}
    content = {"images": [{"id": name, "file_name": name, **size}], "annotations": [annotation]}
    content |= {"categories": result.classes.categories(), "runs": runs.ravel().tolist()}
    return json.dumps(content | {"png": base64.b64encode(file.getvalue()).decode()}).encode()


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=local_path, help="a file of mode=export")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines may ask")
    for name, (default, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} [{default}]")
    given = parser.parse_args()
    if min(given.queue + 1, given.port + 1, 65536 - given.port, *map(vars(given).get, FROM_1)) < 1:
        raise DemoError("--queue is at least 0, --port 0..65535, all other numbers at least 1")
    if not (session := Session(given.model, threads=given.threads)).is_panoptic:
        raise DemoError(f"{given.model} is of task=semantic, which finds no segments to be served")
    app = create_app(session, given.model.name, given)
    options = {"host": given.host, "port": given.port, "access_log": False, "server_header": False}
    uvicorn.run(app, headers=[*HEADERS.items()], **options)


if __name__ == "__main__":
    main()
