# Perennial. `make demo` shows the whole of it; `make test` proves it. Everything local lives in .venv and .perennial.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Every step is a process that imports torch: without compiled files it starts four times as slowly.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check up down install constraints catalogue screenshots format clean soak
.PHONY: images compose-up compose-down test-images image-requirements

include docker/images.lock
ENGINE ?= docker
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD)
# The commit's date, so that the same commit gives the same label.
CREATED = $(shell TZ=UTC git show --no-patch --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ HEAD)
COMPOSE := $(ENGINE) compose --env-file docker/images.lock --file docker/compose.yaml

demo: $(INSTALLED)  ## Run the main job end to end and promote its model
	$(BIN)/perennial demo

test: $(INSTALLED)  ## The whole suite, fast tests first
	$(BIN)/python -m pytest tests -m "not slow and not browser" -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/containers $(shell grep -rlE 'mark\.(slow|browser)' tests --include 'test_*.py') \
	-m "slow or browser" -n 2 --dist loadfile --no-loadscope-reorder -p tests.longest_first --durations 15

soak: $(INSTALLED)  ## Kill trainings at random for hours: KILLS of each kind, other moments with another SEED
	PERENNIAL_KILLS=$(or $(KILLS),20) PERENNIAL_KILL_SEED=$(or $(SEED),$(shell date +%s)) \
	$(BIN)/python -m pytest tests/faults/test_random_kills.py -v

check: $(INSTALLED)  ## Lint, types and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit -q -m "not slow and not browser" -n 2 --dist loadfile

up: $(INSTALLED)  ## Start MLflow and Airflow and leave them up
	$(BIN)/perennial up

down:  ## Stop what `make up` started
	$(BIN)/perennial down

install: $(INSTALLED)  ## Install Perennial into .venv from the pinned constraints

# torch comes first and through pip, so that the build a machine is set up for (CPU or CUDA) is the one taken.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch uv
	DS_BUILD_OPS=0 $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[orchestrator,tasks,dev]"
	touch $(INSTALLED)

constraints:  ## Pin every package anew from pyproject.toml
	(echo "# Every package Perennial installs, pinned for Python 3.11 to 3.13. Made by 'make constraints' from pyproject.toml."; \
	 $(BIN)/uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --no-header) > constraints.new
	mv constraints.new constraints.txt

catalogue: $(INSTALLED)  ## Write tasks/recipe/catalogue.json from the stages' tables of methods
	$(BIN)/perennial catalogue

screenshots: $(INSTALLED)  ## Take the README's screenshots from the real thing (needs Chromium)
	$(BIN)/python docs/screenshots.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images:  ## Build the three images with ENGINE (docker or podman) from docker/images.lock
	for name in orchestrator cpu trainer; do \
	$(ENGINE) build --file docker/$$name.Dockerfile --tag localhost/perennial/$$name:latest --build-arg BASE=$(BASE_PYTHON) \
	--build-arg CUDA=$(BASE_CUDA) --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(REVISION) --build-arg CREATED=$(CREATED) $(BUILD_FLAGS) . || exit 1; done

compose-up:  ## Start the whole product on this machine in containers
	PERENNIAL_SOCKET_GROUP=$(shell stat -c %g $(or $(PERENNIAL_SOCKET),/var/run/docker.sock)) $(COMPOSE) up --detach --wait
	$(COMPOSE) exec api-server cat /run/secrets/login/passwords.json

compose-down:  ## Stop it; its volumes stay
	$(COMPOSE) down

test-images: $(INSTALLED)  ## Build the images and run steps in them (needs root, podman, runc and debootstrap)
	PERENNIAL_TEST_IMAGES=1 $(BIN)/python -m pytest tests/containers -v --timeout 3600

image-requirements: $(INSTALLED)  ## Write docker/requirements/*.txt with hashes from pyproject.toml and constraints.txt
	$(BIN)/python docker/write_requirements.py

clean:  ## Remove the local state (the environment stays)
	rm -rf .perennial
