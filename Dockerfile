# docker build -t autocompressor .
# The image has torch's default build, which on Linux brings CUDA: run it with `--gpus all`. A smaller, CPU-only image
# takes torch's CPU build instead, from the index that pytorch.org names for it:
#   docker build --build-arg PIP_OPTIONS="--extra-index-url INDEX" -t autocompressor:cpu .
FROM python:3.11-slim AS build
ARG PIP_OPTIONS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The dependencies make a layer of their own, which a change of code leaves as it is
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*project['dependencies'], *project['optional-dependencies']['server'], sep='\n')" \
      > requirements.txt \
    && pip install --quiet $PIP_OPTIONS -c constraints.txt -r requirements.txt setuptools
COPY README.md LICENSE ./
COPY autocompressor autocompressor
COPY model model
COPY server server
COPY training training
RUN pip install --quiet --no-deps --no-build-isolation .
RUN autocompressor fetch-base --data /opt/autocompressor

FROM python:3.11-slim
LABEL org.opencontainers.image.title="autocompressor" \
      org.opencontainers.image.description="Turns long documents into short summary vectors; generates and scores from them" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin autocompressor \
    && install --directory --owner=autocompressor --group=autocompressor /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/autocompressor /opt/autocompressor
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface \
    AUTOCOMPRESSOR_DATA=/opt/autocompressor \
    AUTOCOMPRESSOR_HOST=0.0.0.0 \
    AUTOCOMPRESSOR_STORE=sqlite:/data/summaries.sqlite3
USER autocompressor
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('AUTOCOMPRESSOR_PORT', 8000)}/readyz\", timeout=4)"]
ENTRYPOINT ["autocompressor"]
CMD ["serve"]
