"""The files in conf/: which of them are prefork's own, and which are for those who start it.

Knows: the folder. Does not know: what a test does with a file.
"""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
OF_OTHERS = ("compose.yaml", "kubernetes.yaml")  # Docker's and Kubernetes'; test_deployment.py is about them
EXAMPLES = sorted(path for path in CONF.glob("*.yaml") if path.name not in OF_OTHERS)
