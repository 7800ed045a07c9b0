# syntax=docker/dockerfile:1
# Three images: `docker build --target consumer -t finsa:consumer .` (no torch, no ray), `--target cpu`, `--target gpu`.
# PyPI's torch for Linux carries CUDA; for a slim CPU image pass --build-arg EXTRA_INDEX=<the index of torch's CPU wheels>.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONPATH=/app PIP_NO_CACHE_DIR=1 VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /app
COPY requirements/uv.txt /tmp/uv.txt
RUN python -m venv /opt/venv && pip install --require-hashes -r /tmp/uv.txt

FROM base AS consumer
COPY requirements/consumer.txt /tmp/requirements.txt
RUN uv pip sync --require-hashes /tmp/requirements.txt
COPY sentiment sentiment
COPY streaming streaming
RUN useradd --create-home finsa
USER finsa
ENTRYPOINT ["python", "-m", "streaming"]
CMD ["run", "--help"]

FROM base AS cpu
ARG EXTRA_INDEX=""
COPY requirements/cluster.txt /tmp/requirements.txt
RUN if [ -n "$EXTRA_INDEX" ]; then export UV_EXTRA_INDEX_URL="$EXTRA_INDEX" UV_INDEX_STRATEGY=unsafe-best-match; fi; \
    uv pip sync --require-hashes /tmp/requirements.txt
# The Ray cluster launcher and KubeRay start `ray start` themselves; code travels by working_dir or lies here.
RUN apt-get update && apt-get install -y --no-install-recommends rsync wget procps && rm -rf /var/lib/apt/lists/*
COPY sentiment sentiment
COPY training training
COPY serve serve
COPY streaming streaming
COPY ray_jobs ray_jobs
CMD ["python", "-m", "ray_jobs"]

# The same packages: torch's CUDA libraries come with its wheel, the driver with the NVIDIA container runtime.
FROM cpu AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
