"""Strings → ids: sub-words, words, characters; words aligned with their pieces."""
