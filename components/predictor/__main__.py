"""``python -m components.predictor BUNDLE``."""

import sys

from components.predictor.server import main

sys.exit(main())
