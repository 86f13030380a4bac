"""Harm done to a real server under verified load; `tools/chaos` is its command.

Knows: nothing of its own; it names what others may call.
Does not know: the inside of prefork. It speaks to a server as anybody does: sockets, signals, commands.
"""
