"""The Helm values of Airflow: keys of the chart, options of this Airflow, no secret, the pools.

The chart itself cannot be fetched here, so its templates are not rendered: KEYS lists what of its values we
use, read from the chart's own values file and release notes (1.19 to 1.22).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.k8s.rendered import K8S, OVERLAYS, ROOT, SIZES, Object, named, secrets, strings, values

PARTS = ("scheduler", "triggerer", "dagProcessor", "apiServer")

PART = {
    "replicas",
    "serviceAccount",
    "priorityClassName",
    "podDisruptionBudget",
    "resources",
    "startupProbe",
    "livenessProbe",
    "args",
    "env",
    "extraVolumes",
    "extraVolumeMounts",
}
KEYS: dict[str, set[str]] = {
    "images": {"airflow", "statsd", "migrationsWaitTimeout"},
    "securityContexts": {"pod", "containers"},
    "enableBuiltInSecretEnvVars": {
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW_CONN_AIRFLOW_DB",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
    },
    "data": {"metadataSecretName"},
    "dags": {"persistence", "gitSync"},
    "logs": {"persistence"},
    "ingress": {"apiServer"},
    "migrateDatabaseJob": {
        "enabled",
        "serviceAccount",
        "args",
        "extraVolumes",
        "extraVolumeMounts",
        "resources",
    },
    "workers": {"persistence", "celery"},
    "scheduler": PART | {"safeToEvict", "terminationGracePeriodSeconds", "logGroomerSidecar"},
    "triggerer": PART - {"startupProbe"} | {"safeToEvict", "persistence", "logGroomerSidecar"},
    "dagProcessor": PART - {"startupProbe"} | {"enabled", "logGroomerSidecar"},
    "apiServer": PART | {"allowPodLogReading"},
    "statsd": {"enabled", "serviceAccount", "resources", "securityContexts"},
    **{name: {"enabled"} for name in ("postgresql", "redis", "pgbouncer", "flower", "createUserJob")},
    "rbac": {"create"},
}
PLAIN = {
    "fullnameOverride",
    "executor",
    "airflowVersion",
    "airflowHome",
    "imagePullSecrets",
    "allowPodLaunching",
    "uid",
    "gid",
    "fernetKeySecretName",
    "apiSecretKeySecretName",
    "jwtSecretName",
    "env",
    "extraEnvFrom",
    "volumes",
    "volumeMounts",
    "config",
}
"""Keys of the top whose value is no map of keys of the chart's (or, for `config`, of Airflow's)."""

NOT_SET = {
    "PERENNIAL_ATTEMPT": "the runtime gives it to each container",
    "PERENNIAL_IMAGE": "the runtime gives it to each container",
    "PERENNIAL_COMMAND": "the image's own command is right",
    "PERENNIAL_GRACE_SECONDS": "the default is right",
    "PERENNIAL_APPROVAL_HOURS": "the default is right",
    "PERENNIAL_DEADLINE_HOURS": "a choice of the site: no run is late by default",
    "PERENNIAL_NOTIFY": "a choice of the site: who is told",
    "PERENNIAL_WEBHOOK_URL": "a choice of the site: who is told of promotions",
    "PERENNIAL_RETENTION_CRON": "the default is right",
    "PERENNIAL_RETENTION_DAYS": "the default is right",
    "PERENNIAL_WATCHDOG_CRON": "the default is right",
    "PERENNIAL_POLL_SECONDS": "the default is right",
    "PERENNIAL_KUBERNETES_CONNECTION": "the scheduler's own account is used",
    "PERENNIAL_GPUS_PER_NODE": "the pod template says it",
    "PERENNIAL_NODES": "set in production only",
    "PERENNIAL_QUEUE": "set in production only",
    "PERENNIAL_SHARED_CLAIM": "set in production only",
    "PERENNIAL_TRUSTED_KEYS": "set in production only; in dev the own key alone",
    "PERENNIAL_ALLOWED_URIS": "a choice of the site",
    "PERENNIAL_TRUSTED_CODE": "a choice of the site: no code of a model is trusted by default",
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_keys_that_the_chart_has(name: str) -> None:
    given = values(name)
    assert set(given) <= PLAIN | set(KEYS)
    for key, known in KEYS.items():
        assert set(given.get(key, {})) <= known, key


@pytest.fixture(scope="module")
def airflow_options() -> dict[str, Any]:
    """Airflow's own description of its options, by section, from a process of its own."""
    code = (
        "import json; from airflow.configuration import conf, retrieve_configuration_description as it;"
        "d = it(include_airflow=True, include_providers=False);"
        "print(json.dumps({'options': {s: sorted(v['options']) for s, v in d.items()},"
        "'sensitive': sorted(conf.sensitive_config_values)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_option_is_one_of_airflows(name: str, airflow_options: dict[str, Any]) -> None:
    for section, options in values(name)["config"].items():
        for option, value in options.items():
            assert option in airflow_options["options"].get(section, []), f"[{section}] {option}"
            assert isinstance(value, str), f"[{section}] {option}: the chart wants texts"


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_come_by_a_command_that_airflow_honours(name: str, airflow_options: dict[str, Any]) -> None:
    """AIRFLOW__SECTION__OPTION_CMD works for the options that Airflow calls sensitive, and for no other."""
    sensitive = {tuple(each) for each in airflow_options["sensitive"]}
    commands = {each["name"]: each["value"] for each in values(name)["env"] if each["name"].endswith("_CMD")}
    options = set()
    for variable, command in commands.items():
        _, section, option = variable.removesuffix("_CMD").lower().split("__")
        assert (section, option) in sensitive
        assert re.fullmatch(r"cat /etc/perennial/airflow/\w+", command)
        options.add((section, option))
    assert options == {
        ("database", "sql_alchemy_conn"),
        ("core", "fernet_key"),
        ("api", "secret_key"),
        ("api_auth", "jwt_secret"),
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_secret_in_the_environment_of_airflow(name: str) -> None:
    given = values(name)
    assert set(given["enableBuiltInSecretEnvVars"].values()) == {False}
    assert "secretRef" not in given["extraEnvFrom"]
    assert "secretKeyRef" not in json.dumps(given)
    for text in strings(given):
        assert not re.search(r"://[^/@\s:]+:[^/@\s]+@", text)
    for part in PARTS:
        for each in given[part].get("env", []):
            assert each["value"].startswith("/etc/perennial/"), each["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_page_asks_for_a_password(name: str) -> None:
    core = values(name)["config"]["core"]
    assert core["auth_manager"].endswith(".SimpleAuthManager")
    assert core["simple_auth_manager_all_admins"] == "False"
    passwords = values(name)["apiServer"]["args"][-1]
    assert core["simple_auth_manager_passwords_file"] in passwords
    assert "airflow api-server" in passwords


@pytest.mark.parametrize("name", OVERLAYS)
def test_airflows_pods_are_restricted(name: str) -> None:
    contexts = values(name)["securityContexts"]
    assert contexts["pod"]["runAsNonRoot"] is True
    assert contexts["pod"]["runAsUser"] > 0
    assert contexts["pod"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert contexts["containers"]["allowPrivilegeEscalation"] is False
    assert contexts["containers"]["readOnlyRootFilesystem"] is True
    assert contexts["containers"]["capabilities"] == {"drop": ["ALL"]}
    for part in (*PARTS, "migrateDatabaseJob", "statsd"):
        resources = values(name)[part]["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_p1_waiting_is_the_triggerers_and_survives_a_drain(name: str) -> None:
    """P1: pods lost when Airflow's parts restart. Servers move one at a time; a task has time to end."""
    given = values(name)
    for part in PARTS:
        assert given[part]["podDisruptionBudget"] == {"enabled": True, "config": {"maxUnavailable": 1}}
    assert given["scheduler"]["terminationGracePeriodSeconds"] >= 300
    assert given["executor"] == "LocalExecutor"
    if name == "prod":
        assert all(given[part]["replicas"] >= 2 for part in ("scheduler", "triggerer", "apiServer"))


@pytest.mark.parametrize(
    ("part", "job"),
    [("scheduler", "SchedulerJob"), ("triggerer", "TriggererJob"), ("dagProcessor", "DagProcessorJob")],
)
def test_probes_need_no_upstream_image(part: str, job: str) -> None:
    """The chart's own call /entrypoint, which our image has not: every pod would be killed after minutes."""
    for name in OVERLAYS:
        probe = values(name)[part]["livenessProbe"]
        assert probe["command"][-1] == f"exec airflow jobs check --job-type {job} --local"
        assert probe["timeoutSeconds"] >= 30, "Airflow's command line takes seconds to start"


def test_p13_nothing_of_the_chart_pulls_an_upstream_database() -> None:
    """P13: upstream images vanish, the chart's PostgreSQL among them."""
    for name in OVERLAYS:
        for part in ("postgresql", "redis", "pgbouncer"):
            assert values(name)[part] == {"enabled": False}
        images = values(name)["images"]
        for image in (images["airflow"], images["statsd"]):
            assert image["repository"].split("/")[0] == "registry.example.com"
        assert re.fullmatch(r"v[\d.]+@sha256:[0-9a-f]{64}", images["statsd"]["tag"])


@pytest.mark.slow
def test_p17_the_pools_count_deferred_tasks(tmp_path: Path) -> None:
    """P17: a pool without deferred tasks limits nothing, as ours wait deferred. Airflow imports the file."""
    file = K8S / "airflow" / "pools.json"
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    script = (
        "import sys; from airflow import settings; from airflow.models.base import Base;"
        "from airflow.models.pool import Pool; settings.initialize();"
        "Base.metadata.create_all(settings.engine);"
        "from airflow.cli.commands.pool_command import pool_import_helper;"
        "made, failed = pool_import_helper(sys.argv[1]); assert not failed, failed;"
        "s = settings.Session();"
        "print(sorted((p.pool, p.slots, p.include_deferred) for p in s.query(Pool)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[('default_pool', 64, True), ('gpu', 4, True)]"


def test_p17_every_pool_of_the_dags_is_made_on_install() -> None:
    """P17: a task in a pool that is not there never starts."""
    wanted = _pools(ROOT / "dags" / "runtimes" / "steps.py")
    assert wanted <= set(json.loads((K8S / "airflow" / "pools.json").read_text(encoding="utf-8")))
    for name in OVERLAYS:
        job = values(name)["migrateDatabaseJob"]
        path = next(iter(re.findall(r"airflow pools import (\S+)", job["args"][-1])))
        mount = next(each for each in job["extraVolumeMounts"] if path.startswith(each["mountPath"]))
        volume = next(each for each in job["extraVolumes"] if each["name"] == mount["name"])
        held = named(name, "ConfigMap", "perennial")[volume["configMap"]["name"]]["data"]
        assert path.removeprefix(mount["mountPath"] + "/") in held


def _pools(path: Path) -> set[str]:
    found = re.search(r"^POOLS = ({.*})$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} has no POOLS any more"
    return set(yaml.safe_load(found[1]).values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_dags_get_every_setting_they_read(name: str) -> None:
    read = set(_read_by(ROOT / "dags"))
    assert {"PERENNIAL_RUNTIME", "PERENNIAL_STORE", "PERENNIAL_IMAGE_CPU"} <= read
    settings = named(name, "ConfigMap", "perennial")
    told = {key for each in ("perennial-settings", "object-store") for key in settings[each]["data"]}
    told |= {each["name"] for each in values(name)["scheduler"].get("env", [])}
    assert read - told <= set(NOT_SET)


def _read_by(folder: Path) -> Iterator[str]:
    """Names of our settings in the code, but for the container runtime's: a cluster has none of it."""
    for path in folder.rglob("*.py"):
        if "container" not in path.name:
            yield from re.findall(r"\bPERENNIAL_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_runtimes_that_the_settings_choose_exist(name: str) -> None:
    """PERENNIAL_RUNTIME is read by the DAGs' own code."""
    code = (
        "import sys; sys.path.insert(0, 'dags'); from runtimes.table import runtime_of;"
        f"print([runtime_of(size) for size in {SIZES[name]!r}])"
    )
    told = named(name, "ConfigMap")["perennial-settings"]["data"]["PERENNIAL_RUNTIME"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PERENNIAL_RUNTIME": told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    wanted = {"dev": "['kubernetes', 'kubernetes']", "prod": "['kubernetes', 'kubernetes', 'trainjob']"}
    assert done.stdout.strip().splitlines()[-1] == wanted[name]


def _lists(value: Object) -> Iterator[list[Any]]:
    for each in value.values():
        if isinstance(each, list):
            yield each
        elif isinstance(each, dict):
            yield from _lists(each)


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_name_twice_in_a_list(name: str) -> None:
    """Helm replaces lists: an overlay's list that repeats the base's could repeat a name."""
    for each in _lists(values(name)):
        names = [row["name"] for row in each if isinstance(row, dict) and "name" in row]
        mounts = [row["mountPath"] for row in each if isinstance(row, dict) and "mountPath" in row]
        assert len(mounts or names) == len(set(mounts or names))


@pytest.mark.parametrize("part", ["scheduler", "apiServer"])
def test_the_dev_lists_keep_what_the_base_mounts(part: str) -> None:
    """Helm replaces the lists by the overlay's: the base's entries must stand there again."""
    base = yaml.safe_load((K8S / "airflow" / "values.yaml").read_text(encoding="utf-8"))[part]
    for key in ("extraVolumes", "extraVolumeMounts"):
        names = {each["name"] for each in values("dev")[part][key]}
        assert {each["name"] for each in base[key]} <= names


def test_in_production_the_key_that_signs_can_be_changed() -> None:
    """docs/security.md: for a while the old key and the new one both count, so a list of keys is mounted."""
    base = yaml.safe_load((K8S / "airflow" / "values.yaml").read_text(encoding="utf-8"))["scheduler"]
    own = values("prod")["scheduler"]
    told = {each["name"]: each["value"] for each in own["env"]}
    assert {
        each["name"]: each["value"] for each in base["env"]
    }.items() <= told.items()  # Helm replaces lists
    folder, _, file = told["PERENNIAL_TRUSTED_KEYS"].rpartition("/")
    (mount,) = [each["name"] for each in own["extraVolumeMounts"] if each["mountPath"] == folder]
    (volume,) = [each for each in own["extraVolumes"] if each["name"] == mount]
    assert {file, "key.pem"} <= secrets("prod")["perennial", volume["secret"]["secretName"]]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_page_of_a_model_can_be_read_by_whoever_runs_its_command(name: str) -> None:
    """The API server runs `perennial page`: MLflow's account, the store's key, a place to write."""
    given = values(name)
    (home,) = [each["value"] for each in given["env"] if each["name"] == "HOME"]
    settings = named(name, "ConfigMap", "perennial")
    told = settings["perennial-settings"]["data"] | settings["object-store"]["data"]
    for part in ("scheduler", "apiServer"):
        own = given[part]
        mounts = {each["mountPath"]: each["name"] for each in own["extraVolumeMounts"]}
        volumes = {each["name"]: each for each in own["extraVolumes"]}
        assert "emptyDir" in volumes[mounts[told["PERENNIAL_HOME"]]]
        assert "secret" in volumes[mounts[f"{home}/.mlflow"]]
        key = told.get("AWS_SHARED_CREDENTIALS_FILE")
        if key:
            assert volumes[mounts[str(Path(key).parent)]]["secret"]["secretName"] == "perennial-store"
        else:  # the account's own role
            account = named(name, "ServiceAccount")[own["serviceAccount"]["name"]]
            assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_shows_models_gets_no_account_that_writes(name: str) -> None:
    """The web server is what people reach: neither MLflow's account of the runs nor the key that signs."""
    mounted = [each.get("secret", {}).get("secretName") for each in values(name)["apiServer"]["extraVolumes"]]
    assert "perennial-mlflow-reader" in mounted
    assert not {"perennial-mlflow", "perennial-signing", "mlflow-admin"} & set(mounted)
