"""Counts the words of a text."""

import re
from collections import Counter

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def handler(input, context):
    if not isinstance(input, str):
        raise TypeError("the input is a text: one JSON string")
    words = Counter(word.lower() for word in WORD.findall(input))
    print(f"{len(input)} characters, {words.total()} words")
    common = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return {
        "words": words.total(),
        "distinct": len(words),
        "longest": max(words, key=lambda word: (len(word), word), default=None),
        "common": dict(common[:10]),
    }
