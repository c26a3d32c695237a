"""The nightly job's DAGs and CronJobs fit the code and each other; Kubernetes' own schemas are kept."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from offline.cli import app
from streamer import __version__

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kubernetes/offline.yaml"
RESOURCES: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
CRON_JOBS = {one["metadata"]["name"]: one for one in RESOURCES if one["kind"] == "CronJob"}
PLACES = next(one["data"] for one in RESOURCES if one["kind"] == "ConfigMap")
DAGS = ROOT / "deploy/airflow/segments.py"
KUBERNETES = "1.33"

cron_jobs = pytest.mark.parametrize("name", CRON_JOBS)


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = CRON_JOBS[name]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def parsed(arguments: list[str]) -> str:
    """Parse a call of `offline` as it does itself; gives the command."""
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    group.commands[name].make_context(name, rest)
    return name


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: one["metadata"]["name"])
def test_a_resource_keeps_the_schema_of_kubernetes(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_the_schema_is_looked_at() -> None:
    broken = {**CRON_JOBS["segments-reseed"], "spec": {**CRON_JOBS["segments-reseed"]["spec"], "concurrencyPolice": "Forbid"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@cron_jobs
def test_runs_never_overlap_and_end(name: str) -> None:
    spec = CRON_JOBS[name]["spec"]
    job = spec["jobTemplate"]["spec"]
    assert "Forbid" == spec["concurrencyPolicy"]
    assert "Etc/UTC" == spec["timeZone"]
    assert spec["startingDeadlineSeconds"] > 100  # fewer, and the controller may miss it
    assert 0 < job["activeDeadlineSeconds"] <= 4 * 3600
    assert job["backoffLimit"] >= 1
    [failed] = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert [1, 65, 78] == failed["onExitCodes"]["values"]
    assert failed["onExitCodes"]["containerName"] in {container["name"] for container in pod(name)["containers"]}
    assert "Never" == pod(name)["restartPolicy"]  # a failure policy asks for it


@cron_jobs
def test_a_pod_may_do_no_more_than_it_must(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert not pod(name)["automountServiceAccountToken"]
    for container in pod(name)["containers"]:
        assert {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}} == container[
            "securityContext"
        ]
        assert container["resources"]["limits"]["memory"]
        assert f"segment-streamer:{__version__}" == container["image"]
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod(name)["volumes"] if "emptyDir" in volume)


@cron_jobs
def test_a_command_and_its_options_exist(name: str) -> None:
    [container] = pod(name)["containers"]
    assert ["sh", "-c"] == container["command"]
    [script] = container["args"]
    executed, program, *arguments = shlex.split(re.sub(r"\$\(date -u \+%-H\)", "7", script))
    assert ("exec", "offline") == (executed, program)
    named = {argument.removeprefix("$") for argument in arguments if argument.startswith("$")}
    assert named <= set(PLACES)
    assert name.removeprefix("segments-") == parsed(arguments)


def test_every_hours_part_is_one_of_the_parts() -> None:
    [script] = pod("segments-parity")["containers"][0]["args"]
    assert "--one-of 24" in script


def test_settings_are_where_the_command_looks() -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in pod("segments-reseed")["containers"][0]["volumeMounts"]}
    [item] = next(volume for volume in pod("segments-reseed")["volumes"] if volume["name"] == "settings")["configMap"]["items"]
    assert PLACES["OFFLINE_SETTINGS"] == f"{mounts['settings']}/{item['path']}"
    assert item["key"] in PLACES


def test_the_dags_say_what_must_not_be_left_to_a_default() -> None:
    """Airflow itself is in an environment of its own: `make airflow` parses and runs them."""
    tree = ast.parse(DAGS.read_text(encoding="utf-8"))
    dags = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in decorator.keywords}
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef)
        for decorator in one.decorator_list
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "dag"
    ]
    assert 2 == len(dags)
    for dag in dags:
        assert ("False", "1") == (dag["catchup"], dag["max_active_runs"])
        assert {"schedule", "dagrun_timeout", "default_args"} <= set(dag)
        assert "retries" in dag["default_args"]


def test_the_dags_call_commands_that_exist() -> None:
    calls = [
        one
        for one in ast.walk(ast.parse(DAGS.read_text(encoding="utf-8")))
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "offline"
    ]
    given = {"day": "2026-01-01", "PARTS": "24", "HISTORY": "history", "MODELS": "models"}
    commands = set()
    for call in calls:
        arguments = []
        for argument in call.args:
            text = ast.unparse(argument)
            arguments.append(
                argument.value
                if isinstance(argument, ast.Constant)
                else given["HISTORY"]
                if "HISTORY" in text
                else given["MODELS"]
                if "MODELS" in text
                else "24"
                if text == "str(PARTS)"
                else "7"
                if "hour" in text
                else given["day"]
            )
        commands.add(parsed([str(argument) for argument in arguments]))
    assert {"drift", "reseed", "parity"} == commands
