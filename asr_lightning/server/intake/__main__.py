"""``python -m asr_lightning.server.intake JOB_DIR [--check_only]``: exits with 0 whenever intake.json was written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr_lightning.job_folder.worker import hold_locks
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.run import CancelledError, run

CANCELLED = 3


def main() -> int:
    """Run the intake of one job."""
    hold_locks()
    parser = argparse.ArgumentParser(prog="python -m asr_lightning.server.intake", description=__doc__)
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--check_only", action="store_true", help="inspect the archive, and leave no data set")
    arguments = parser.parse_args()
    try:
        verdict = run(arguments.job_dir, IntakeLimits(), arguments.check_only)
    except CancelledError:
        sys.stderr.write("intake: cancelled\n")
        return CANCELLED
    result = f"refused: {verdict.error}" if verdict.error else f"{verdict.utterances} clips, {verdict.seconds:.1f} s"
    sys.stderr.write(f"intake: {result}; {len(verdict.issues)} issues\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
