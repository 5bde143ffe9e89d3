"""The names of our sets, apart from their builders: a reader needs no more."""

NAMES = ("nsmc", "korsts", "klue_nli", "klue_ner", "korquad", "ewt_propbank")
