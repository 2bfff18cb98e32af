# Airflow, MLflow's server, and the light half of Perennial: it plans, registers and promotes, and never computes
# (no torch). `make images` builds it.
#
# BASE is any Debian or Ubuntu with Python 3.11 to 3.13 and its venv module; docker/images.lock names the one that is
# meant. Packages come from pip's index, or from docker/wheels alone with PIP_NO_INDEX=1.
ARG BASE

FROM ${BASE} AS build
ARG PIP_NO_INDEX=""
ENV PIP_NO_INDEX=${PIP_NO_INDEX} PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
COPY docker/requirements/ ./requirements/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    pip install --require-hashes --no-deps -r requirements/build.txt -r requirements/orchestrator.txt
COPY pyproject.toml README.md LICENSE ./
COPY tasks/ ./tasks/
RUN pip install --no-deps --no-build-isolation . && pip check

FROM ${BASE} AS image
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="perennial-orchestrator" \
      org.opencontainers.image.description="Airflow and the light half of Perennial" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# 1777, because a tmpfs may get its mode from the folder that it covers, and root as its owner.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 perennial \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /home/perennial --shell /usr/sbin/nologin perennial \
    && mkdir -p /home/perennial /run/secrets/perennial \
    && ln -s /run/secrets/perennial/mlflow /home/perennial/.mlflow \
    && install -d -o 10001 -g 10001 -m 1777 /scratch /logs
COPY --from=build /opt/venv /opt/venv
# A plan records the versions of the libraries that its steps compute with. They are not installed here: they are
# those of the constraints that all three images are built from.
COPY constraints.txt /opt/perennial/
COPY dags/ /opt/perennial/dags/
COPY recipes/ /opt/perennial/recipes/
COPY k8s/pod_templates/ /opt/perennial/k8s/pod_templates/
COPY k8s/trainjob/ /opt/perennial/k8s/trainjob/
# The root is read-only when it runs: what is written goes to /tmp and /scratch.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/home/perennial \
    AIRFLOW_HOME=/scratch/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/perennial/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/perennial/dags/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=/logs \
    PERENNIAL_HOME=/scratch \
    PERENNIAL_RECIPES=/opt/perennial/recipes \
    PERENNIAL_CONSTRAINTS=/opt/perennial/constraints.txt \
    XDG_CACHE_HOME=/scratch/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /opt/perennial
USER 10001:10001
STOPSIGNAL SIGTERM
# tini hands signals on and buries orphans. The command says which of Airflow's or MLflow's processes it is.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["perennial", "--help"]
