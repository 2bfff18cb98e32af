# Training on GPUs: torch for CUDA, and DeepSpeed with its operations compiled here, so that no pod compiles when it
# starts. `make images` builds it.
#
# CPU=1 makes the same image without CUDA, for tests and small machines: torch for the CPU, and DeepSpeed's
# operations for it. CUDA is then any image at all, BASE will do.
#
# BASE is any Debian or Ubuntu with Python 3.11 to 3.13, its venv module and headers; docker/images.lock names the
# one that is meant. Packages come from pip's index, or from docker/wheels alone with PIP_NO_INDEX=1.
ARG BASE
ARG CUDA

# The compiler and headers of CUDA; nothing of it is in the image, whose libraries come with torch. Its folder is the
# one with the full version: NVIDIA's images have links beside it (cuda, cuda-13) that lead nowhere from here.
# hadolint ignore=DL3049
FROM ${CUDA} AS cuda

# The instructions up to the packages are those of cpu.Dockerfile, so that a build for the CPU has their layers.
FROM ${BASE} AS build
ARG TORCH_INDEX=""
ARG PIP_NO_INDEX=""
ENV PIP_NO_INDEX=${PIP_NO_INDEX} PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
COPY constraints.txt ./
COPY docker/requirements/ ./requirements/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    pip install --require-hashes --no-deps -r requirements/build.txt \
    && pip install -c constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
    && pip install --require-hashes --no-deps --no-build-isolation -r requirements/tasks.txt
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG CPU=0
# Generations of GPUs that DeepSpeed's operations are compiled for: A100, A10, L4 and L40, H100 and newer.
ARG CUDA_ARCHS="8.0;8.6;8.9;9.0+PTX"
# CPUs: -march=native, so build on the oldest kind of machine that the image will run on.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=bind,from=cuda,target=/cuda \
    if [ "${CPU}" = 1 ]; then \
        export DS_ACCELERATOR=cpu DS_BUILD_CPU_ADAM=1 DS_BUILD_SHM_COMM=1; \
    else \
        set -- /cuda/usr/local/cuda-[1-9]*.*; \
        if [ "$#" != 1 ] || [ ! -x "$1/bin/nvcc" ]; then \
            echo "the image CUDA needs one folder /usr/local/cuda-MAJOR.MINOR with bin/nvcc; found: $*" >&2; exit 1; \
        fi; \
        export CUDA_HOME="$1" TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" \
            DS_ACCELERATOR=cuda DS_BUILD_CPU_ADAM=1 DS_BUILD_FUSED_ADAM=1 DS_BUILD_UTILS=1; \
    fi \
    && DS_BUILD_OPS=0 pip install --require-hashes --no-deps --no-build-isolation -v -r requirements/deepspeed.txt
COPY pyproject.toml README.md LICENSE ./
COPY tasks/ ./tasks/
COPY docker/check_operations.py ./
RUN pip install --no-deps --no-build-isolation . && pip check && python check_operations.py "${CPU}"

FROM ${BASE} AS image
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="perennial-trainer" \
      org.opencontainers.image.description="The training steps of Perennial, with DeepSpeed's operations compiled" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# g++ is for the option `compile`: torch.compile needs a compiler where it runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
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
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
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
