"""Small English for product tables: one and many, articles, words for colours and wearers."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


COLOR_WORDS = word_set(
    """
    amber aqua azure beige black blue bronze brown burgundy camel charcoal copper coral
    cream crimson cyan emerald fuchsia gold golden gray green grey indigo ivory khaki
    lavender lilac lime magenta maroon mauve metallic mint multi multicolor multicolour
    mustard navy nude olive orange peach pink plum purple red rose rust sand scarlet silver
    steel tan taupe teal turquoise vermilion violet white wine yellow
    """
)
WEARERS = word_set(
    """
    adult adults autumn babies baby boy boys child children dog dogs everyone fall female
    girl girls her him home infant kids ladies lady male man men mens office outdoors pets
    school spring summer teen teens toddler toddlers unisex winter woman women womens
    """
)
"""Whom or what something is for: people and seasons."""
_PAIRS = word_set(
    """
    accessories boots boxers briefs clogs clothes earrings flats flops glasses gloves heels
    jeans leggings loafers pajamas pants pumps pyjamas sandals shoes shorts slippers
    sneakers socks sunglasses tights tracks trainers trousers trunks wedges
    """
)
_STUFF = ("wear", "apparel", "luggage", "jewelry", "jewellery", "clothing", "furniture", "bedding")


def singular(word: str) -> str:
    """One of a plural noun, near enough for telling words apart.

    Example:
        >>> [singular(word) for word in ("shirts", "watches", "accessories", "dress", "canvas")]
        ['shirt', 'watch', 'accessory', 'dress', 'canvas']
    """
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "canvas")) and len(word) > 3:
        return word[:-1]
    return word


def as_noun(phrase: str) -> str:
    """A value of a column of kinds as a noun phrase: one of it, unless it comes in pairs.

    Example:
        >>> [as_noun(phrase) for phrase in ("shirts", "casual shoes", "topwear", "umbrella")]
        ['a shirt', 'casual shoes', 'topwear', 'an umbrella']
    """
    *before, last = phrase.split()
    if last in _PAIRS or last.endswith(_STUFF):
        return phrase
    one = " ".join([*before, singular(last)])
    return ("an " if one[0] in "aeiou" else "a ") + one


def stem(word: str) -> str:
    """What is left of a describing word without its ending: "check", "checks" and "checked" agree.

    Example:
        >>> [stem(word) for word in ("checks", "checked", "stripes", "striped", "slim", "red")]
        ['check', 'check', 'strip', 'strip', 'slim', 'red']
    """
    one = singular(word)
    for ending in ("ing", "ed", "e"):
        if one.endswith(ending) and len(one) - len(ending) >= 3:
            return one.removesuffix(ending)
    return one
