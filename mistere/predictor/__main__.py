"""``python -m mistere.predictor BUNDLE``."""

import sys

from mistere.predictor.server import main

sys.exit(main())
