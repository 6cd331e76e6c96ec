# Kaiwa's server on a processor. For NVIDIA GPUs: Dockerfile.cuda.
#
#   docker build -t kaiwa .
#
# A wheel in dist/ (`maturin build --release --out dist`) is used as it is; without one the wheel is
# built from source. Wheels of dependencies in dist/ are preferred to downloads; with
# `--build-arg PIP_OPTIONS=--no-index` nothing is downloaded.
#
# Pin the base by digest for builds that must be the same tomorrow:
#   --build-arg BASE=debian:bookworm-slim@sha256:...
ARG BASE=debian:bookworm-slim

# ---- the wheel, and the environment it is installed in -------------------------------------------
FROM ${BASE} AS build
ARG RUST=1.89.0
ARG PIP_OPTIONS=
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
# What is built, for /metrics; the labels below say it of the image.
ARG REVISION=
RUN KAIWA_BUILD_REVISION="${REVISION}" deploy/image/wheel && deploy/image/install /opt/kaiwa

# ---- what runs -----------------------------------------------------------------------------------
FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && useradd --uid 10001 --user-group --home-dir /models --shell /usr/sbin/nologin kaiwa \
    && install -d -o kaiwa -g kaiwa -m 0755 /models
COPY --from=build /opt/kaiwa /opt/kaiwa
COPY deploy/image/health /usr/local/bin/kaiwa-health

# The server listens on every address of its container, and so refuses to start without keys unless
# it is told KAIWA_NO_AUTH=1 and KAIWA_INSECURE=1. Downloads of models are kept in /models.
ENV PATH=/opt/kaiwa/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models \
    KAIWA_HOST=0.0.0.0 \
    KAIWA_PORT=8998 \
    KAIWA_LOG_FORMAT=json
USER 10001:10001
WORKDIR /models
VOLUME /models
EXPOSE 8998

# Up when the model is loaded and steps; never a question of load or drain, since an orchestrator
# replaces what is unhealthy. A model may take hours to arrive; a server to which nothing comes any more
# stops by itself (KAIWA_START_SECONDS).
HEALTHCHECK --interval=5s --timeout=3s --retries=3 --start-period=24h CMD ["kaiwa-health"]
# The first signal drains: calls go on until they end. tini hands it on, and reaps.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "kaiwa"]
CMD ["serve"]

ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="kaiwa" \
      org.opencontainers.image.description="Server for full-duplex speech models" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
