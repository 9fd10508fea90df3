# One image for every `driftline` process and for MLflow. Nothing is compiled and no system package is added: all wheels
# carry what they need. The second stage holds the finished environment only, without pip's and uv's caches.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
COPY requirements-uv.lock requirements.lock ./
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-uv.lock \
 && /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --require-hashes -r requirements.lock
COPY pyproject.toml ./
COPY pipeline pipeline
COPY monitoring monitoring
COPY producers producers
COPY stream_processors stream_processors
COPY batch batch
COPY serving serving
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps --no-build-isolation .

FROM ${BASE}
RUN groupadd --gid 10001 driftline \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin driftline \
 && install -d -o 10001 -g 10001 /data /data/mlflow
COPY --from=build /opt/venv /opt/venv
# Everything that a library writes beside its work goes to the scratch folder: the root file system is read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    BENTOML_DO_NOT_TRACK=True \
    MLFLOW_DISABLE_TELEMETRY=true
USER 10001:10001
WORKDIR /data
VOLUME /data
CMD ["driftline", "--help"]
