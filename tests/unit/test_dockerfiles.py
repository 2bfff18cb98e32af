"""Rules for the images and the compose file: pinned, not root, signals arrive, nothing secret inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
DIGEST = re.compile(r"[\w.-]+(/[\w.-]+)+:[\w.-]+@sha256:[0-9a-f]{64}")
LABELS = ("title", "description", "licenses", "version", "revision", "created")
ONE_SHOT = {"secrets", "bucket", "accounts", "migrate"}
"""Services that do one thing and end: no health check, and their needers wait for their end."""


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined and comments left out."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in found]


def locked() -> dict[str, str]:
    """What docker/images.lock says."""
    lines = (DOCKER / "images.lock").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def problems(found: list[tuple[str, str]]) -> list[str]:
    """What breaks a rule; the rules are hadolint's and ours."""
    told = []
    words = [word for word, _ in found]
    before = [name for word, name in found[: words.index("FROM")] if word == "ARG"]
    stages: set[str] = set()
    for word, rest in found:
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            name = re.fullmatch(r"\$\{(\w+)\}", image)
            if not stage:
                told.append(f"FROM {rest}: name the stage")
            if (name is None or name[1] not in before) and image not in stages:
                told.append(f"FROM {rest}: the image is no build argument, so images.lock cannot pin it")
            stages.add(stage)
        if word in ("ENTRYPOINT", "CMD") and not rest.startswith("["):
            told.append(f"{word}: in shell form no signal arrives")
        if word == "ADD":
            told.append("ADD: use COPY")
        if word in ("ENV", "ARG") and re.search(r"(KEY|SECRET|TOKEN|PASSWORD)\w*=", rest):
            told.append(f"{word} {rest}: looks like a secret")
        if word == "RUN":
            if "apt-get install" in rest and "--no-install-recommends" not in rest:
                told.append("apt-get install without --no-install-recommends")
            if "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
                told.append("apt-get leaves its lists in the image")
            if re.search(r"\b(sudo|curl|wget)\b", rest):
                told.append(f"RUN fetches by hand or as another user: {rest}")
            for install in re.findall(r"pip install [^&;]*", rest):
                pinned = "--require-hashes" in install or "-c constraints.txt" in install
                if not pinned and " ." not in install:
                    told.append(f"unpinned: {install}")
        if word in ("COPY", "RUN") and "--chmod=777" in rest:
            told.append(f"{word} {rest}: writable by all")
    last = found[len(words) - 1 - words[::-1].index("FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        told.append("the image's user is not numeric, or root")
    entry = [rest for word, rest in last if word == "ENTRYPOINT"]
    if not entry or "tini" not in entry[-1]:
        told.append("nothing hands signals on: ENTRYPOINT does not begin with tini")
    labels = " ".join(rest for word, rest in last if word == "LABEL")
    told += [f"no label {each}" for each in LABELS if f"org.opencontainers.image.{each}=" not in labels]
    if words.count("FROM") < 2:
        told.append("one stage: the compilers are in the image")
    return told


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dockerfile_keeps_the_rules(path: Path) -> None:
    assert problems(instructions(path)) == []


def test_hadolint_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "--config", str(ROOT / ".hadolint.yaml")]
    done = subprocess.run([*command, *map(str, FILES)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def compile_with(cuda: Path, cpu: str = "0") -> subprocess.CompletedProcess[str]:
    """The trainer's instruction that compiles, with `cuda` as the folder of CUDA's image and no pip."""
    (run,) = [rest for _, rest in instructions(DOCKER / "trainer.Dockerfile") if "CUDA_HOME" in rest]
    script = run[run.index("if [") :].replace("/cuda/", f"{cuda}/")
    pip = 'pip() { echo "${CUDA_HOME:-none} ${DS_ACCELERATOR}"; }; '
    return subprocess.run(
        ["sh", "-c", pip + script],
        env={"CPU": cpu, "CUDA_ARCHS": "9.0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_cuda_is_found_beside_the_links_of_its_image(tmp_path: Path) -> None:
    """NVIDIA's image: /usr/local/cuda and cuda-13 are links to /etc/alternatives, cuda-13.0 is the folder."""
    local = tmp_path / "usr" / "local"
    nvcc = local / "cuda-13.0" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    for link in ("cuda", "cuda-13"):
        (local / link).symlink_to(f"/etc/alternatives/{link}")
    done = compile_with(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{local / 'cuda-13.0'} cuda\n"), done.stderr


@pytest.mark.parametrize("folders", [(), ("cuda-13.0",), ("cuda-12.9/bin/nvcc", "cuda-13.0/bin/nvcc")])
def test_another_image_of_cuda_is_refused_with_words(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for each in folders:
        (tmp_path / "usr" / "local" / each).mkdir(parents=True)
    done = compile_with(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "one folder /usr/local/cuda-MAJOR.MINOR" in done.stderr
    assert all(each.split("/")[0] in done.stderr for each in folders)


def test_the_trainer_for_the_cpu_needs_no_cuda(tmp_path: Path) -> None:
    assert compile_with(tmp_path, cpu="1").stdout == "none cpu\n"


def test_the_images_say_which_commit_they_are_and_when_it_was_made() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so an image's commit and date were not looked at")
    command = ["make", "--dry-run", "--no-print-directory", "images"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    given = dict(re.findall(r"--build-arg (\w+)=(\S*)", made.stdout))
    git = ["git", "show", "--no-patch", "--format=%H %ct", "HEAD"]
    commit, seconds = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert given["REVISION"] == commit
    assert datetime.strptime(given["CREATED"], "%Y-%m-%dT%H:%M:%S%z").timestamp() == int(seconds)


def test_there_are_three_images() -> None:
    assert [path.stem for path in FILES] == ["cpu", "orchestrator", "trainer"]


GOOD = [
    ("ARG", "BASE"),
    ("FROM", "${BASE} AS build"),
    ("FROM", "${BASE} AS image"),
    ("LABEL", " ".join(f"org.opencontainers.image.{each}=x" for each in LABELS)),
    ("USER", "10001:10001"),
    ("ENTRYPOINT", '["tini", "--", "perennial"]'),
]


@pytest.mark.parametrize(
    ("place", "bad", "told"),
    [
        (1, ("FROM", "python:3.11 AS build"), "no build argument"),
        (1, ("FROM", "${BASE}"), "name the stage"),
        (4, ("USER", "perennial"), "not numeric"),
        (4, ("USER", "0:0"), "not numeric, or root"),
        (5, ("ENTRYPOINT", "perennial"), "no signal arrives"),
        (5, ("ENTRYPOINT", '["perennial"]'), "tini"),
        (4, ("ENV", "AWS_SECRET_ACCESS_KEY=x"), "secret"),
        (1, ("RUN", "apt-get install --yes g++"), "no-install-recommends"),
        (3, ("RUN", "pip install torch"), "unpinned"),
        (3, ("RUN", "curl -O somewhere"), "fetches by hand"),
        (3, ("LABEL", "maintainer=x"), "no label title"),
    ],
)
def test_a_broken_rule_is_seen(place: int, bad: tuple[str, str], told: str) -> None:
    assert problems(GOOD) == []
    broken = [*GOOD[:place], bad, *GOOD[place + 1 :]]
    if not any(word == "FROM" for word, _ in broken[: place + 1]):
        broken = [("ARG", "BASE"), *broken]
    assert any(told in each for each in problems(broken)), problems(broken)


def test_every_foreign_image_is_locked_by_digest() -> None:
    assert set(locked()) == {"BASE_PYTHON", "BASE_CUDA", "IMAGE_POSTGRES", "IMAGE_S3"}
    assert [value for value in locked().values() if not DIGEST.fullmatch(value)] == []


def test_digests_stand_in_one_file_only() -> None:
    files = [
        path
        for path in [*DOCKER.rglob("*"), ROOT / "Makefile"]
        if path.is_file() and "wheels" not in str(path)
    ]
    having = [path.name for path in files if re.search(r"@sha256:[0-9a-f]{64}", path.read_text())]
    assert having == ["images.lock"]


def pins(path: Path) -> dict[str, str]:
    """Name -> version of a file of requirements or constraints, for Python 3.11."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        read = re.match(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)(.*)", line)
        if read and "python_full_version >= '3.12'" not in read[3] and "3.13" not in read[3]:
            found[read[1].lower()] = read[2]
    return found


@pytest.mark.parametrize("path", sorted((DOCKER / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_requirements_are_those_of_the_constraints_and_hashed(path: Path) -> None:
    """`make image-requirements` writes them anew."""
    known, here = pins(ROOT / "constraints.txt"), pins(path)
    assert here
    assert {name: version for name, version in here.items() if known.get(name) != version} == {}
    entries = re.split(r"\n(?=[A-Za-z0-9])", "\n" + path.read_text())
    named = [each for each in entries if re.match(r"[A-Za-z0-9]", each)]
    assert [each.split()[0] for each in named if "--hash=sha256:" not in each] == []


def test_the_orchestrator_computes_nothing() -> None:
    heavy = {"torch", "transformers", "deepspeed", "great-expectations", "peft", "tokenizers"}
    assert heavy & set(pins(DOCKER / "requirements" / "orchestrator.txt")) == set()
    assert heavy - set(pins(DOCKER / "requirements" / "tasks.txt")) == {"torch", "deepspeed"}


NO_TORCH = """
import sys
for name in ("torch", "transformers", "deepspeed", "great_expectations", "peft", "tokenizers", "safetensors"):
    sys.modules[name] = None
import tasks.cli, tasks.runner.planner, tasks.runner.process, tasks.runner.outcome, tasks.runner.release
import tasks.sources, tasks.tracking.registry, tasks.release.register, tasks.release.promote
import tasks.release.card, tasks.release.summary, tasks.runner.garbage
"""


@pytest.mark.slow
def test_the_light_half_imports_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


SERVICES = sorted(compose()["services"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_restricted_pinned_and_watched(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "restart" in service
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "pid", "ipc"} & set(service)
    user = service["user"].split(":")[0]
    assert user != "0" or name == "secrets"
    image = re.match(r"\$\{(\w+)", service["image"])
    assert image, "an image is a variable: of images.lock, or one of ours"
    assert image[1] in locked() or image[1].startswith("PERENNIAL_IMAGE_")
    assert ("healthcheck" in service) is (name not in ONE_SHOT)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    services = compose()["services"]
    for needed, how in services[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how == {"condition": wanted}, needed
        assert needed in services


def test_no_secret_is_in_an_environment_or_a_command() -> None:
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", key):
                is_a_file = str(value).startswith("/run/secrets/") or key.endswith(("_CMD", "_FILE"))
                assert is_a_file or not value or key == "PERENNIAL_CONTAINER_SECRETS", (
                    f"{name}: {key}"
                )  # this is a volume
            assert not re.search(r"://[^/@\s]*:[^/@\s]+@", str(value)), f"{name}: {key} holds a password"


NOT_GIVEN = {
    "PERENNIAL_AIRFLOW_DATABASE": "of `perennial up`",
    "PERENNIAL_MLFLOW_DATABASE": "of `perennial up`",
    "PERENNIAL_USERS": "of `perennial up`",
    "PERENNIAL_ATTEMPT": "the runtime gives it to each container",
    "PERENNIAL_IMAGE": "the runtime gives it to each container",
    "PERENNIAL_TERMINATION_LOG": "of a pod",
    "PERENNIAL_COMMAND": "the image's own command is right",
    "PERENNIAL_CONSTRAINTS": "the image says it",
    "PERENNIAL_HOME": "the image says it",
    "PERENNIAL_CONTAINER_PASS": "docs/containers.md: change the file",
    "PERENNIAL_CONTAINER_SHM": "the default is right",
    "PERENNIAL_CONTAINER_STORE": "the store is no folder",
    "PERENNIAL_CONTAINER_TMP": "the default is right",
    "PERENNIAL_CONTAINER_USER": "the image's own is right",
    "PERENNIAL_CORPORA": "beside the recipes",
    "PERENNIAL_RECIPES": "the image has them; another folder is a mount, so a change of the file",
    "PERENNIAL_PRICES": "a file, so a change of the file",
    "PERENNIAL_EXPORTS": "of `perennial export`, on a machine with torch",
    "PERENNIAL_GGUF_CONVERTER": "of `perennial export`, on a machine with torch",
    "PERENNIAL_GGUF_PYTHON": "of `perennial export`, on a machine with torch",
    "PERENNIAL_LM_EVAL_PYTHON": "of steps, and their image has no other Python",
    "PERENNIAL_RETENTION_CRON": "the default is right",
    "PERENNIAL_RETENTION_DAYS": "the default is right",
    "PERENNIAL_WATCHDOG_CRON": "the default is right",
    "PERENNIAL_WEBHOOK_SECRET": "it is a file (PERENNIAL_WEBHOOK_SECRET_FILE)",
    **dict.fromkeys(
        (
            *("PERENNIAL_GPUS_PER_NODE", "PERENNIAL_KUBERNETES_CONNECTION", "PERENNIAL_NODES"),
            *("PERENNIAL_POD_KEEP_HOURS", "PERENNIAL_POD_TEMPLATES", "PERENNIAL_POLL_SECONDS"),
            *("PERENNIAL_QUEUE", "PERENNIAL_SHARED_CLAIM"),
        ),
        "of Kubernetes",
    ),
}
"""Settings that the compose file does not give, and why none is missed."""


def test_every_setting_reaches_the_services_or_has_a_reason_not_to() -> None:
    """A setting that is named in the shell and stops before the services would be ignored without a word."""
    read: set[str] = set()
    for path in [*(ROOT / "dags").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        read |= set(re.findall(r"\bPERENNIAL_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(encoding="utf-8")))
    told = compose()["services"]["scheduler"]["environment"]
    assert sorted(read - set(told) - set(NOT_GIVEN)) == []
    assert set(NOT_GIVEN) & set(told) == set()
    for name in ("ALLOWED_URIS", "DEADLINE_HOURS", "NOTIFY", "TRUSTED_CODE", "WEBHOOK_URL"):
        given = f"PERENNIAL_{name}"
        for service in ("scheduler", "dag-processor", "triggerer", "api-server"):
            assert compose()["services"][service]["environment"][given] == f"${{{given}:-}}", service


def test_steps_reach_the_store_and_mlflow_and_nothing_else() -> None:
    found = compose()
    assert found["networks"]["steps"] == {"name": "perennial-steps", "internal": True}
    there = {name for name, service in found["services"].items() if "steps" in service.get("networks", [])}
    assert there == {"s3", "mlflow"}
    assert found["services"]["scheduler"]["environment"]["PERENNIAL_CONTAINER_NETWORK"] == "perennial-steps"


def test_a_tmpfs_has_no_option_that_podman_refuses() -> None:
    """Docker alone knows `uid` and `gid`."""
    for name, service in compose()["services"].items():
        options = {each for mount in service.get("tmpfs", []) for each in mount.partition(":")[2].split(",")}
        assert {each.partition("=")[0] for each in options} <= {"", "mode", "size"}, name


def test_the_databases_are_made_by_a_program_of_its_own() -> None:
    """PostgreSQL's image sources what cannot be executed, and would go on with its `set -u`."""
    assert os.access(DOCKER / "databases.sh", os.X_OK)


def test_the_page_of_a_model_can_be_read_by_the_server_that_shows_it() -> None:
    """It runs `perennial page`: the store and MLflow in reach, credentials, the plugin, a place to write."""
    services = compose()["services"]
    server = services["api-server"]
    for needed in ("s3", "mlflow"):
        assert set(server["networks"]) & set(services[needed]["networks"]), needed
    assert "airflow-secrets:/run/secrets/perennial:ro" in server["volumes"]
    assert "/scratch:mode=1777" in server["tmpfs"]
    assert {"PERENNIAL_STORE", "MLFLOW_TRACKING_URI"} <= set(server["environment"])
    text = (DOCKER / "orchestrator.Dockerfile").read_text()
    assert "AIRFLOW__CORE__PLUGINS_FOLDER=/opt/perennial/dags/plugins" in text


def test_ports_are_published_to_this_machine_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_socket_is_given_to_the_scheduler_alone() -> None:
    having = [
        name for name, each in compose()["services"].items() if "docker.sock" in str(each.get("volumes"))
    ]
    assert having == ["scheduler"]


def test_the_key_that_signs_is_given_to_the_scheduler_alone() -> None:
    services = compose()["services"].items()
    having = {name for name, each in services if "signing-key" in str(each.get("volumes"))}
    assert having == {"scheduler", "secrets"}


def test_volumes_and_files_that_are_mounted_exist() -> None:
    found = compose()
    for name, service in found["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).is_file(), f"{name}: {source}"
            elif not source.startswith("${"):
                assert source in found["volumes"], f"{name}: {source}"


def test_mlflow_asks_who_it_is_and_knows_its_names() -> None:
    service = compose()["services"]["mlflow"]
    assert "--app-name basic-auth" in str(service["command"])
    hosts = service["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    (published,) = service["ports"]
    port = published.removeprefix("127.0.0.1:").removesuffix(":5000")
    assert {"mlflow", "mlflow:5000", f"127.0.0.1:{port}"} <= set(hosts)
    assert "disable-security-middleware" not in str(service)


def test_the_context_holds_what_the_dockerfiles_copy_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        source.rstrip("/")
        for path in FILES
        for word, rest in instructions(path)
        if word == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    }
    assert copied <= allowed
    assert allowed - copied == {"docker/wheels"}  # bound into the build, not copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets of the compose file, made in a folder by a run that may not change owners."""
    for folder in ("airflow", "login", "mlflow", "postgres", "s3", "s3-data", "signing", "steps"):
        (tmp_path / folder).mkdir()
    return tmp_path


def make_secrets(place: Path) -> None:
    code = (
        "import os, runpy, sys; os.chown = lambda *_: None; "
        f"sys.argv[1:] = [{str(place)!r}]; "
        f"runpy.run_path({str(DOCKER / 'make_secrets.py')!r}, run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_secrets_are_made_once_fit_together_and_are_private(made: Path) -> None:
    make_secrets(made)
    files = {path.relative_to(made).as_posix(): path for path in made.rglob("*") if path.is_file()}
    texts = {name: path.read_text() for name, path in files.items()}
    assert texts["postgres/airflow"] in texts["airflow/pgpass"]
    assert texts["postgres/mlflow"] in texts["mlflow/pgpass"]
    assert (
        texts["steps/aws-credentials"] == texts["airflow/aws-credentials"] == texts["mlflow/aws-credentials"]
    )
    key = re.search(r"ROOT_SECRET_KEY=(\S+)", texts["s3/root.env"])
    assert key
    assert key[1] in texts["steps/aws-credentials"]
    account = re.search(r"password = (\S+)", texts["steps/mlflow/credentials"])
    assert account
    assert len(texts["signing/webhook"]) > 30
    assert account[1] == texts["mlflow/client/credentials"].rpartition(" = ")[2].strip()
    assert f"admin_password = {texts['mlflow/admin-password']}\n" in texts["mlflow/auth.ini"]
    assert {path.stat().st_mode & 0o777 for name, path in files.items() if name != "airflow/made"} == {0o600}
    make_secrets(made)
    assert {name: path.read_text() for name, path in files.items()} == texts


def test_steps_get_only_their_own_secrets(made: Path) -> None:
    make_secrets(made)
    step = "".join(path.read_text() for path in (made / "steps").rglob("*") if path.is_file())
    names = (
        *("postgres/postgres", "postgres/airflow", "airflow/fernet-key", "signing/signing.pem"),
        "mlflow/admin-password",  # the account of runs and steps is no administrator
    )
    for name in names:
        assert (made / name).read_text() not in step
