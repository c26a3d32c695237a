"""What can go wrong with servers, named by who must act.

- `ServersMissing`: nothing given, no container engine, nothing to embed: the user installs or gives servers.
- `ServerFailed`: a server was there but did not start, answer or stop: read the log tail in the message.
- `JarRefused`: a jar is not the one that the lock file names: never run it.
- `JarUnavailable`: a jar could not be fetched: mend the network or the Maven settings.
"""

from __future__ import annotations


class ServersError(Exception):
    """The base of every error that this package raises."""


class ServersMissing(ServersError):  # noqa: N818 - named by what is so, as the others are
    """No servers are given, no container engine answers and none can be embedded."""


class ServerFailed(ServersError):  # noqa: N818
    """A server did not start, did not answer in time, or ended by itself."""


class JarRefused(ServersError):  # noqa: N818
    """A jar's SHA-256 differs from the lock file's."""


class JarUnavailable(ServersError):  # noqa: N818
    """A jar is neither cached nor to be had from a Maven repository."""
