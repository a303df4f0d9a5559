"""What `train_composer` and `evaluate_composer` share: which data, and how it is read."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from retrieval.datasets.base import ComposedSplit
    from retrieval.models import RetrievalModel
    from retrieval.reports import Report

BUILT_IN = {"css3d": "3d", "css2d": "2d"}
"""Data sets that this project makes itself, and how they look."""


@dataclass(frozen=True)
class DataArgs:
    """Which data set, and how to read it. Options that a data set does not have are refused."""

    dataset: str = "css3d"
    """css3d, css2d, mitstates, fashion200k, fashionIQ, cirr, shoes, youmakeup or catalog."""
    dataset_path: Path | None = None
    """Its folder; without one, css3d and css2d are the built-in data, made when missing."""
    image_size: int | None = None
    """Height and width of the pictures; by default the reader's own (224, CSS: as they are)."""
    skip_missing: bool = False
    """Leave out missing and unreadable pictures and count them, which changes denominators."""
    query_look: str | None = None
    """css3d and css2d: how references look, `2d` or `3d`, if not as the gallery."""
    use_complete_text_query: bool = False
    """fashion200k, mitstates: the target's whole caption as text, a much easier task."""
    category_to_train: str = "all"
    """fashionIQ: dress, shirt, toptee or all."""
    joining: str | None = None
    """fashionIQ: how two captions become one: composeAE, comqueryformer, start_kit, clip4cir."""
    picture_fit: str | None = None
    """`crop` (short side scaled, centre cut out) or `squash` (scaled to a square)."""
    id_column: str | None = None
    """catalog: the column of ids or file names; found by itself when not given."""
    attributes: str | None = None
    """catalog: the attribute columns, with commas between; found by themselves when not given."""
    title: str | None = None
    """catalog: the column of titles."""
    table: str | None = None
    """catalog: the table's file name, where the folder has several."""
    captions: str | None = None
    """catalog: `relative` (the very target is the hit) or `replace` ("replace X with Y")."""
    features: str | None = None
    """catalog, youmakeup: whose extracted features a model with `--image_encoder features`
    reads."""
    mod_data_path: Path | None = None
    """youmakeup: a folder with mod_data.json, whose modifications are the queries; by default
    they are drawn from the annotations."""


OPTIONS = {
    "image_size": "size", "skip_missing": "skip_missing", "query_look": "query_look",
    "use_complete_text_query": "complete_text", "category_to_train": "category",
    "joining": "joining", "picture_fit": "fit", "id_column": "id_column",
    "attributes": "attributes", "title": "title", "table": "table", "captions": "captions",
    "features": "encoder", "mod_data_path": "mod_data",
}  # fmt: skip
"""Flags and what readers call them."""


def load_split(args: DataArgs, split: str) -> ComposedSplit:
    """A split of the data set that the flags name, with the options it has.

    Raises:
        ValueError: an unknown data set, an option it does not have, or no folder given.
        FileNotFoundError: the folder or something in it is missing.
    """
    from retrieval.datasets import COMPOSED
    from retrieval.errors import unknown

    if args.dataset not in COMPOSED:
        raise unknown("dataset", args.dataset, COMPOSED)
    reader = COMPOSED[args.dataset]
    known = inspect.signature(reader).parameters
    options: dict[str, Any] = {}
    for flag, value in given_options(args).items():
        if OPTIONS[flag] not in known:
            raise ValueError(f"{args.dataset} has no --{flag}; leave it out")
        options[OPTIONS[flag]] = value
    found = reader(folder_of(args), split, **options)
    for reason, count in found.skipped.items():
        print(f"left out of {args.dataset} {split}: {count} {reason}", file=sys.stderr)
    return found


def given_options(args: DataArgs) -> dict[str, Any]:
    """The flags that say something else than their default."""
    defaults = {field.name: field.default for field in fields(DataArgs)}
    return {flag: getattr(args, flag) for flag in OPTIONS if getattr(args, flag) != defaults[flag]}


def folder_of(args: DataArgs) -> Path:
    """The data set's folder; the built-in data is made when it is missing.

    Raises:
        ValueError: no folder for a data set that is not built in.
        FileNotFoundError: there is no such folder.
    """
    if args.dataset_path is not None:
        if not args.dataset_path.is_dir():
            raise FileNotFoundError(f"no folder {args.dataset_path}; check --dataset_path")
        return args.dataset_path
    if args.dataset not in BUILT_IN:
        raise ValueError(f"{args.dataset} is not built in; give its folder as --dataset_path")
    from retrieval.preparation import SCENE, default_root, prepare_apart

    prepare_apart(default_root(), BUILT_IN[args.dataset], SCENE)
    return default_root()


def tested_split(dataset: str) -> str:
    """The split that published figures are on."""
    from retrieval.evaluation import EVALUATED_SPLIT

    return EVALUATED_SPLIT.get("fashion_iq" if dataset == "fashionIQ" else dataset, "test")


def report_on(model: RetrievalModel, split: ComposedSplit, protocol: str | None = None) -> Report:
    """A model's figures on a split, under the data set's own protocol unless one is named."""
    from retrieval.evaluation import evaluate
    from retrieval.inference import encode_gallery, encode_queries

    return evaluate(split, encode_queries(model, split), encode_gallery(model, split), protocol)


def plain_arguments(args: Any) -> dict[str, Any]:
    """A command's arguments as JSON and checkpoints hold them: paths as text."""
    return {
        field.name: str(value) if isinstance(value, Path) else value
        for field in fields(args)
        for value in [getattr(args, field.name)]
    }


def arguments_from(command: type, plain: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command that `plain_arguments` wrote, without those it does not have."""
    hints = get_type_hints(command)
    return {
        field.name: Path(value) if value is not None and _is_path(hints[field.name]) else value
        for field in fields(command)
        if field.name in plain
        for value in [plain[field.name]]
    }


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)
