"""Copies the photographs of tests/data/photographs.csv out of clones of their repositories, for `prepare --labels`.

    python -m tests.helpers.public_photographs CLONES FOLDER

CLONES holds one clone of each repository as owner+name or name (bare ones, too). No picture belongs to this project.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

LABELS = Path(__file__).parents[1] / "data" / "photographs.csv"


def copy(clones: Path, folder: Path) -> int:
    """Write each photograph whose clone is here as NUMBER.ENDING; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with LABELS.open(encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            owner, name = row["repository"].split("/")
            places = [clones / f"{owner}+{name}" / "repo", clones / f"{owner}+{name}", clones / name]
            clone = next((place for place in places if place.is_dir()), None)
            if clone is None:
                print(f"no clone of {row['repository']} in {clones}", file=sys.stderr)
                continue
            shown = ["git", "-C", str(clone), "show", f"{row['commit']}:{row['path']}"]
            data = subprocess.run(shown, check=True, capture_output=True).stdout
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise ValueError(f"{row['repository']} {row['path']} is not the labeled file")
            (folder / f"{number:03d}{Path(row['path']).suffix.lower()}").write_bytes(data)
            count += 1
    return count


if __name__ == "__main__":
    print(f"{copy(Path(sys.argv[1]), Path(sys.argv[2]))} photographs")
