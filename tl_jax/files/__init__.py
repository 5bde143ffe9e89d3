"""Files: errors, hashes, atomic writes, locks and where weights come from."""
