"""``python -m components.embed_shard``: run this stage alone on artifacts of a store."""

from components.core.stage_command import main
from components.embed_shard.run import STAGE

if __name__ == "__main__":
    main(STAGE)
