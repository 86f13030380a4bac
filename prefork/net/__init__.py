"""The bytes' wing: sockets, loop, connections. Never forks, never signals."""
