# docker build -t autocompressor .
#   torch as PyPI has it, which on Linux brings CUDA: run it with `--gpus all`, or on a CPU without.
# docker build --build-arg TORCH=cpu --build-arg TORCH_INDEX=INDEX -t autocompressor:cpu .
#   a CPU build of torch, a few gigabytes smaller, from the index that pytorch.org names for it.
FROM python:3.11-slim AS build
ARG TORCH=cuda
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The dependencies make a layer of their own, which a change of code leaves as it is. Each file that comes is one whose
# hash is written down, but for torch's CPU build, whose hashes are in another index
COPY requirements-server.txt ./
RUN case $TORCH in \
      cuda) cp requirements-server.txt hashed.txt ;; \
      cpu) awk '/^[^ ]/ { left_out = /^(torch|triton|nvidia-|cuda-)/ } !left_out' requirements-server.txt > hashed.txt \
        && pip install --quiet --no-deps ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
          "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-server.txt)" ;; \
      *) echo "TORCH is cuda or cpu, not $TORCH" >&2; exit 2 ;; \
    esac \
    && pip install --quiet --no-deps --require-hashes -r hashed.txt
COPY pyproject.toml README.md LICENSE ./
COPY autocompressor autocompressor
COPY model model
COPY server server
COPY training training
RUN pip install --quiet --no-deps --no-build-isolation .
# The default model's base, which its adapter in the package stands on
RUN autocompressor fetch-base --data /opt/autocompressor

FROM python:3.11-slim
LABEL org.opencontainers.image.title="autocompressor" \
      org.opencontainers.image.description="Turns long documents into short summary vectors; generates and scores from them" \
      org.opencontainers.image.licenses="Apache-2.0"
# By number, so that Kubernetes can tell that it is not root
RUN groupadd --gid 10001 autocompressor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin autocompressor \
    && install --directory --owner=autocompressor --group=autocompressor /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/autocompressor /opt/autocompressor
# Nothing is written but in /data and /tmp, so that the root may be read-only
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    AUTOCOMPRESSOR_DATA=/opt/autocompressor \
    AUTOCOMPRESSOR_HOST=0.0.0.0 \
    AUTOCOMPRESSOR_STORE=sqlite:/data/summaries.sqlite3
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Of the process alone: whether the store answers (/readyz) is no reason to restart the server
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('AUTOCOMPRESSOR_PORT', 8000)}/livez\", timeout=4)"]
ENTRYPOINT ["autocompressor"]
CMD ["serve"]
