"""Entry point of ``python -m mistere.predictor.shadow PARENT BUNDLE …``: a shadow on the machine of the predictor in front.

It ends with the process that started it, with ``--shadow-idle`` takes only the processor time that nothing else uses, and does not log
each copy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from mistere.common.processes.parent_death import die_with_parent
from mistere.predictor.server import main

if __name__ == "__main__":
    die_with_parent()
    if sys.argv[1] != str(os.getppid()):  # the parent ended before the line above
        sys.exit(1)
    if "--shadow-idle" in sys.argv:
        with contextlib.suppress(AttributeError, OSError):  # another system, or not allowed
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    logging.getLogger("kserve.predictor").setLevel(logging.WARNING)
    sys.exit(main(sys.argv[2:]))
