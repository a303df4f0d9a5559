"""How a query finds images: the index protocol, and the indexes that need no other package.

The others are imported from where they live: `retrieval.indexes.faiss`, `.milvus`, `.sharded`.
"""

from retrieval.indexes.base import Found, Index, Ties
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.given import ScoreIndex
from retrieval.indexes.selection import top_k

__all__ = ["ExactIndex", "Found", "Index", "ScoreIndex", "Ties", "top_k"]
