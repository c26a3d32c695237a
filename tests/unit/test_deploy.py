"""What is deployed: the compose file, the image, Prometheus and Grafana fit the code and each other. No container engine is needed."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import typer.main
import yaml

from streamer import __version__, cli
from streamer.adapters.servers.containers import KAFKA_IMAGE, REDIS_IMAGE
from streamer.app import archive_metrics
from streamer.app.config import load
from streamer.app.metrics import METRICS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
OURS = f"segment-streamer:{__version__}"
STREAMER = {name: service for name, service in SERVICES.items() if service["image"] == OURS}
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/segment-streamer.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+[a-z0-9.-]*")

services = pytest.mark.parametrize("name", SERVICES)
streamer_services = pytest.mark.parametrize("name", STREAMER)


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction of the Dockerfile."""
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def variables() -> dict[str, str]:
    """The environment that the image sets."""
    return dict(cast("tuple[str, str]", tuple(word.split("=", 1))) for line in instructions("ENV") for word in shlex.split(line))


def test_the_compose_file_keeps_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr), done.stdout


def test_the_dockerfile_gives_the_linter_nothing_to_say() -> None:
    done = subprocess.run([Path(sys.executable).parent / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def test_every_image_has_a_version() -> None:
    images = [service["image"] for service in SERVICES.values()] + [line.split()[0] for line in instructions("FROM")]
    assert [] == [image for image in images if not PINNED.fullmatch(image)]


def test_servers_are_those_that_tests_start_in_containers() -> None:
    assert (KAFKA_IMAGE, REDIS_IMAGE) == (SERVICES["kafka"]["image"], SERVICES["redis"]["image"])


def test_the_image_says_which_version_it_is_of() -> None:
    assert f"VERSION={__version__}" in instructions("ARG")


@services
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert ["ALL"] == service["cap_drop"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert not str(service["user"]).startswith(("0", "root"))


@services
def test_a_service_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert {"mem_limit", "pids_limit", "restart"} <= set(service)
    assert {"max-size", "max-file"} == set(service["logging"]["options"])
    assert [] == [mount for mount in service.get("tmpfs", []) if ":size=" not in mount]


@services
def test_a_service_listens_on_loopback_alone(name: str) -> None:
    assert [] == [port for port in SERVICES[name].get("ports", []) if not str(port).startswith("127.0.0.1:")]


@services
def test_what_a_service_waits_for_can_come(name: str) -> None:
    healthy = {other for other, how in SERVICES[name].get("depends_on", {}).items() if how["condition"] == "service_healthy"}
    assert [] == [other for other in healthy if "test" not in SERVICES[other].get("healthcheck", {})]


@services
def test_what_a_service_mounts_is_there(name: str) -> None:
    mounts = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    assert [] == [mount for mount in mounts if not ((ROOT / mount).exists() if mount.startswith(".") else mount in COMPOSE["volumes"])]


@streamer_services
def test_a_command_and_its_options_exist(name: str) -> None:
    command, *arguments = SERVICES[name]["command"]
    typer.main.get_command(importlib.import_module(cli.COMMANDS[command].module).app).make_context(command, arguments)


@streamer_services
def test_a_service_is_configured_by_keys_that_exist(name: str) -> None:
    environment = variables() | SERVICES[name]["environment"]
    config = load(None, environment)
    assert ("kafka:9092", "redis://redis:6379/0", "0.0.0.0") == (config.kafka.bootstrap_servers, config.redis.url, config.metrics.host)  # noqa: S104


def test_workers_have_names_of_their_own() -> None:
    workers = [service for service in STREAMER.values() if service["command"] == ["run"]]
    assert len(workers) == 2 == len({worker["environment"]["STREAMER_APP__INSTANCE"] for worker in workers})


def test_the_archiver_writes_into_a_volume() -> None:
    (archiver,) = [service for service in STREAMER.values() if service["command"] == ["archive"]]
    config = load(None, variables() | archiver["environment"])
    assert config.history.url in [volume.split(":")[1] for volume in archiver["volumes"]]


def test_prometheus_scrapes_every_worker_and_archiver_where_it_listens() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    port = load(None, {}).metrics.port
    listening = [f"{name}:{port}" for name, service in STREAMER.items() if service["command"] in (["run"], ["archive"])]
    assert listening == [target for job in scraped for group in job["static_configs"] for target in group["targets"]]
    assert [str(port)] == instructions("EXPOSE")


def test_the_image_runs_as_the_user_that_compose_names() -> None:
    assert {*instructions("USER")} == {service["user"] for service in STREAMER.values()}
    assert ['["streamer"]'] == instructions("ENTRYPOINT")


def test_compiled_code_is_kept_in_a_volume_that_begins_with_that_of_the_image() -> None:
    assert {variables()["NUMBA_CACHE_DIR"]} == {*instructions("VOLUME")}
    assert all(service["volumes"][0] == f"compiled:{variables()['NUMBA_CACHE_DIR']}" for service in STREAMER.values())


@streamer_services
def test_a_new_volume_belongs_to_the_user_of_the_image(name: str) -> None:
    (user,) = instructions("USER")
    made = f"install --directory --owner={user.split(':')[0]} --group={user.split(':')[1]} "
    (folders,) = [part.split(made)[1].split() for line in instructions("RUN") for part in line.split("&&") if made in part]
    assert [] == [volume for volume in SERVICES[name]["volumes"] if volume.split(":")[1] not in folders]


def test_what_the_image_is_made_of_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    assert {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
    assert [] == [source for source in copied if not (ROOT / source).exists()]


def test_the_image_installs_releases_that_were_tested() -> None:
    pins = re.compile(r"^[a-z0-9.-]+==\S+", re.MULTILINE)
    image, run = (set(pins.findall((ROOT / "requirements" / name).read_text(encoding="utf-8"))) for name in ("image.txt", "run.txt"))
    assert set() == image - run


@pytest.mark.parametrize(("status", "exit_status"), [(200, 0), (503, 1)])
def test_a_container_is_healthy_when_its_worker_or_archiver_is_ready(status: int, exit_status: int) -> None:
    class Probed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    (in_image,) = [json.loads(line[line.index("CMD ") + 4 :]) for line in instructions("HEALTHCHECK")]
    checks = {tuple(in_image), *(tuple(SERVICES[name]["healthcheck"]["test"][1:]) for name in ("worker-1", "worker-2", "archiver"))}
    ((program, flag, code),) = checks
    with HTTPServer(("127.0.0.1", 0), Probed) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        done = subprocess.run([sys.executable, flag, code.replace("9464", str(server.server_port))], check=False)
        thread.join(30)
    assert ("python", exit_status) == (program, done.returncode)


def test_dashboard_and_alerts_ask_for_metrics_that_workers_or_archivers_expose() -> None:
    known = {metric.name for metric in (*METRICS, *archive_metrics.METRICS)}
    known |= {f"{metric.name}_{part}" for metric in METRICS if metric.sort == "histogram" for part in ("bucket", "sum", "count")}
    asked = {name for query in [*QUERIES, *(alert["expr"] for alert in ALERTS)] for name in re.findall(r"\bstreamer_\w+", query)}
    assert set() == asked - known


def test_the_dashboard_shows_every_metric_but_those_that_say_where_a_partition_is() -> None:
    queries = " ".join(QUERIES)
    left_out = {"streamer_events_applied_total", "streamer_next_offset", "streamer_segment_share", "streamer_watermark_seconds"}
    assert left_out | {"streamer_archive_next_offset"} == {
        metric.name
        for metric in (*METRICS, *archive_metrics.METRICS)
        if not re.search(rf"\b{metric.name}(_bucket|_sum|_count)?\b", queries)
    }


def test_the_dashboard_asks_the_server_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    asked = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert {source["uid"] for source in provisioned} == asked
    assert ["http://prometheus:9090"] == [source["url"] for source in provisioned]


def test_the_dashboard_is_where_grafana_looks() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/segment-streamer.yml").read_text(encoding="utf-8"))["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/dashboards" / Path(home).name).exists()


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_alert_is_made_to_fire_and_to_stay_silent() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    names = {alert["alert"] for alert in ALERTS}
    assert names == {case["alertname"] for case in tests[0]["alert_rule_test"] if not case["exp_alerts"]}
    fired = {sample["labels"] for check in tests[1]["promql_expr_test"] for sample in check["exp_samples"]}
    assert {f'{{alertname="{name}"}}' for name in names} == fired


def test_every_alert_says_what_to_do() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert [] == [alert["alert"] for alert in ALERTS if not {"summary", "description"} <= set(alert["annotations"])]
    assert [] == [alert["alert"] for alert in ALERTS if f"`{alert['alert']}`" not in page]
