"""Errors, named by who must act.

Law: an error that a person can mend is one of these, and its message names the thing at fault and the remedy. Anything else that is raised
is a fault of this program.
"""

from __future__ import annotations


class StreamerError(Exception):
    """An error whose message is all that its reader needs; never raised itself."""


class BadInput(StreamerError):  # noqa: N818  # named by who must act, as all errors here
    """Who made the data must act: a file or record is not what it should be."""


class Misconfigured(StreamerError):  # noqa: N818
    """Who configured this must act: a setting of ours or of a server is wrong or missing."""


class Unavailable(StreamerError):  # noqa: N818
    """The server's operator must act: it did not answer within its bound, and whether it did what was asked is unknown."""


class LostOwnership(StreamerError):  # noqa: N818
    """Nobody must act: another worker owns what this one was about to write, and this one must begin anew."""


class Corrupt(StreamerError):  # noqa: N818
    """An operator must act: stored state is not what this program writes."""
