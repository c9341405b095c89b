"""``python -m components.deploy_model``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.deploy_model.run import STAGE

if __name__ == "__main__":
    main(STAGE)
