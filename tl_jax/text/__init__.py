"""Strings → ids: WordPiece, and whole words for word vectors."""
