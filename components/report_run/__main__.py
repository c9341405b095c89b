"""``python -m components.report_run``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.report_run.run import STAGE

if __name__ == "__main__":
    main(STAGE)
