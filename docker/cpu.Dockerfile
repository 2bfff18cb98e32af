# The steps that need no GPU: validation, preparation, merging, evaluation. `make images` builds it.
#
# BASE is any Debian or Ubuntu with Python 3.11 to 3.13, its venv module and headers; docker/images.lock names the
# one that is meant. Packages come from pip's index, or from docker/wheels alone with PIP_NO_INDEX=1.
ARG BASE

FROM ${BASE} AS build
# The index of torch's builds for the CPU; without it the index of everything else, whose build brings CUDA along.
ARG TORCH_INDEX=""
ARG PIP_NO_INDEX=""
ENV PIP_NO_INDEX=${PIP_NO_INDEX} PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
COPY constraints.txt ./
COPY docker/requirements/ ./requirements/
# torch by itself: its build for the CPU is not the file whose hash the index of everything else has.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    pip install --require-hashes --no-deps -r requirements/build.txt \
    && pip install -c constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
    && pip install --require-hashes --no-deps --no-build-isolation -r requirements/tasks.txt
# DeepSpeed without operations: nothing trains in this image.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    DS_BUILD_OPS=0 pip install --require-hashes --no-deps --no-build-isolation -r requirements/deepspeed.txt
COPY pyproject.toml README.md LICENSE ./
COPY tasks/ ./tasks/
RUN pip install --no-deps --no-build-isolation . && pip check

FROM ${BASE} AS image
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="perennial-cpu" \
      org.opencontainers.image.description="The steps of Perennial that need no GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 perennial \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /home/perennial --shell /usr/sbin/nologin perennial \
    && mkdir -p /home/perennial /run/secrets/perennial \
    && ln -s /run/secrets/perennial/mlflow /home/perennial/.mlflow \
    && install -d -o 10001 -g 10001 /scratch
COPY --from=build /opt/venv /opt/venv
# The root is read-only when it runs: what is written goes to /tmp and /scratch.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/home/perennial \
    PERENNIAL_HOME=/scratch \
    XDG_CACHE_HOME=/scratch/cache \
    HF_HOME=/scratch/cache/huggingface \
    TORCH_EXTENSIONS_DIR=/scratch/cache/torch_extensions \
    TORCHINDUCTOR_CACHE_DIR=/scratch/cache/inductor \
    TRITON_CACHE_DIR=/scratch/cache/triton \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    GX_ANALYTICS_ENABLED=false \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /scratch
USER 10001:10001
STOPSIGNAL SIGTERM
# tini hands signals on, so that SIGTERM leads to a checkpoint, and buries orphans.
ENTRYPOINT ["/usr/bin/tini", "--", "perennial"]
CMD ["--help"]
