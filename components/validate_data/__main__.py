"""``python -m components.validate_data``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.validate_data.run import STAGE

if __name__ == "__main__":
    main(STAGE)
