"""``python -m mistere.predictor BUNDLE``."""

import sys

from mistere.common.processes.threads import limit_spinning

limit_spinning()  # before anything imports PyTorch

from mistere.predictor.server import main  # noqa: E402

sys.exit(main())
