# The server of exported models (scripts/serve.py), or with INSTALL=framework the whole project.
#   docker build -t panoptic-dl-server .
#   docker build -t panoptic-dl --build-arg INSTALL=framework \
#     --build-arg BASE=nvidia/cuda:13.0.0-base-ubuntu24.04 .
# Packages are those of requirements.lock, each checked against its hash.
ARG BASE=python:3.12-slim
ARG INSTALL=server

FROM ${BASE} AS base
# Of Ubuntu, which images of CUDA are made of: its own Python, in the version of the distribution.
# hadolint ignore=DL3008
RUN if ! command -v python3 > /dev/null; then \
      apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --create-home --uid 10001 user
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 ORT_DISABLE_TELEMETRY=1
WORKDIR /app

FROM base AS server
COPY requirements.lock ./
# The runtime and serve extras with what they need; pip refuses a list that lacks one of these.
RUN python3 -m venv /opt/venv \
    && awk '/^[a-z]/ { wanted = /^(anyio|click|flatbuffers|h11|idna|numpy|onnxruntime|packaging|pillow|protobuf|starlette|typing-extensions|uvicorn)==/ } wanted' \
      requirements.lock > server.lock \
    && pip install --require-hashes --requirement server.lock
COPY panoptic_dl/ panoptic_dl/
COPY scripts/serve.py scripts/serve.html scripts/
ENV PYTHONPATH=/app
RUN python -m compileall -q panoptic_dl scripts
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=9)"]
ENTRYPOINT ["python", "scripts/serve.py", "--host=0.0.0.0"]
CMD ["/model.onnx"]

FROM base AS framework
COPY . ./
RUN python3 scripts/setup.py /opt/venv
USER 10001
WORKDIR /home/user
# Its health is that of the run, which ends with an exit code.
HEALTHCHECK NONE
ENTRYPOINT ["python", "/app/run.py"]
CMD ["--help"]

# hadolint ignore=DL3006
FROM ${INSTALL}
