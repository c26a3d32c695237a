"""The real code with one rule left out: the bugs that the simulation must find. Steps are those of `streamer/app/protocol.py`.

Law: a bug leaves out exactly the rule that it names. Most are a line replaced; a few need more, and are functions of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from streamer.app import assignment, commits, decisions, journal, protocol, worker
from streamer.app.assignment import Owned
from streamer.app.commits import NO_PROFILES, commit_all
from streamer.app.decisions import NOTHING, Decisions
from streamer.app.leading import Leader
from streamer.app.models import ModelShelf
from streamer.app.publishing import ExactlyOnce, Publication
from streamer.app.rebuild import Settlement
from streamer.app.worker import Worker
from streamer.core.errors import Unavailable
from streamer.core.partition import DONE, PartitionData, adopt_version, pack_state
from streamer.core.ports import Commit, Committed, Outcome
from tests.fakes.broker import FakeEventLog, FakeMembership, FakeTopicReader
from tests.fakes.state_store import FakeStateStore
from tests.simulation.planting import Bug, edit, put
from tests.simulation.profiles import (
    ASKS,
    AT_LEAST_ONCE,
    ERASURES,
    EXPIRY,
    EXPIRY_SWEEPS,
    FORKS,
    FROZEN,
    LATE_RECORDS,
    LOSSES,
    MARKERS,
    MERGES,
    MERGES_EXPIRING,
    PROMOTED,
    QUIET,
    REBUILDS,
    REPLIES,
    STALLS,
    STARTS,
    STRAYS,
    THERE_AND_BACK,
    USUAL,
    ZOMBIES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.app.recording import Counted
    from streamer.core.ports import OutRecord, StateStore
    from tests.simulation.planting import Plant
    from tests.simulation.profiles import Profile

# Bugs that need more than a line

_again = Worker._again
_carry_out = Worker.carry_out
_settle = Worker._settle


def _drop_on_other(self: Worker, partition: int) -> None:
    """Drop the partition where another owner's token is met, instead of running its assignment anew."""
    owned = self._owned.get(partition)
    other = owned is not None and self._tools.store.owners([partition]) != [owned.token]
    _again(self, partition)
    if other:
        self._waiting.pop(partition, None)


def _drop_all(self: Worker) -> None:
    """As it is, since here no check has failed."""
    self._tools.publishing.give_up()
    for partition in list(self._owned):
        _again(self, partition)


class _ReplyLost(Unavailable):
    """A reply of Redis was lost, and nobody reads back."""


def _no_read_back(store: StateStore, clock: object, commits: Sequence[Commit]) -> list[Outcome]:  # noqa: ARG001  # stands in for another
    try:
        return store.commit(commits)
    except Unavailable as error:
        raise _ReplyLost(*error.args) from error


def _fold_again(
    self: Worker,
    commits: Sequence[tuple[Commit, PartitionData]],
    records: Sequence[OutRecord],
    counted: Mapping[int, Counted] | None = None,
) -> None:
    """Take a lost reply for a failure: go on from whatever commit id Redis has by now, and fold the batch again."""
    try:
        _carry_out(self, commits, records, counted or {})
    except _ReplyLost:
        for commit, _ in commits:
            if self._holds(commit):
                owned = self._owned[commit.partition]
                owned.commit_id = self._tools.store.read([commit.partition])[0].commit_id
                self._tools.log.start(commit.partition, owned.next_offset)
        self.restack()


def _kafka_first(
    self: Worker,
    commits: Sequence[tuple[Commit, PartitionData]],
    records: Sequence[OutRecord],
    counted: Mapping[int, Counted] | None = None,
) -> None:
    """Publish and commit to Kafka, and only then to Redis."""
    self._confirm()
    still = [commit for commit, _ in commits if self._holds(commit)]
    loud = [commit for commit in still if self._owned[commit.partition].until is None]
    publishing = self._tools.publishing
    publishing.send([Publication(c.partition, c.owner, c.outbox, Committed(c.next_offset, c.commit_id)) for c in loud])
    self._confirm()
    with patch.object(publishing, "send", lambda *_: None):
        _carry_out(self, commits, records, counted or {})


def _id_before_state(self: Worker, owned: Owned) -> None:
    """Take C's id in a call of its own, before the one that makes the state agree."""
    until, store = owned.until, self._tools.store
    if until is not None and owned.settlement is not None and owned.settlement.read and owned.commit_id != until.commit_id:
        body = pack_state(owned.data), b"", NO_PROFILES, NOTHING
        takes = Commit(owned.number, owned.token, owned.commit_id, until.commit_id, until.next_offset, *body)
        [outcome] = commit_all(store, self._tools.clock, [takes])
        if outcome is not Outcome.APPLIED:
            self._again(owned.number)
            return
        owned.commit_id = until.commit_id
    _settle(self, owned)


def _fetched(self: FakeEventLog) -> FakeMembership:
    """Tell the membership of now: the client's own thread joins the group again, whatever the application knows of it."""
    held = self.broker.groups[self._group]
    if self.member not in held.members:
        self._forget(sorted(self._mine), self._lost)
        self.broker.join(self._group, self.member, self._partitions)
    return FakeMembership(self._group, self.member, held.generation)


def _sums_kept(data: PartitionData, *how: Any) -> PartitionData:
    """Adopt a version and keep the votes for the one before, where both have as many segments."""
    adopted = adopt_version(data, *how)
    same = data.learned is not None and adopted.learned is not None and data.learned.total.shape == adopted.learned.total.shape
    return replace(adopted, learned=data.learned) if same else adopted


def _unswept(data: PartitionData, *how: Any) -> PartitionData:
    """Adopt a version, and judge only those who have events by it."""
    adopted = adopt_version(data, *how)
    return replace(adopted, cursor=DONE, settled=adopted.sweeping_to) if data.model else adopted


STALE_READ = put(FakeStateStore, "_must_be", lambda *_: None)
FETCHED = put(FakeEventLog, "membership", _fetched)
FORK_KEPT = edit(worker, "settle", ("agreed.taken_back or", "False or"))
UNTOLD_LET_GO = put(assignment, "_let_go", lambda *_: False)
NO_REREAD = edit(
    ExactlyOnce, "_finish", ("self._store.owners([publication.partition for publication in mine])", "[one.token for one in mine]")
)


def bug(name: str, rule: str, profile: Profile, seed: int, *plants: Plant) -> Bug:
    return Bug(name, rule, profile, seed, plants)


HANDS_BACK = """\
            except (MustAbort, Unavailable) as error:
                self._hand_back(error)
"""
PUBLISHES_AGAIN = """\
            except MustAbort as error:
                self._hand_back(error)
            except Unavailable:
                again, self._open = list(self._open.values()), {}
                self._transactions.abort(self._timeout_s)
                self.send(again)
"""
HOLDS_BACK = """\
                        self._tools.log.pause([number])  # what is held comes again once the rebuild is settled
                        held = select(held, np.flatnonzero(held.partition != number))
"""
SETTLES_AND_GOES_ON = """\
                        while number in self._owned and owned.until:
                            self._settle(owned)
"""

BUGS = (
    bug(
        "unstable_read",
        "C is read once it is stable (5)",
        MARKERS,
        20009,
        edit(
            FakeEventLog,
            "committed",
            ("[name for name, pending in held.pending.items() if not pending.keys().isdisjoint(partitions)]", "()"),
        ),
    ),
    bug(
        "offsets_only",
        "commits are told apart by id: a sweep moves no offset (6)",
        USUAL,
        60000,
        edit(
            assignment,
            "recover",
            ("redis.commit_id == kafka.commit_id:", "redis.next_offset == kafka.next_offset:"),
            (" and not exactly_once", ""),
        ),
    ),
    bug(
        "drop_on_other",
        "after a failed check the assignment is run anew; only the group takes a partition away (8a)",
        USUAL,
        80000,
        put(Worker, "_again", _drop_on_other),
        put(Worker, "_drop_all", _drop_all),
    ),
    bug(
        "no_idle_check",
        "an idle worker looks at Redis now and then (8e)",
        QUIET,
        1,
        edit(Worker, "_timers", ('due("idle", settings.idle_check_s)', "False")),
    ),
    bug(
        "letters_in_memory",
        "dead letters are in the outbox too (1)",
        USUAL,
        80000,
        edit(worker, "decide", ("also = refused + [", "also = [")),
    ),
    bug(
        "republish",
        "after a lost reply of the transaction's commit nothing is published again on a guess (8c)",
        REPLIES,
        60013,
        edit(
            ExactlyOnce,
            "finish",
            (HANDS_BACK, PUBLISHES_AGAIN),
        ),
    ),
    bug(
        "reapply_reloaded",
        "after a lost reply of Redis the commit id is read back (8b)",
        REPLIES,
        80000,
        put(worker, "commit_all", _no_read_back),
        put(Worker, "carry_out", _fold_again),
    ),
    bug(
        "no_id_check",
        "a Redis commit checks the commit id at which its batch began (1)",
        USUAL,
        0,
        edit(FakeStateStore, "_commit", ("held.commit_id != commit.expected", "False")),
    ),
    bug(
        "kafka_first, stale_read",
        "Redis first, then Kafka (1, 2)",
        ZOMBIES,
        60021,
        put(Worker, "carry_out", _kafka_first),
        STALE_READ,
    ),
    bug(
        "loud_rebuild",
        "a rebuild publishes nothing below C (7a)",
        USUAL,
        0,
        edit(assignment, "recover", ("return Recovery(base, until=kafka)", "return Recovery(base)")),
    ),
    bug(
        "trust_beyond_c",
        "a state beyond C's offset is not built upon (6c)",
        FROZEN,
        60058,
        edit(assignment, "recover", ("Base.STATE if redis.next_offset <= kafka.next_offset else Base.NOTHING", "Base.STATE")),
    ),
    bug(
        "beyond_batch",
        "a rebuild ends exactly at C's offset (7c)",
        USUAL,
        20011,
        edit(Owned, "limit", ("min(decision, NO_LIMIT if self.until is None else self.until.next_offset)", "decision")),
    ),
    bug(
        "id_first",
        "C's id is taken last (7a)",
        USUAL,
        40011,
        edit(
            worker,
            "decide",
            (
                "[owned.next_commit(tools.clock.token(), end) for owned, end in zip(partitions, next_offsets, strict=True)]",
                "[p.until.commit_id if p.until else p.next_commit(tools.clock.token(), end) for p, end in zip(partitions, next_offsets)]",
            ),
        ),
    ),
    bug(
        "settle_after_id",
        "taking C's id and agreeing with what was published is one call (7d)",
        REBUILDS,
        80605,
        put(Worker, "_settle", _id_before_state),
    ),
    bug(
        "state_wins",
        "what was published wins over what was found again (7d)",
        REBUILDS,
        40002,
        edit(Settlement, "agree", ("self._differing(met)", "()")),
    ),
    bug(
        "read_to_lso",
        "what was published is read to the high watermark, once no transaction is open (7d)",
        LATE_RECORDS,
        20019,
        edit(FakeTopicReader, "bounds", ("log.high", "log.stable")),
    ),
    bug("fetched", "the membership is that of the last poll, never fetched at commit time (2)", FROZEN, 40111, FETCHED),
    bug("no_reread, fetched", "the owners are read again before a transaction is committed (3)", STALLS, 40052, NO_REREAD, FETCHED),
    # The model's table ends here.
    bug("stale_read", "profiles are read as of the commit id at which the batch began (1)", THERE_AND_BACK, 40015, STALE_READ),
    bug(
        "reread_first, fetched",
        "the owners are read again after the positions were sent (3)",
        STALLS,
        100137,
        edit(
            ExactlyOnce,
            "_finish",
            (
                "        self._transactions.positions(_positions(mine), self._log.membership(), self._timeout_s)\n",
                "",
            ),
            (
                "        foreign = {",
                "        self._transactions.positions(_positions(mine), self._log.membership(), self._timeout_s)\n        foreign = {",
            ),
        ),
        FETCHED,
    ),
    bug(
        "token_last, fetched",
        "a new owner writes its token, then reads Kafka (5)",
        STALLS,
        40189,
        edit(
            worker,
            "take_over",
            ("    tools.store.claim(partition, token)\n", ""),
            ("    [state] =", "    tools.store.claim(partition, token)\n    [state] ="),
        ),
        FETCHED,
    ),
    bug(
        "early_outbox",
        "the next Redis commit waits until the transaction has committed (4)",
        USUAL,
        0,
        edit(Worker, "carry_out", ("        self._confirm()\n", "")),
    ),
    bug(
        "keeps_publication",
        "a transaction gives up the publication of a partition that is assigned anew (8a)",
        STARTS,
        20001,
        edit(ExactlyOnce, "withdraw", ("partition not in self._open", "True")),
    ),
    bug(
        "withdraws_all",
        "when one partition is withdrawn from a transaction, the others are published again (3)",
        ZOMBIES,
        400531,
        edit(ExactlyOnce, "withdraw", ("        self.send(others)\n", "")),
    ),
    bug(
        "publishes_nothing_left",
        "a commit that was not published is published by the next owner (6b)",
        USUAL,
        0,
        edit(assignment, "recover", ("return Recovery(Base.STATE, publishes=True)", "return Recovery(Base.STATE)")),
    ),
    bug(
        "not_restacked",
        "sums are laid out anew when some of the partitions folded into them did not commit",
        REPLIES,
        40255,
        edit(Worker, "carry_out", ("if not whole or self._sums is not folded_into:", "if False:")),
    ),
    bug(
        "held_twice",
        "records held back by the end of a rebuild come again, and are not gone on with as well (7c)",
        LOSSES,
        0,
        edit(
            Worker,
            "_through",
            (HOLDS_BACK, SETTLES_AND_GOES_ON),
        ),
    ),
    bug(
        "beyond_fold",
        "a commit's position is behind the last record that it folded, and no further (1)",
        USUAL,
        0,
        edit(worker, "decide", ("batch.fetched.offset + 1)", "batch.fetched.offset + 2)")),
    ),
    bug(
        "journal_not_followed",
        "a rebuild takes the journal's decisions (7b)",
        USUAL,
        1,
        edit(worker, "take_over", ("journal.script(entries, owned.data, owned.next_offset)", "deque()")),
    ),
    bug(
        "journal_followed_late",
        "a rebuild takes each of the journal's decisions at its offset (7b)",
        LOSSES,
        40056,
        edit(Owned, "limit", ("self.script[0].at_offset if self.script else NO_LIMIT", "NO_LIMIT")),
    ),
    bug(
        "keeps_version, fork_kept",
        "who goes back to what was told goes back to its version too (7d)",
        USUAL,
        40011,
        edit(
            Settlement,
            "agree",
            (
                "head[VERSION], head[SEGMENT], head[SINCE] = told",
                "_, head[SEGMENT], head[SINCE] = told",
            ),
        ),
        FORK_KEPT,
    ),
    bug(
        "fork_kept",
        "a state that knows more than was told is not mended, but rebuilt from nothing (7d)",
        FORKS,
        0,
        FORK_KEPT,
    ),
    bug(
        "untold_let_go",
        "a state that let customers go untold is not built upon (6c)",
        FORKS,
        485,
        UNTOLD_LET_GO,
    ),
    bug(
        "ticks_uncompared",
        "a state that ticked otherwise than the journal says is not built upon (6c)",
        FORKS,
        5,
        edit(journal, "leads_to", ("data.ticked == max((entry.as_of for entry in taken_ticks), default=NEVER)", "True")),
    ),
    bug(
        "unpublished_remembered",
        "a model version that may never be published is forgotten with partition 0",
        ZOMBIES,
        20002,
        edit(ModelShelf, "forget_unpublished", ("for version in self._unpublished:", "for version in ():")),
    ),
    bug(
        "cursor_of_another",
        "a walk begins anew where another process of Redis answers, whose cursors count otherwise",
        ASKS,
        140006,
        edit(FakeStateStore, "scan", ("start not in (0, self.server.hashing + 1)", "False")),
    ),
    bug(
        "strays_unsaid",
        "the commit that ends a rebuild says that there are strays (7e)",
        STRAYS,
        6,
        edit(Settlement, "agree", ("strays=bool(strays)", "strays=False")),
    ),
    bug(
        "strays_forgotten",
        "the state says that there are strays until the last of them is told of (7e)",
        STRAYS,
        6,
        edit(worker, "part", ("strays=bool(owned.strays)", "strays=False")),
    ),
    bug(
        "events_before_strays",
        "events wait until strays are told of (7e)",
        STRAYS,
        3,
        edit(Worker, "_settle", ("self._tools.log.pause([owned.number])", "self._tools.log.start(owned.number, owned.next_offset)")),
    ),
    bug(
        "ticks_untold",
        "a tick is in the journal (time)",
        USUAL,
        0,
        edit(
            Decisions,
            "tick",
            ("journal.tick_entry(ticked, owned.next_offset))", "journal.tick_entry(ticked, owned.next_offset), told=True)"),
        ),
    ),
    bug(
        "ticks_unfollowed",
        "a rebuild follows ticks (7b)",
        LOSSES,
        181068,
        edit(Decisions, "follow", ("tick(owned.data, entry.as_of, hourly=hourly(self._tools.intake.plan))", "owned.data")),
    ),
    bug(
        "no_sweep",
        "a boundary that is crossed begins a sweep (time)",
        USUAL,
        0,
        edit(PartitionData, "went_on", ("now.watermark // tile_ms > now.settled // tile_ms", "False")),
    ),
    bug(
        "unswept_epoch",
        "an epoch waits until everybody is judged as of the last boundary (time)",
        USUAL,
        0,
        edit(PartitionData, "swept", ("self.cursor == DONE", "self.cursor == DONE or self.settled != NEVER")),
    ),
    bug(
        "told_at_no_time",
        "who was told of more than the state knows goes on from when it was told (7d)",
        REBUILDS,
        180028,
        edit(Settlement, "agree", ("max(head[CLOCK], told.since)", "head[CLOCK]")),
    ),
    bug(
        "sums_mixed",
        "the sums of a new version begin at nothing (versions)",
        PROMOTED,
        0,
        put(decisions, "adopt_version", _sums_kept),
    ),
    bug(
        "reseed_unswept",
        "a new version's sweep judges everybody (versions)",
        PROMOTED,
        0,
        put(decisions, "adopt_version", _unswept),
    ),
    bug(
        "adopted_unswept",
        "nothing is adopted before everybody is judged by what was adopted last (versions)",
        PROMOTED,
        0,
        edit(
            Decisions,
            "heed",
            ("            if not data.swept:\n                continue", "            if False:\n                continue"),
        ),
    ),
    bug(
        "newest_in_force",
        "what is promoted last is in force, also if it is an older version (versions)",
        PROMOTED,
        7,
        edit(Decisions, "heed", ("said.model != data.model:", "said.model > data.model:")),
    ),
    bug(
        "numbered_anew",
        "epochs are numbered on from version to version (versions)",
        PROMOTED,
        0,
        edit(Leader, "_promoted", ("owned.data.adopted + 1", "0")),
    ),
    bug(
        "names_of_another",
        "a change tells the names of the version that judged (versions)",
        PROMOTED,
        0,
        edit(
            worker,
            "decide",
            (
                "[tools.shelf.names(owned.data.model) for owned in partitions]",
                "[tools.shelf.names(max(tools.shelf.known, default=0)) for _ in partitions]",
            ),
        ),
    ),
    bug(
        "outbox_names_erased",
        "another commit follows one whose outbox names who was erased (9)",
        ERASURES,
        6,
        edit(worker, "decide", ("bool(folded.erasures[i] or (refused and len(folded.erased[i]))) and owned.until is None", "False")),
    ),
    bug(
        "erased_forgotten",
        "a new owner knows who was erased (erasure)",
        ERASURES,
        3,
        edit(assignment, "_with_erased", ("replace(data, erased=erased)", "data")),
    ),
    bug(
        "erased_unkept",
        "who was erased is in the commit that erases (erasure)",
        ERASURES,
        0,
        edit(worker, "decide", ("erased = pack_erased(data.erased)", "erased = None")),
    ),
    bug(
        "redirects_forgotten",
        "a new owner knows whose events are sent on (merges)",
        MERGES,
        2,
        edit(assignment, "_with_redirects", ("replace(data, redirects=redirects)", "data")),
    ),
    bug(
        "redirects_unkept",
        "whose events are sent on is in the commit that merges (merges)",
        MERGES,
        2,
        edit(worker, "decide", ("redirects = data.redirects.pack()", "redirects = None")),
    ),
    bug(
        "sent_beside_outbox",
        "what a merge takes away is in the outbox of its commit (merges)",
        MERGES,
        2,
        edit(worker, "decide", ("outbox.pack(also, changes.packed)", "outbox.pack(refused, changes.packed)")),
    ),
    bug(
        "sent_in_rebuild",
        "a rebuild sends nothing on that was sent before (7a, merges)",
        MERGES,
        112,
        edit(worker, "decide", ("folded.sent and owned.until is None and settings.sends_on", "folded.sent and settings.sends_on")),
    ),
    bug(
        "sent_unjournaled",
        "the output of a partition tells of each commit that sends something on (6e, merges)",
        MERGES_EXPIRING,
        36,
        edit(commits, "_sent_on", ("return [*records, journal.record", "return records or [journal.record")),
    ),
    bug(
        "no_look_back",
        "without C the output is searched for the last commit (6e, 6f)",
        EXPIRY,
        20005,
        edit(assignment, "_look_back", ("looked_back(state, [found for found in read if found is not None]", "looked_back(state, []")),
    ),
    bug(
        "behind_output",
        "without C an R that the output is ahead of is rebuilt (6e)",
        EXPIRY,
        20028,
        edit(assignment, "recover", ("if told is None or _place(told) < _place(redis)", "if True")),
    ),
    bug(
        "unnumbered, untold_let_go",
        "of the commits at one offset that the output speaks of the latest is known by its number (6e)",
        EXPIRY_SWEEPS,
        60003,
        edit(protocol, "_place", (", number_of(commit.commit_id)", ", 0")),
        UNTOLD_LET_GO,
    ),
    bug(
        "sent_in_part",
        "without transactions an outbox may be there in part, and is sent again (6e)",
        AT_LEAST_ONCE,
        20050,
        edit(assignment, "recover", ("seen.outbox_told and exactly_once", "seen.outbox_told")),
    ),
    bug(
        "journal_unread",
        "without transactions whoever goes on from R takes the decisions that the journal holds beyond it",
        AT_LEAST_ONCE,
        20016,
        put(assignment, "_latest_entries", lambda *_: []),
    ),
)

BELT_AND_BRACES = (
    bug("kafka_first", "Redis first, then Kafka (1, 2)", ZOMBIES, 0, put(Worker, "carry_out", _kafka_first)),
    bug("no_reread", "the owners are read again before a transaction is committed (3)", STALLS, 0, NO_REREAD),
    bug(
        "no_owner_check",
        "a Redis commit checks the owner (1)",
        FROZEN,
        0,
        edit(FakeStateStore, "_commit", ("held.owner != commit.owner", "False")),
    ),
    bug(
        "no_previous",
        "the outbox of an R whose previous commit is C is published, instead of rebuilding it (6b)",
        REPLIES,
        0,
        edit(assignment, "recover", ("redis.previous_commit_id == kafka.commit_id or ", "")),
    ),
    bug(
        "sweeps_in_rebuild",
        "a rebuild leaves the last adoption's sweep for afterwards (7b)",
        REBUILDS,
        0,
        edit(Owned, "sweeping", ("self.until is None and ", "")),
    ),
)
"""Rules that may be left out alone and nobody sees it: another one catches it, or it only saves work."""
