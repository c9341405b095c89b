"""The page "What we tried to break" states what the tests try, with their counts."""

from __future__ import annotations

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from tests.hostile.faults import NAMES
from tests.hostile.json_requests import ALL, QUICK, place_counts
from tests.hostile.test_bombs import DOCUMENT_COUNTS
from tests.hostile.test_bundles import BUNDLES
from tests.hostile.test_damage import DAMAGE, DAMAGED
from tests.hostile.test_encoder_folders import ENCODER_FAULTS
from tests.hostile.test_full_disk import WRITERS
from tests.hostile.test_names import ENTRANCES
from tests.hostile.test_parquet_bombs import PARQUET_BOMBS, PARQUET_ENTRANCES, READS_ALL

PAGE = PROJECT_ROOT / "docs" / "operations" / "what-we-tried-to-break.md"


def rows() -> dict[str, list[str]]:
    """The rows of each table of the page, by its marker."""
    names = [f"| {entrance} | {len(NAMES)} | {int(error.exit_code)} |" for entrance, (_, error) in ENTRANCES.items()]
    documents = [f"| {entrance} | {count} |" for entrance, count in DOCUMENT_COUNTS.items()]
    files = [
        f"| {entrance} | {len(PARQUET_BOMBS) - (0 if everything else len(READS_ALL))} |"
        for entrance, (_, _, everything) in PARQUET_ENTRANCES.items()
    ]
    folders = [f"| {fault} | {int(UsageError.exit_code)} |" for fault in ENCODER_FAULTS]
    damage = [f"| {what} | {len(DAMAGE)} | {outcome} |" for what, (_, outcome) in DAMAGED.items()]
    bundles = [f"| {fault} |" for fault in BUNDLES]
    disks = [f"| {writer} |" for writer in WRITERS]
    requests = [f"| {kind} | {places} |" for kind, places in place_counts().items()]
    return {
        "requests": requests,
        "names": names,
        "documents": documents,
        "parquet": files,
        "encoders": folders,
        "disks": disks,
        "damage": damage,
        "bundles": bundles,
    }


def test_page_has_the_tables_of_the_tests() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{QUICK} requests in `make test`, {ALL} in `make test-all`" in text
    for marker, expected in rows().items():
        table = text.split(f"<!-- {marker} -->\n")[1].split("\n\n")[0].splitlines()
        assert table[2:] == expected, f"write this table below <!-- {marker} -->:\n" + "\n".join(expected)
