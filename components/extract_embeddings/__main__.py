"""``python -m components.extract_embeddings``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.extract_embeddings.run import STAGE

if __name__ == "__main__":
    main(STAGE)
