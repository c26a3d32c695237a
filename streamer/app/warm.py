"""Compiles what a worker needs, before it joins the group: one made-up event goes through a batch that touches no server.

The results are cached on disk, so only the first start on a machine takes its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import schemas
from streamer.adapters.avro import codec, wire
from streamer.app.batch import ACCEPT, Parts, fold_batch
from streamer.core.columns import Fetched
from streamer.core.erasure import NOBODY, hash_ids
from streamer.core.history import event_columns
from streamer.core.model import Decision, Scaling, assemble, features_as_of, votes
from streamer.core.partition import PartitionData, adopt_version, stack_judge, stack_sums
from streamer.core.ports import Packed
from streamer.core.profile import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.app.changes import ChangeWriter
    from streamer.app.intake import Intake
    from streamer.core.columns import I64, U8
    from streamer.core.declaration import Declaration

MADE_UP_MS = 1_700_000_000_000


def _nobody(partitions: Sequence[int], ids: Sequence[tuple[U8, I64]]) -> list[Packed]:
    """Find no profile."""
    return [Packed(*one, np.zeros(0, np.uint8), np.zeros(len(one[1]), np.int64)) for one in ids[: len(partitions)]]


def made_up() -> Fetched:
    """Make up one event, as it is fetched."""
    event = {
        "event_id": "e",
        "customer_id": "c",
        "event_type": "warm",
        "occurred_at": MADE_UP_MS,
        "amount": None,
        "currency": None,
        "quantity": None,
        "product_id": None,
        "category": None,
        "session_id": None,
        "properties": {},
    }
    value = wire.framed(codec.encode("behaviour_event", event), schemas.packaged_id("behaviour_event", schemas.latest("behaviour_event")))
    one = np.zeros(1, np.int64)
    return Fetched(one.astype(np.int32), one, one + MADE_UP_MS, value, np.array([0, len(value)]), np.zeros(1, np.bool_), (b"c",), {})


def warm_archiver(intake: Intake) -> None:
    """Run one event through decoding, validation and the taking apart of its fields."""
    fetched = made_up()
    taken, decoded = intake.read(fetched, np.zeros(1, np.int32))
    event_columns(intake.columns, decoded, taken.values, taken.record, fetched.partition, fetched.offset, fetched.timestamp)


def warm(declaration: Declaration, intake: Intake, changes: ChangeWriter) -> None:
    """Run one event through decoding, validation, fold, packing and the writing of its change; compile what the first fit needs."""
    f = len(declaration.features)
    nothing, ones = np.zeros(f), np.ones(f)
    scaling = Scaling(nothing, ones, nothing, ones, ones)
    made = {"created_at": 0, "as_of": 0, "quality": {}, "provenance": {}}
    version = assemble(declaration, "warm", scaling, np.zeros((2, f)), np.ones(2, np.int64), Decision(), made)
    data = [adopt_version(PartitionData(declaration.version), version, 0, 0, 0)]
    judge = stack_judge(data, {1: version}, declaration)
    taken = intake.take(made_up(), np.zeros(1, np.int32))
    parts = Parts((0,), judge, stack_sums(data, judge), np.zeros(1, np.int64), 0, (NOBODY,))
    folded = fold_batch(intake.plan, parts, taken, {}, _nobody)
    names, wanted = {1: "a", 2: "b"}, np.ones(folded.changed, np.bool_)
    changes.write(folded.changes, folded.changed, folded.customers, (0,), [names], {0: ()}, MADE_UP_MS, wanted)
    hash_ids(ACCEPT, folded.customers.ids, folded.customers.id_bounds)
    profiles = folded.profiles(0)
    work = unpack(intake.plan, profiles.values, profiles.bounds, np.zeros(1, np.int64))
    votes(version.transforms, scaling, features_as_of(intake.plan, work, MADE_UP_MS))
