"""The data card of a dataset: Croissant metadata, which catalogues and loaders of datasets read.

Croissant 1.0 is JSON-LD on schema.org's vocabulary (https://docs.mlcommons.org/croissant/docs/croissant-spec.html). A card names the
files with their digests, the columns with their types, and the labels. It holds no row of the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.digests.files import digest_once
from mistere.common.errors import DataError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import REQUIRED_COLUMNS, load_info, shards_of
from mistere.data.kinds import kind_of

if TYPE_CHECKING:
    from mistere.artifacts.manifests import UtteranceSet

CARD: Final = "croissant.json"
_PARQUET: Final = "application/x-parquet"
_CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
_CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_COLUMNS: Final[Mapping[str, tuple[str, str]]] = {
    "dialogue_id": ("sc:Text", "Name of the dialogue."),
    "turn": ("sc:Integer", "Place of the utterance in its dialogue, counted from 0."),
    "label": ("sc:Text", "Emotion of the utterance; empty for a turn that is context only."),
    "role": ("sc:Text", "Role of the utterance's speaker."),
    "language": ("sc:Text", "Language of the utterance, where it is not the dataset's."),
}
"""Type and meaning of the columns of text and numbers. ``speaker`` is left out: a card names no person."""
_OF_KIND: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("sc:Text", "Transcript."),
    "audio": ("sc:AudioObject", "Recording, an encoded file."),
    "frames": ("sc:ImageObject", "Images, each an encoded file."),
    "vector": ("sc:Float", "Features, a list of numbers."),
}


@dataclass(frozen=True)
class CardFile:
    """A shard: its name, its size in bytes, and its MD5, as DVC knows it."""

    name: str
    size: int
    md5: str


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a dataset.

    Attributes:
        columns: the columns of the shards.
        kinds: the kind of each modality, by name.
        version: digest of the dataset's version; empty for a folder that is not tracked.
        source: where the dataset comes from, as ``dataset.yaml`` says.
    """

    name: str
    description: str
    labels: Sequence[str]
    language: str
    licence: str
    columns: Sequence[str]
    kinds: Mapping[str, str]
    files: Sequence[CardFile]
    synthetic: bool = False
    version: str = ""
    source: str = ""

    @classmethod
    def of_reference(cls, data: UtteranceSet) -> CardFacts:
        """Of the version of a dataset that a run used."""
        kinds = {name: data.kinds[name] for name in data.modalities}
        return cls(
            name=data.name,
            description=data.description,
            labels=data.labels,
            language=data.language,
            licence=data.licence,
            columns=[*REQUIRED_COLUMNS, *(kind_of(kind).column(name) for name, kind in kinds.items())],
            kinds=kinds,
            files=[CardFile(shard.name, shard.size, shard.md5) for shard in data.shards],
            synthetic=data.synthetic,
            version=data.dvc_digest,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> CardFacts:
        """Of a dataset in a folder. Its shards are digested; no row is read.

        Raises:
            UsageError: the folder is not a dataset.
            DataError: ``dataset.yaml`` or a shard cannot be read.
        """
        info = load_info(folder / "dataset.yaml")
        shards = [path for split in SPLITS for path in shards_of(folder.iterdir(), split)]
        columns: dict[str, None] = {}
        for path in shards:
            columns |= dict.fromkeys(_column_names(path))
        return cls(
            name=info.name,
            description=info.description,
            labels=info.labels,
            language=info.language,
            licence=info.licence,
            columns=list(columns),
            kinds={name: kind for name, kind in info.kinds.items() if kind_of(kind).column(name) in columns},
            files=[CardFile(path.name, path.stat().st_size, digest_once(path, "md5")) for path in shards],
            synthetic=info.synthetic,
            source=info.source,
        )


def data_card(facts: CardFacts) -> dict[str, Any]:
    """The card as JSON-LD. It depends on the facts alone, so the same dataset has the same card."""
    splits = [split for split in SPLITS if any(file.name.startswith(f"{split}-") for file in facts.files)]
    card: dict[str, Any] = {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": facts.name,
        "description": facts.description,
        "inLanguage": facts.language,
        "license": facts.licence,
        "keywords": ["emotion recognition in conversations", *facts.kinds],
        "rai:dataCollection": "Generated by a program." if facts.synthetic else "Collected; see the description.",
        "distribution": [*_file_objects(facts.files), *(_file_set(split) for split in splits)],
        "recordSet": [_labels(facts.labels), *(_records(split, facts) for split in splits)],
    }
    if facts.version:
        card["version"] = facts.version
    if facts.source:
        card["isBasedOn"] = facts.source
    return card


def write_data_card(facts: CardFacts, folder: Path) -> None:
    """Write the card as ``croissant.json`` into a folder."""
    path = folder / CARD
    partial = path.with_name(f".{CARD}.tmp")
    partial.write_text(json.dumps(data_card(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _file_objects(files: Sequence[CardFile]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "contentUrl": file.name,
            "contentSize": f"{file.size} B",
            "encodingFormat": _PARQUET,
            "md5": file.md5,
        }
        for file in files
    ]


def _file_set(split: Split) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "description": f"The shards of the split {split}, whose order is that of their names.",
        "encodingFormat": _PARQUET,
        "includes": f"{split}-*.parquet",
    }


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "labels",
        "name": "labels",
        "description": "The emotions.",
        "dataType": "sc:Enumeration",
        "key": {"@id": "labels/name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": "labels/name",
                "name": "name",
                "description": "The emotion.",
                "dataType": "sc:Text",
            }
        ],
        "data": [{"labels/name": label} for label in labels],
    }


def _records(split: Split, facts: CardFacts) -> dict[str, Any]:
    modalities = {kind_of(kind).column(name): kind for name, kind in facts.kinds.items()}
    fields = []
    for column in facts.columns:
        if column in modalities:
            fields.append(_modality_field(split, column, modalities[column]))
        elif column in _COLUMNS:
            fields.append(_field(split, column, *_COLUMNS[column]))
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The utterances of the split {split}, dialogue by dialogue.",
        "key": [{"@id": f"{split}/dialogue_id"}, {"@id": f"{split}/turn"}],
        "field": fields,
    }


def _field(split: Split, column: str, data_type: str, meaning: str) -> dict[str, Any]:
    references = {"references": {"field": {"@id": "labels/name"}}} if column == "label" else {}
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{column}",
        "name": column,
        "description": meaning,
        "dataType": data_type,
        "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}},
        **references,
    }


def _modality_field(split: Split, column: str, kind: str) -> dict[str, Any]:
    data_type, meaning = _OF_KIND.get(kind, ("sc:Text", f"A value of the kind {kind}."))
    described = _field(split, column, data_type, meaning)
    if kind == "audio":  # the Hugging Face ``Audio`` struct
        described["source"]["transform"] = {"jsonPath": "bytes"}
    if kind in {"frames", "vector"}:
        described["repeated"] = True
    return described


def _column_names(shard: Path) -> list[str]:
    try:
        with open_parquet(shard) as file:
            return list(file.schema_arrow.names)
    except ParseError as error:
        raise DataError(
            f"{shard.name} is not readable parquet: fetch it again, or import the dataset again."
        ) from error
