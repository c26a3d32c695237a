"""MLflow: nights as runs, versions in its registry, champion and challenger as aliases; only where `mlflow.tracking_uri` is set.

Laws: what MLflow has is a copy. The directory and the topic of models are the truth, nothing is read back, and a version that MLflow could
not take is kept and promoted all the same, and told. Twice is once: a version is known by its SHA-256.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from offline.shelf import body_of, text_of
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline.settings import Mlflow
    from offline.shelf import Kept

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
SHA256, VERSION, GATE = "sha256", "version", "gate"
PARAM_CHARACTERS_MAX = 500


class Tracker:
    """Tells MLflow of versions; a tracker without an address tells nobody."""

    def __init__(self, settings: Mlflow) -> None:
        """Connect with the first thing to tell.

        Raises:
            Misconfigured: an address is set, and MLflow is not installed.

        """
        self._settings = settings
        if settings.tracking_uri is not None and find_spec("mlflow") is None:
            message = "`offline.mlflow.tracking_uri` is set and MLflow is not installed: pip install 'segment-streamer[mlflow]'"
            raise Misconfigured(message)

    def night(self, kept: Kept) -> None:
        """Tell of a version: a run with its figures and files, and if the gate passed it a version in the registry, the challenger."""
        self._told("the night", lambda client: self._night(client, kept))

    def promoted(self, name: str, sha256: str) -> None:
        """Tell that a version is to be in force: the champion."""
        self._told("the promotion", lambda client: self._promoted(client, name, sha256))

    def _told(self, what: str, tell: Callable[[Any], None]) -> None:
        uri = self._settings.tracking_uri
        if uri is None:
            return
        from mlflow import MlflowClient  # noqa: PLC0415  # an optional extra, and slow to import

        try:
            tell(MlflowClient(tracking_uri=uri, registry_uri=uri))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a copy that is missing
            log.warning("MLflow at %s could not be told of %s: %s", uri, what, error)

    def _night(self, client: Any, kept: Kept) -> None:  # noqa: ANN401  # MLflow's types are not there where it is not installed
        experiment = client.get_experiment_by_name(self._settings.experiment)
        place = experiment.experiment_id if experiment is not None else client.create_experiment(self._settings.experiment)
        if not client.search_runs([place], f"tags.{SHA256} = '{kept.sha256}'", max_results=1):
            self._run(client, place, kept)
        run = client.search_runs([place], f"tags.{SHA256} = '{kept.sha256}'", max_results=1)[0]
        if kept.refused or self._registered(client, kept.version.name, kept.sha256) is not None:
            return
        name = kept.version.name
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description="Segments of customers; docs/offline.md says how versions are made.")
        tags = {SHA256: kept.sha256, VERSION: str(kept.version.version)}
        made = client.create_model_version(name, run.info.artifact_uri, run.info.run_id, tags=tags)
        client.set_registered_model_alias(name, CHALLENGER, made.version)

    def _run(self, client: Any, place: str, kept: Kept) -> None:  # noqa: ANN401
        version, gate = kept.version, kept.details.get("gate") or {}
        tags = {SHA256: kept.sha256, VERSION: str(version.version), GATE: "refused" if kept.refused else "passed"}
        tags |= {"reasons": "; ".join(gate.get("reasons", ()))} if gate.get("reasons") else {}
        run = client.create_run(place, start_time=version.as_of, tags=tags, run_name=f"{version.name}-{version.version}")
        known = run.info.run_id
        for key, value in {**version.provenance, "feature_version": version.feature_version, "as_of": str(version.as_of)}.items():
            client.log_param(known, key, value[:PARAM_CHARACTERS_MAX])
        for key, figure in version.quality.items():
            if math.isfinite(figure):
                client.log_metric(known, key, figure, timestamp=version.as_of)
        with TemporaryDirectory() as folder:
            stem = Path(folder) / f"{version.name}-{version.version:06d}"
            stem.with_suffix(".avro").write_bytes(body_of(version))
            stem.with_suffix(".json").write_bytes(text_of(kept.details))
            client.log_artifacts(known, folder)
        client.set_terminated(known, end_time=version.as_of)

    def _promoted(self, client: Any, name: str, sha256: str) -> None:  # noqa: ANN401
        number = self._registered(client, name, sha256)
        if number is None:
            log.warning("MLflow does not know the version %s of %s that is promoted: it was made before MLflow was told", sha256[:12], name)
            return
        client.set_registered_model_alias(name, CHAMPION, number)
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == number:  # a number of MLflow's, in whatever type
            client.delete_registered_model_alias(name, CHALLENGER)

    def _registered(self, client: Any, name: str, sha256: str) -> str | None:  # noqa: ANN401
        """Find MLflow's own number of a version."""
        found = [str(one.version) for one in client.search_model_versions(f"name = '{name}'") if one.tags.get(SHA256) == sha256]
        return found[0] if found else None
