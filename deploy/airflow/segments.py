"""Airflow's DAGs of the nightly job: a new model version each night, then its drift; profiles compared with the history each hour.

Put this file into the DAGs' folder of an Airflow 3 whose workers have the program `offline`, in an environment of its own if need be. The
variables of the workers' environment say where things are: `SEGMENTS_HISTORY` and `SEGMENTS_MODELS` (paths or URLs), `SEGMENTS_OFFLINE`
(the program; by default `offline`), `SEGMENTS_SETTINGS` (the settings' file), `SEGMENTS_PUSH_GATEWAY` (where figures are pushed). Those of
the stream's servers are the stream's own: docs/configuration.md.

Runs of one DAG never overlap. A cut-off is named by the day before the run, so a run that is late or repeated makes the same version. What
a server that is away has spoilt is tried again; what the gate refuses, or a comparison finds, is not.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

FINAL = (1, 65, 78)  # the exit statuses that another try would not change: a result that did not please, bad input, wrong settings
PARTS = 24  # an hour each, so everybody is compared in a day
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)  # no run is made for an instant before it


def offline(*arguments: str) -> None:
    """Run a command of the nightly job; its output is the task's log."""
    environment = os.environ
    settings = environment.get("SEGMENTS_SETTINGS")
    gateway = environment.get("SEGMENTS_PUSH_GATEWAY")
    program = [environment.get("SEGMENTS_OFFLINE", "offline"), *(["--settings", settings] if settings else [])]
    pushed = ["--push-gateway", gateway] if gateway else []
    status = subprocess.run([*program, *arguments, *pushed], check=False).returncode
    if status in FINAL:
        message = f"offline {arguments[0]} ended with status {status}, which another try would not change: see above"
        raise AirflowFailException(message)
    if status:
        message = f"offline {arguments[0]} ended with status {status}: see above"
        raise RuntimeError(message)


def due() -> datetime:
    """Give the instant that the run is for, whenever it is done."""
    run = get_current_context()["dag_run"]
    return run.logical_date or run.run_after


@dag(
    schedule="30 1 * * *",
    start_date=BEGAN,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
    tags=["segments"],
)
def segments_nightly() -> None:
    """Make the night's model version, and tell how far customers had drifted from the one before."""

    @task(execution_timeout=timedelta(hours=1))
    def drift() -> None:
        day = due() - timedelta(days=1)
        offline("drift", os.environ["SEGMENTS_HISTORY"], "--models", os.environ["SEGMENTS_MODELS"], "--as-of", f"{day:%Y-%m-%d}")

    @task(execution_timeout=timedelta(hours=4), trigger_rule="all_done")
    def reseed() -> None:
        day = due() - timedelta(days=1)
        offline("reseed", os.environ["SEGMENTS_HISTORY"], "--models", os.environ["SEGMENTS_MODELS"], "--as-of", f"{day:%Y-%m-%d}")

    drift() >> reseed()


@dag(
    schedule="10 * * * *",
    start_date=BEGAN,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=50),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=2)},
    tags=["segments"],
)
def segments_parity() -> None:
    """Compare a part of the profiles with the history, another one each hour."""

    @task(execution_timeout=timedelta(minutes=40))
    def parity() -> None:
        offline("parity", os.environ["SEGMENTS_HISTORY"], "--one-of", str(PARTS), "--part", str(due().hour % PARTS))

    parity()


segments_nightly()
segments_parity()
