"""The errors of prefork: one tree, so that a caller can catch as much or as little as it means.

Messages read "cannot <verb> <thing>: <cause>"; causes are chained.

Knows: names. Does not know: who raises them.
"""

from __future__ import annotations


class PreforkError(Exception):
    """Root of every error that prefork raises on purpose."""


class ConfigError(PreforkError):
    """The configuration, or the app that it names, cannot be used.

    Attributes:
        problems: one message per mistake, each `file:line:column: what; cure`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ListenError(PreforkError):
    """An address cannot be listened on."""


class BootError(PreforkError):
    """A server, a mold or a worker cannot start."""


class ChannelError(PreforkError):
    """A message between processes cannot be sent, read or understood."""


class ProtocolError(PreforkError):
    """The rules of a protocol or of an API were broken."""


class LocalProtocolError(ProtocolError):
    """Our own user broke a rule: a bug in the handler."""


class CommandError(LocalProtocolError):
    """An operator's command is written wrongly; nothing was done."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule or a limit."""


class FrameLimitError(RemoteProtocolError):
    """A frame of the peer's is larger than `limits.frame`."""
