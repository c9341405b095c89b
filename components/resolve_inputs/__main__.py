"""``python -m components.resolve_inputs``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.resolve_inputs.run import STAGE

if __name__ == "__main__":
    main(STAGE)
