"""Podman, a base image and the three images, made on this machine without a registry.

Everything lies in one folder, PERENNIAL_TEST_IMAGES_HOME (default /var/tmp/perennial-test-images), so that a
second run finds the layers of the first; remove it with `podman --root ... system reset` or rm -rf.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("PERENNIAL_TEST_IMAGES_HOME", "/var/tmp/perennial-test-images"))
STAND_INS = Path(__file__).parent / "stand_ins"
BASE = "localhost/perennial-test/base:bookworm"
IMAGES = ("cpu", "orchestrator", "trainer")
SUITE = "bookworm"
NEEDED = ("podman", "runc", "debootstrap")
BASE_PACKAGES = "python3,python3-venv,python3-dev,ca-certificates"

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> str:
    """Why the images cannot be built and run here, "" where they can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install podman runc debootstrap"
    return "" if os.geteuid() == 0 else "podman is driven as root here: run `make test-images` as root"


def podman_command() -> list[str]:
    """Podman with a storage and networks of its own."""
    own = {"root": "storage", "runroot": "run", "network-config-dir": "networks"}
    places = [part for option, name in own.items() for part in (f"--{option}", str(HOME / name))]
    return ["podman", *places, "--runtime", "runc"]


def environment() -> dict[str, str]:
    """Podman's environment: its settings, in a file; health checks run when we ask, not by systemd."""
    HOME.mkdir(parents=True, exist_ok=True)
    conf = HOME / "containers.conf"
    conf.write_text(CONTAINERS_CONF)
    return os.environ | {"CONTAINERS_CONF": str(conf), "DISABLE_HC_SYSTEMD": "true", "TMPDIR": str(HOME)}


def podman(*arguments: str, check: bool = True, quiet: bool = True) -> str:
    """Run podman and give what it prints."""
    done = subprocess.run(
        [*podman_command(), *arguments],
        env=environment(),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"podman {' '.join(arguments)}: {done.returncode}\n{(done.stdout or '')[-5000:]}"
        )
    return (done.stdout or "").strip()


def does(*arguments: str) -> bool:
    """Whether a podman command ends well."""
    command = [*podman_command(), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, check=False).returncode == 0


def have_base() -> str:
    """The base image: Debian with its Python, from Debian's packages alone."""
    if not podman("images", "--quiet", BASE):
        # debootstrap mounts /proc in the tree while it works, and leaves it there when it is killed.
        tree, archive = HOME / "base", HOME / "base.tar"
        remove = ["rm", "-rf", "--one-file-system", str(tree)]
        subprocess.run(["umount", "--quiet", str(tree / "proc"), str(tree / "sys")], check=False)
        subprocess.run(remove, check=True)
        make = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", SUITE, str(tree)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        pack = ["tar", "--create", "--one-file-system", "--file", str(archive), "--directory", str(tree), "."]
        subprocess.run(pack, check=True)
        podman("import", str(archive), BASE)
        subprocess.run(remove, check=True)
        archive.unlink()
    return BASE


def have_wheels() -> None:
    """Every package of the images in docker/wheels, by the hashes of docker/requirements.

    They are downloaded into HOME, where the next checkout finds them. torch is the build that pip is set up
    for here: on a machine without a GPU, the one for the CPU.
    """
    cache, folder = HOME / "wheels", ROOT / "docker" / "wheels"
    requirements = sorted((ROOT / "docker" / "requirements").glob("*.txt"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()[:12]
    stamp = cache / f".{digest}"
    if not stamp.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), "torch"], check=True)
        for path in requirements:
            build = ["--no-build-isolation"] if path.stem == "deepspeed" else []
            subprocess.run([*pip, *build, "--require-hashes", "--requirement", str(path)], check=True)
        stamp.touch()
    lay = os.link if cache.stat().st_dev == folder.stat().st_dev else shutil.copy2
    for path in cache.glob("[!.]*"):
        if not (folder / path.name).exists():
            lay(path, folder / path.name)


def have_image(name: str) -> str:
    """Build an image and give its reference; layers that did not change are reused."""
    reference = f"localhost/perennial-test/{name}:latest"
    base = have_base()
    have_wheels()
    given = {"BASE": base, "CUDA": base, "CPU": "1", "PIP_NO_INDEX": "1", "VERSION": "test"}
    if name != "trainer":
        given = {key: value for key, value in given.items() if key not in ("CUDA", "CPU")}
    arguments = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
    build(reference, ROOT / "docker" / f"{name}.Dockerfile", ROOT, *arguments)
    return reference


def have_stand_in(name: str) -> str:
    """Build what takes the place of an image of docker/images.lock, which only a registry has."""
    reference = f"localhost/perennial-test/{name}:latest"
    wheels = HOME / "moto-wheels"
    if not wheels.exists():
        new = wheels.with_suffix(".new")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(new)]
        pip += ["--constraint", str(ROOT / "constraints.txt"), "moto[s3]", "flask", "flask-cors"]
        subprocess.run(pip, check=True)
        new.rename(wheels)
    arguments = ("--build-arg", f"BASE={have_base()}", "--volume", f"{wheels}:/wheels:ro")
    build(reference, STAND_INS / f"{name}.Dockerfile", STAND_INS, *arguments)
    return reference


def build(reference: str, file: Path, context: Path, *arguments: str) -> None:
    """Build an image as it can be built here."""
    podman(
        *("build", "--isolation", "chroot", "--layers", "--file", str(file), "--tag", reference),
        *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
        *(*arguments, str(context)),
    )
    # Without overlay each layer is a whole copy: old ones without an image go, today's are the cache.
    podman("image", "prune", "--force", "--filter", "until=24h")


RESTRICTED = (
    *("--user", "10001:10001", "--read-only", "--tmpfs", "/tmp:rw,mode=1777"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
)
"""Arguments of `podman run` that mean what the container runtime asks for."""


@contextlib.contextmanager
def network(name: str, subnet: str) -> Iterator[str]:
    """A network without a way out; the address of this machine on it."""
    podman("network", "rm", "--force", name, check=False)
    podman("network", "create", "--internal", "--subnet", subnet, name)
    try:
        yield subnet.rpartition(".")[0] + ".1"
    finally:
        podman("network", "rm", "--force", name, check=False)


@contextlib.contextmanager
def service(folder: Path) -> Iterator[str]:
    """Podman's service: Docker's API on a socket; its URL."""
    path = folder / "podman.sock"
    log = (folder / "podman-service.log").open("wb")
    running = subprocess.Popen(
        [*podman_command(), "system", "service", "--time", "0", f"unix://{path}"],
        env=environment(),
        stdout=log,
        stderr=log,
    )
    try:
        until = time.monotonic() + 30
        while not path.exists():
            assert running.poll() is None, (folder / "podman-service.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        path.chmod(0o660)  # as systemd's podman.socket has it
        yield f"unix://{path}"
    finally:
        running.terminate()
        running.wait(20)
        log.close()


def run(command: Sequence[str], env: dict[str, str], code: int = 0) -> str:
    """Run a command at the repository's root and give what it prints."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == code, output[-5000:]
    return output
