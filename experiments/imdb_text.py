"""Raw text to pre-train on: the 25,000 IMDb reviews that a wheel carries.

Writes a review a document: a paragraph a line, a blank line between documents, as
`tl-jax pretrain` reads it. Labels are left out, and a review that stands there twice is
written once: 24,902 of them, 5.8 million words.

Command:   python experiments/imdb_text.py imdb.txt
Cost:      5 seconds, after fetching 13 MB once
"""

import csv
import re
from pathlib import Path

import tyro

from tl_jax.data.rotten_tomatoes import reviews_file
from tl_jax.files.atomic import write_text

_BREAKS = re.compile(r"(?:<br\s*/?>\s*)+")


def main(out: tyro.conf.Positional[Path]) -> str:
    """Returns what was written.

    Args:
      out: The text file.
    """
    with reviews_file().open(encoding="utf-8", newline="") as stream:
        rows = [
            row["text"] for row in csv.DictReader(stream) if row["source"] == "imdb"
        ]
    reviews = dict.fromkeys(_BREAKS.sub("\n", row).strip() for row in rows)
    write_text(out, "\n\n".join(reviews) + "\n")
    return f"{len(reviews):,} reviews in {out}"


if __name__ == "__main__":
    print(tyro.cli(main, description=__doc__))
