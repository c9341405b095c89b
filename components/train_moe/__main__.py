"""``python -m components.train_moe``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.train_moe.run import STAGE

if __name__ == "__main__":
    main(STAGE)
