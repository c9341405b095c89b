"""``python -m components.finetune_encoder``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.finetune_encoder.run import STAGE

if __name__ == "__main__":
    main(STAGE)
