"""Settings of the nightly job: the section `offline` of a YAML file, checked whole.

Law: a key that is not known is a fault, and all faults are told at once, each with its key and remedy. The file may be the stream's own: of
its other sections, which the stream checks, only `features.declaration` is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECTION, FEATURES = "offline", "features"


def _number(default: float, least: float, most: float, says: str) -> Any:  # noqa: ANN401  # a field is what its annotation says
    return field(default=default, metadata={"read": _within(type(default), least, most), "says": says})


def _within(kind: type, least: float, most: float) -> Callable[[object], object]:
    def read(given: object) -> object:
        if isinstance(given, bool) or not isinstance(given, (int, float) if kind is float else int) or not least <= given <= most:
            message = f"is {given!r}: give {'a number' if kind is float else 'a whole number'} from {least:g} to {most:g}"
            raise ValueError(message)
        return kind(given)

    return read


def _text(given: object) -> str | None:
    if given is not None and (not isinstance(given, str) or not given):
        message = f"is {given!r}: give a text"
        raise ValueError(message)
    return given


def _dates(given: object) -> tuple[date, ...]:
    if not isinstance(given, list) or not all(type(one) is date for one in given):
        message = f"is {given!r}: give a list of days such as [2026-12-25]"
        raise ValueError(message)
    return tuple(given)


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a new version must keep to be published. docs/offline.md says what each guards against."""

    wcss_ratio_max: float = _number(1.05, 1, 100, "Within-cluster squares against a fit from nothing with as many segments.")
    share_min: float = _number(0.005, 0, 1, "The least share of the customers that a segment may have.")
    share_max: float = _number(0.7, 0, 1, "The greatest.")
    relabelled_max: float = _number(0.05, 0, 1, "Share of the customers whom the new version alone moves, features being equal.")
    psi_max: float = _number(0.25, 0, 100, "Population stability index of any feature against the version before.")
    saturated_max: float = _number(0.1, 0, 1, "Share of the customers beyond the clip of any feature, in the scale of the version before.")
    stability_min: float = _number(0.4, -1, 1, "Mean adjusted Rand index to fits of bootstrap samples.")
    days: int = _number(28, 1, 730, "How many days before the cut-off are looked at one by one.")
    day_low: float = _number(0.25, 0, 1, "A day's events against the same weekday's median: less is a day that is missing.")
    day_high: float = _number(1.8, 1, 1000, "More is a day that is there twice, unless day_spread explains it.")
    day_spread: float = _number(4.0, 0, 100, "How many times the usual spread of the days a doubled day must also be off.")
    amount_day_high: float = _number(10.0, 1, 1e6, "A day's purchases in money against the same weekday's median.")
    repeated_max: float = _number(0.05, 0, 1, "Share of a day's events whose id came before.")
    customer_share_max: float = _number(0.2, 0, 1, "Share of all events, or of all money, that is one customer's.")
    days_accepted: tuple[date, ...] = field(
        default=(), metadata={"read": _dates, "says": "Days that are known to be odd, such as holidays; they are not looked at."}
    )


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What the report of the data points at. Nothing is dropped: extremes are clipped at the version's quantiles."""

    busiest_day_max: int = _number(500, 1, 10**9, "More events of one customer on one day look like a program, not a person.")
    examples_max: int = _number(5, 0, 1000, "Customers named as examples.")


@dataclass(frozen=True, slots=True)
class Fitting:
    """How segments are fitted."""

    k: int = _number(6, 2, 256, "Segments of a first fit without --k.")
    k_min: int = _number(2, 2, 256, "The least that `--k auto` tries.")
    k_max: int = _number(10, 2, 256, "The most.")
    seed: int = _number(0, 0, 2**31 - 1, "Of all that is drawn at random.")
    buckets: int = _number(64, 1, 4096, "Into how many parts a history larger than memory is dealt.")
    rows_in_memory: int = _number(2_000_000, 1000, 10**9, "Events held at once before they are spilled.")


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """From where on `offline drift` calls it a drift."""

    psi_max: float = _number(0.25, 0, 100, "Population stability index of any feature since the version's fit.")
    error_ratio_max: float = _number(1.25, 0, 1e6, "Mean squared distance from the nearest centroid over that of the fit.")
    share_shift_max: float = _number(0.1, 0, 1, "How far any segment's share of the customers may be from that of the fit.")


@dataclass(frozen=True, slots=True)
class Mlflow:
    """Where MLflow is told of versions; nowhere without an address."""

    tracking_uri: str | None = field(default=None, metadata={"read": _text, "says": "MLflow's tracking server and registry."})
    experiment: str = field(default="segments", metadata={"read": _text, "says": "The experiment that nights are runs of."})


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    gate: GateLimits = field(default_factory=GateLimits)
    drift: DriftLimits = field(default_factory=DriftLimits)
    cleaning: Cleaning = field(default_factory=Cleaning)
    fit: Fitting = field(default_factory=Fitting)
    names: Mapping[str, str] = field(default_factory=dict)  # segment id -> name
    declaration: Path | None = None  # of measures and features; None is the packaged one
    mlflow: Mlflow = field(default_factory=Mlflow)


_SECTIONS: dict[str, type] = {"gate": GateLimits, "drift": DriftLimits, "cleaning": Cleaning, "fit": Fitting, "mlflow": Mlflow}


def load(path: Path | None) -> Settings:
    """Read the settings in a file; None gives the defaults.

    Raises:
        Misconfigured: the file can't be read, is not YAML, or has faults: the message has them all.

    """
    if path is None:
        return Settings()
    try:
        tree = _sections(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: the settings can't be read: {error}"
        raise Misconfigured(message) from error
    except yaml.YAMLError as error:
        message = f"{path}: not YAML: {error}"
        raise Misconfigured(message) from error
    found = read(tree, str(path))
    return found if found.declaration is None else replace(found, declaration=path.parent / found.declaration.expanduser())


def _sections(text: str) -> dict[str, Any]:
    """Read the sections that are looked at, and none of the others: they may have tags that only the stream knows."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return {}
    wanted = {str(key.value): value for key, value in root.value if key.value in (SECTION, FEATURES)}
    return {key: yaml.safe_load(yaml.serialize(value)) for key, value in wanted.items()}


def read(tree: object, source: str) -> Settings:
    """Read settings out of a YAML document; other sections than `offline` are not ours. Raises `Misconfigured`."""
    whole = tree if isinstance(tree, dict) else {}
    body = whole.get(SECTION)
    features = whole.get(FEATURES)
    declaration = features.get("declaration") if isinstance(features, dict) else None
    faults: list[str] = []
    body = _mapping(body, SECTION, faults)
    _known(body, (*_SECTIONS, "names"), SECTION, faults)
    parts = {name: _part(kind, _mapping(body.get(name), f"{SECTION}.{name}", faults), name, faults) for name, kind in _SECTIONS.items()}
    names = _mapping(body.get("names"), f"{SECTION}.names", faults)
    faults += [
        f"{SECTION}.names.{key}: is {value!r}: give a text" for key, value in names.items() if not isinstance(value, str) or not value
    ]
    made = parts["fit"]
    if not faults and made.k_min > made.k_max:
        faults.append(f"{SECTION}.fit.k_min: is {made.k_min}, above k_max ({made.k_max}): lower it")
    if faults:
        raise Misconfigured("\n".join(f"{source}: {fault}" for fault in faults))
    path = Path(declaration) if isinstance(declaration, str) else None
    return Settings(**parts, names={str(key): str(value) for key, value in names.items()}, declaration=path)


def _mapping(body: object, where: str, faults: list[str]) -> Mapping[str, Any]:
    if body is None:
        return {}
    if not isinstance(body, dict):
        faults.append(f"{where}: must be a mapping of keys to values")
        return {}
    return body


def _known(body: Mapping[str, Any], names: tuple[str, ...], where: str, faults: list[str]) -> None:
    for key in body:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            faults.append(f"{where}.{key}: unknown key{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(names)})")


def _part(kind: type, body: Mapping[str, Any], name: str, faults: list[str]) -> Any:  # noqa: ANN401  # one of the classes above
    settings = {one.name: one for one in fields(kind)}
    _known(body, tuple(settings), f"{SECTION}.{name}", faults)
    values = {}
    for key, one in settings.items():
        if key not in body:
            continue
        try:
            values[key] = one.metadata["read"](body[key])
        except ValueError as error:
            faults.append(f"{SECTION}.{name}.{key}: {error}")
    return kind(**values)
