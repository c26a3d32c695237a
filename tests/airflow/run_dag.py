"""Run by Airflow's own Python: load the DAGs' folder, run one DAG for an instant, and print what became of it as JSON.

Its arguments are the folder, the DAG's id, and the instant in ISO 8601.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime

from airflow.dag_processing.dagbag import DagBag  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Do it."""
    folder, dag_id, instant = sys.argv[1:]
    bag = DagBag(folder)
    dags = {
        name: {
            "schedule": str(dag.schedule),
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "deadline_s": dag.dagrun_timeout.total_seconds(),
            "tasks": {task.task_id: [task.retries, task.execution_timeout.total_seconds()] for task in dag.tasks},
        }
        for name, dag in bag.dags.items()
    }
    found = {"errors": bag.import_errors, "dags": dags}
    if dag_id in bag.dags:
        run = bag.dags[dag_id].test(logical_date=datetime.fromisoformat(instant))
        found["state"] = str(run.state)
        found["tasks"] = {one.task_id: str(one.state) for one in run.get_task_instances()}
    sys.stdout.write(f"\nRESULT {json.dumps(found)}\n")


if __name__ == "__main__":
    main()
