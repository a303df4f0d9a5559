"""Putting a video's images in order from its step captions (YouMakeup VQA 2020).

questions   what is asked: pictures out of order, captions, candidate orders
similarity  how well captions lead from one picture to another, under a trained composer
search      the published greedy chain, and exact search over all orders
choice      from an order of one's own to a candidate: the Levenshtein ratio
pairwise    which of two pictures is later: gives the chain its first picture
answer      the registry `METHODS`, answers and their accuracy
"""

from retrieval.ordering.answer import METHODS, Evidence, Method, accuracy, answer
from retrieval.ordering.choice import choose, ratio
from retrieval.ordering.pairwise import (
    PAIRWISE_RECIPES,
    PairwiseModel,
    PairwiseTraining,
    first_of,
    fit_pairwise,
    load_pairwise,
    pairwise_score,
)
from retrieval.ordering.questions import (
    Order,
    Question,
    as_published,
    other_orders,
    pictures_of,
    read_questions,
)
from retrieval.ordering.search import (
    exact_search,
    greedy_chain,
    greedy_from_every_start,
    score_order,
)
from retrieval.ordering.similarity import Similarities

__all__ = [
    "METHODS",
    "PAIRWISE_RECIPES",
    "Evidence",
    "Method",
    "Order",
    "PairwiseModel",
    "PairwiseTraining",
    "Question",
    "Similarities",
    "accuracy",
    "answer",
    "as_published",
    "choose",
    "exact_search",
    "first_of",
    "fit_pairwise",
    "greedy_chain",
    "greedy_from_every_start",
    "load_pairwise",
    "other_orders",
    "pairwise_score",
    "pictures_of",
    "ratio",
    "read_questions",
    "score_order",
]
