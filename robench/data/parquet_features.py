"""Which columns of parquet files hold images and labels, and what labels are called, by Hugging Face's features or the types of columns.

Only footers are read here, and a README.md beside the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import json_value

LABEL_COLUMNS = ("label", "labels", "target", "class", "cls", "y")  # looked for where no feature says which column it is
README_BYTES = 2**22  # of a README.md whose head is read


@dataclass(frozen=True)
class ParquetColumns:
    """The columns that are used, and the names of the classes where the set says them.

    Attributes:
        image: a binary column, or a struct with the binary field `bytes`.
        label: whole numbers, or text.
        classes: the names in the order of the labels; () where nothing says them.
        has_paths: whether the struct of the images has a field `path` of text.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    has_paths: bool


def parquet_columns(schema: Any, readme: Path, config: str, options: Mapping[str, str], name: str) -> ParquetColumns:
    """The columns of a set.

    Args:
        schema: pyarrow's schema of one of its files.
        readme: a README.md, which need not exist; the head of a data card names the classes where the files do not.
        config: the configuration, "" where there is one alone.
        options: the user's; `image` and `label` are looked at.
        name: what sentences call the set.

    Raises:
        InputError: where no column, or more than one, could be meant.
    """
    features = schema_features(schema) or card_features(readme, config, name)
    image = image_column(schema, features, options.get("image"), name)
    label = label_column(schema, features, options.get("label"), image, name)
    kind = schema.field(image).type
    children = {kind.field(k).name: str(kind.field(k).type) for k in range(kind.num_fields)}
    return ParquetColumns(image, label, class_label_names(features.get(label)), children.get("path") in ("string", "large_string"))


def column_words(schema: Any) -> str:
    """The columns with their types, in a few words."""
    words = [f"{field.name} ({str(field.type)[:40]})" for field in schema]
    return ", ".join([*words[:8], *(["..."] if len(words) > 8 else [])]) or "no columns"


def holds_image_bytes(kind: Any) -> bool:
    """Whether a column of this type can hold encoded images."""
    binary = ("binary", "large_binary", "binary_view")
    return str(kind) in binary or any(kind.field(k).name == "bytes" and str(kind.field(k).type) in binary for k in range(kind.num_fields))


def image_column(schema: Any, features: Mapping[str, Any], asked: str | None, name: str) -> str:
    """The column of the images: that which is asked for, the one of the feature Image, the one of a fitting type."""
    there = [str(field.name) for field in schema if holds_image_bytes(field.type)]
    if asked is not None:
        if asked not in there:
            raise InputError(f"{name} has no column {asked!r} with the bytes of images: it has {column_words(schema)}")
        return asked
    featured = [column for column in there if feature_type(features.get(column)) == "Image"]
    structs = [column for column in there if schema.field(column).type.num_fields]
    found = featured or structs or there
    if len(found) != 1:
        what = f"{len(found)} columns of images, {', '.join(found)}: add ,image=COLUMN to its name" if found else "no column of images"
        raise InputError(f"{name} has {what}" + ("" if found else f": it has {column_words(schema)}"))
    return found[0]


def label_column(schema: Any, features: Mapping[str, Any], asked: str | None, image: str, name: str) -> str:
    """The column of the labels: that which is asked for, `label` or the only one of the feature ClassLabel, the one that is called so."""
    names = [str(field.name) for field in schema if field.name != image]
    if asked is not None:
        if asked not in names:
            raise InputError(f"{name} has no column {asked!r} for labels: it has {column_words(schema)}")
        return asked
    featured = [column for column in names if feature_type(features.get(column)) == "ClassLabel"]
    called = [column for column in names if column.casefold() in LABEL_COLUMNS]
    found = featured if len(featured) == 1 else called if len(called) == 1 else featured or called
    if len(found) != 1:
        what = f"{len(found)} columns that could be the label, {', '.join(found)}" if found else "no column of labels"
        raise InputError(f"{name} has {what}: add ,label=COLUMN to its name; it has {column_words(schema)}")
    return found[0]


def feature_type(feature: object) -> str:
    """The kind of a feature, as "Image" or "ClassLabel"; "" for none."""
    return str(feature.get("_type", "")) if isinstance(feature, Mapping) else ""


def schema_features(schema: Any) -> dict[str, Any]:
    """The features that Hugging Face's datasets writes into the metadata of a file; {} where there are none that can be read."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        value = json_value(text)
        features = value["info"]["features"]
    except (ValueError, KeyError, TypeError):  # written by others, and no reason to refuse the images
        return {}
    return features if isinstance(features, dict) else {}


def card_features(readme: Path, config: str, name: str) -> dict[str, Any]:
    """The features that the head of a README.md says under `dataset_info`, in the form of `schema_features`; {} where it says none."""
    if not readme.is_file() or readme.stat().st_size > README_BYTES or b"dataset_info" not in readme.read_bytes():
        return {}
    try:
        from huggingface_hub.repocard import metadata_load
    except ImportError:
        raise InputError(f"{name}: its README.md is read by huggingface_hub, which is not installed: pip install huggingface_hub") from None
    try:
        card = metadata_load(readme)
    except Exception as error:  # YAML has exceptions of its own for each mistake
        raise InputError(
            f"{name}: the head of its README.md is no YAML ({' '.join(str(error).split())[:200]}): repair or remove it"
        ) from error
    infos = (card or {}).get("dataset_info")
    several = [info for info in (infos if isinstance(infos, list) else [infos]) if isinstance(info, dict)]
    mine = [info for info in several if info.get("config_name", config) == config] or several[:1] * (len(several) == 1)
    listed = mine[0].get("features") if mine else None
    found = [each for each in (listed if isinstance(listed, list) else []) if isinstance(each, dict) and isinstance(each.get("name"), str)]
    return {each["name"]: card_feature(each.get("dtype")) for each in found}


def card_feature(dtype: object) -> dict[str, Any]:
    """A feature of a data card, in the form in which files hold it."""
    if dtype == "image":
        return {"_type": "Image"}
    label = dtype.get("class_label") if isinstance(dtype, dict) else None
    return {"_type": "ClassLabel", **label} if isinstance(label, dict) else {}


def class_label_names(feature: object) -> tuple[str, ...]:
    """The names of a ClassLabel, which are a list, or a map from "0", "1", ... in data cards; () where it says none."""
    names: Any = feature.get("names") if isinstance(feature, Mapping) and feature_type(feature) == "ClassLabel" else None
    if isinstance(names, Mapping):
        numbered = {str(key): value for key, value in names.items()}
        names = [numbered.get(str(k)) for k in range(len(numbered))]
    return tuple(names) if is_list_of_text(names) else ()


def is_list_of_text(names: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)


def refuse_other_columns(schemas: Iterable[tuple[str, Any]], columns: ParquetColumns, name: str) -> None:
    """InputError where a file of the set has other columns of images and labels than the first.

    Args:
        schemas: the name and the schema of each file.
        columns: those that are used.
        name: what sentences call the set.
    """
    first: list[Any] | None = None
    for file, schema in schemas:
        if any(column not in schema.names for column in (columns.image, columns.label)):
            raise InputError(f"{name}: {file} has no {columns.image} or no {columns.label}: it has {column_words(schema)}")
        types = [schema.field(column).type for column in (columns.image, columns.label)]
        first = first or types
        if types != first:
            raise InputError(f"{name}: in {file} the columns have other types than in the first file: it has {column_words(schema)}")
