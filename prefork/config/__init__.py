"""The config room: what can be configured, and how it is read, checked, compared and shown.

Knows: the model, YAML, files, precedence. Does not know: sockets, processes, what the app does.
"""

from __future__ import annotations

from prefork.config.difference import describe_changes
from prefork.config.effective import describe_effective
from prefork.config.limits import Limits
from prefork.config.model import (
    Admin,
    Config,
    Framing,
    ListenerConfig,
    LogConfig,
    ProxyProtocol,
    Recycle,
    ReloadConfig,
    Socket,
    Timeouts,
    Tls,
)
from prefork.config.reader import Loaded, read_config
from prefork.config.reference import reference_yaml
from prefork.config.schema import json_schema

__all__ = [
    "read_config",
    "Loaded",
    "Config",
    "ListenerConfig",
    "Framing",
    "Limits",
    "Socket",
    "Tls",
    "ProxyProtocol",
    "Timeouts",
    "ReloadConfig",
    "Recycle",
    "LogConfig",
    "Admin",
    "describe_changes",
    "describe_effective",
    "json_schema",
    "reference_yaml",
]
