"""Indexes: how a query finds images, on one machine or many.

| index | where the vectors are | search | ranks |
|---|---|---|---|
| `ExactIndex` | in memory, memory-mapped, or on a GPU | exact | exact |
| `ShardedIndex` | on the ranks of a process group | exact | exact |
| `FaissIndex` | in Faiss (flat, IVF, HNSW, PQ) | the engine's | counted exactly, or unknown |
| `MilvusIndex` | in Milvus, embedded or a cluster | the engine's | known down to `depth` |
| `ScoreIndex` | none: the agent scores every image | exact | exact |
"""

from retrieval.indexes.opening import INDEXES, open_index

__all__ = ["INDEXES", "open_index"]
