"""How many tokens a text takes in a base model, from its tokenizers' files alone: no model library is imported.

The driver of a run asks before anything is learned, and a cached run must start in a second; `transformers` alone
takes that long to import. What is counted here is what its `CLIPTokenizer` makes of the same files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from faceid_core.errors import MissingWeights

_START, _END, _END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
# As in transformers' tokenization_clip.py, which builds CLIP's from vocabulary and merges whatever else a file says.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WHOLE, _PIECES = ("tokenizer.json",), ("vocab.json", "merges.txt")


class TokenCounter:
    """Counts the tokens of plain texts as one tokenizer of a base model cuts them.

    Args:
        folder: the tokenizer's: tokenizer.json, or vocab.json and merges.txt.

    Raises:
        MissingWeights: the files are not there, or are none of a CLIP tokenizer.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            vocabulary, merges = _vocabulary_and_merges(folder)
            model = BPE(
                vocab=vocabulary,
                merges=merges,
                continuing_subword_prefix="",
                end_of_word_suffix=_END_OF_WORD,
                unk_token=_END,
            )
        except MissingWeights:
            raise
        except Exception as error:  # the library raises plain Exceptions for what it cannot read
            raise MissingWeights(
                f"the files in {folder} are those of no CLIP tokenizer ({error}); fetch the base model's files again"
            ) from error
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._tokenizer.add_special_tokens([_START, _END])

    def count(self, text: str) -> int:
        """Tokens of a text, without start and end."""
        text = text.strip()
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids) if text else 0

    def count_exactly(self, text: str) -> int:
        """The same by the tokenizer that the model is used with, which takes seconds to import.

        It may know words that were added to the vocabulary, so now and then it counts fewer.
        """
        text = text.strip()
        return len(self._exact.encode(text, add_special_tokens=False).ids) if text else 0

    @cached_property
    def _exact(self) -> Tokenizer:
        from transformers import CLIPTokenizer

        # Asked itself, the library's own class warns of every text that is longer than a context.
        return CLIPTokenizer.from_pretrained(self._folder, local_files_only=True).backend_tokenizer


def require_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer's files.

    Raises:
        MissingWeights: neither form is there.
    """
    if not any(all((folder / name).is_file() for name in names) for names in (_WHOLE, _PIECES)):
        raise MissingWeights(f"no file tokenizer.json, nor vocab.json and merges.txt, in folder {folder}")


def _vocabulary_and_merges(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    require_tokenizer(folder)
    whole = folder / "tokenizer.json"
    if not whole.is_file():
        return BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    model: Mapping[str, Any] = json.loads(whole.read_text(encoding="utf-8"))["model"]
    merges = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    return model["vocab"], merges
