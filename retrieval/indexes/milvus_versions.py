"""Versions of a gallery's vectors in Milvus: written beside the old ones, and then switched to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

IMAGE, EMBEDDING = "image", "embedding"
BYTES_AT_ONCE = 8 * 2**20  # of one message; gRPC's limit is 64 MB


def publish(
    uri: str,
    name: str,
    embeddings: np.ndarray,
    index_type: str = "FLAT",
    index_params: dict[str, Any] | None = None,
    keep: int = 1,
    token: str = "",
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write a new version of a gallery's vectors beside the old one, and then switch to it.

    A version is a collection of its own, `name_v1`, `name_v2`, ...; the alias `name` moves to it
    in one step once all rows are there, counted, indexed and loaded. So nobody ever reads half,
    and a writer that stops on the way changes nothing; what it left is removed by the next one.
    One writer at a time.

    Args:
        uri, token: see `MilvusIndex`.
        name: letters, digits and "_".
        embeddings: (N, D); an image's id is its row.
        index_type: "FLAT" (exact), or an approximate index of Milvus: it needs `index_params`.
        keep: older versions that stay, for readers that hold on to them.
        progress: told the number of rows written so far.

    Returns:
        The new version's collection.

    Raises:
        ValueError: a name or vectors that Milvus does not take, or rows that did not arrive.
        ImportError, OSError: see `MilvusIndex`.
    """
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"expected a name of letters, digits and '_', got {name!r}")
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"expected embeddings (N, D), got an array {embeddings.shape}")
    client = connect(uri, token)
    try:
        with told():
            current = current_version(client, name)
            version = f"{name}_v{_number(current) + 1}"
            for leftover in versions(client, name):
                if _number(leftover) > _number(current):
                    client.drop_collection(leftover)
            _create(client, version, embeddings.shape[1], index_type, index_params)
            _insert(client, version, embeddings, progress)
            client.load_collection(version)
            if current is None:
                client.create_alias(version, name)
            else:
                client.alter_alias(version, name)
            for old in versions(client, name)[: -1 - keep]:
                client.drop_collection(old)
    finally:
        client.close()
    return version


def connect(uri: str, token: str = "") -> Any:
    """A client of Milvus.

    Raises:
        ImportError: pymilvus, or for a file Milvus Lite, is not installed.
        OSError: no connection.
    """
    try:
        if "://" not in uri:
            import milvus_lite  # noqa: F401  the engine of a file
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ImportError(
            "Milvus needs its client: pip install 'dialog-retrieval[milvus]'"
        ) from error
    if "://" not in uri and not uri.endswith(".db"):
        raise ValueError(f"expected a file ending in .db or an address http://..., got {uri!r}")
    with told():
        return MilvusClient(uri, token=token)


def versions(client: Any, name: str) -> list[str]:
    """The collections that hold a gallery's versions, oldest first."""
    found = [each for each in client.list_collections() if re.fullmatch(f"{name}_v[0-9]+", each)]
    return sorted(found, key=_number)


def current_version(client: Any, name: str) -> str | None:
    """The collection that the alias stands for."""
    for version in versions(client, name):
        if name in client.list_aliases(version)["aliases"]:
            return version
    return None


def _number(version: str | None) -> int:
    return int(version.rpartition("_v")[2]) if version else 0


def _create(
    client: Any, version: str, dim: int, index_type: str, index_params: dict[str, Any] | None
) -> None:
    """An empty collection of images with vectors, searched by inner product."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(IMAGE, DataType.INT64, is_primary=True)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dim)
    index = client.prepare_index_params()
    index.add_index(
        EMBEDDING, index_type=index_type, metric_type="IP", params=dict(index_params or {})
    )
    client.create_collection(version, schema=schema, index_params=index, consistency_level="Strong")


def _insert(
    client: Any, version: str, embeddings: np.ndarray, progress: Callable[[int], None] | None
) -> None:
    """Write all rows, and count them.

    Raises:
        ValueError: some did not arrive, or are not finite.
    """
    step = rows_at_once(embeddings.shape[1])
    for start in range(0, len(embeddings), step):
        vectors = np.asarray(embeddings[start : start + step], np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError("the embeddings are not finite; look for NaN or infinity in them")
        rows = [{IMAGE: image, EMBEDDING: row} for image, row in enumerate(vectors, start)]
        client.insert(version, rows)
        if progress:
            progress(start + len(rows))
    client.flush(version)
    arrived = int(client.get_collection_stats(version)["row_count"])
    if arrived != len(embeddings):
        raise ValueError(f"{arrived} of {len(embeddings)} rows arrived in {version}; try again")


def rows_at_once(dim: int) -> int:
    """Vectors in one message."""
    return max(1, BYTES_AT_ONCE // (4 * max(1, dim)))


@contextmanager
def told() -> Iterator[None]:
    """Milvus's errors as those that commands tell in a sentence."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise OSError(f"Milvus says: {error.message}") from error
