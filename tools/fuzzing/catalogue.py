"""All targets by their names.

Knows: which modules have targets. Does not know: what they attack.
"""

from __future__ import annotations

from pathlib import Path

from tools.fuzzing.frames import build_frame_targets
from tools.fuzzing.packets import build_packet_targets
from tools.fuzzing.records import build_record_targets
from tools.fuzzing.target import Target
from tools.fuzzing.texts import build_text_targets


def build_targets(folder: Path) -> dict[str, Target]:
    """Return the targets; files of theirs are in a folder, which its caller removes."""
    found = (
        *build_text_targets(folder),
        *build_frame_targets(),
        *build_packet_targets(),
        *build_record_targets(),
    )
    return {target.name: target for target in found}
