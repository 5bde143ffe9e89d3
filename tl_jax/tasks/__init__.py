"""Tasks: one file a family, with its featurisation, loss, decoding and scores."""
