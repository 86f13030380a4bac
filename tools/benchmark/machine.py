"""The line that says on what the figures were got.

Knows: where the model of the CPU, the kernel and the versions of packages are told.
Does not know: the figures.
"""

from __future__ import annotations

import platform
import ssl
from importlib import metadata
from pathlib import Path

from tools.benchmark.accounting import has_schedstat
from tools.benchmark.load import OPENSSL
from tools.benchmark.workshop import Workshop

PACKAGES = ("uvloop", "gevent")


def parse_cpu_model(text: str) -> str:
    """Return the model of the first CPU of a /proc/cpuinfo, else a word for the architecture."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def generators(shop: Workshop) -> str:
    """Return in which language the load is sent."""
    if shop.compiler is None:
        return "load generator in Python: no C compiler"
    if not shop.has_header(OPENSSL):
        return f"load generator in C, for TLS in Python: no {OPENSSL}"
    return "load generator in C"


def describe(shop: Workshop) -> dict[str, str]:
    """Return what the machine is, by names that a reader understands."""
    pinned = f"server on CPU {shop.server_cpu}, load on CPU {shop.load_cpu}"
    return {
        "cpu": parse_cpu_model(Path("/proc/cpuinfo").read_text()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{package: version(package) for package in PACKAGES},
        "tls": ssl.OPENSSL_VERSION,
        "load": generators(shop),
        "pinning": pinned if shop.has_own_cpu else "one CPU only: server and load share it",
        "account": "CPU by schedstat" if has_schedstat() else "CPU by utime + stime: the kernel has no schedstat",
    }


def machine_line(facts: dict[str, str]) -> str:
    """Return the facts in one line."""
    return " · ".join(f"{key} {value}" if key in PACKAGES else value for key, value in facts.items())
