"""Builds the CLIP-style tokenizer of the miniature world: every word of its captions is one token."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from faceid_core.miniature.captions import (
    ATTRIBUTE_PHRASES,
    CLOTHES_PHRASES,
    OBJECT_PHRASES,
    OPENINGS,
    SCENE_PHRASES,
)
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.miniature_training.dataset import ANONYMOUS_SUBJECTS
from faceid_core.miniature_training.pipeline_folder import PIPELINE

CONTEXT_LENGTH = 32
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"
# Words of prompts about people that no training picture shows: whole tokens without a learned meaning.
_PROMPT_WORDS = (
    "an and or in on at of the to with without near under front behind is are sitting standing walking playing "
    "driving reading drinking eating looking running riding painting sketch drawing portrait picture image photo "
    "boy girl child people face head eyes hair mouth old young long short straight curly purple pink green blue "
    "red yellow black white brown blonde orange grey cap baseball sunglasses earrings scarf dress suit jacket "
    "sweater shirt coat hoodie chair garage sunset tower backdrop mountain river lake street house garden park "
    "kitchen office library moon space water fire car bicycle motorbike dog cat horse ball cup coffee wine phone "
    "angry sad happy surprised crying laughing style oil watercolor cartoon pointillism"
)


def caption_words() -> list[str]:
    """Every word of the captions, sorted."""
    texts = [
        *SCENE_PHRASES.values(),
        *ATTRIBUTE_PHRASES.values(),
        *OBJECT_PHRASES.values(),
        *CLOTHES_PHRASES.values(),
    ]
    texts += [opening.format("") for group in OPENINGS.values() for opening in group]
    texts += [subject for group in ANONYMOUS_SUBJECTS.values() for subject in group]
    texts += [name_of(seed) for seed in NAMED_SEEDS]
    return sorted({word for text in texts for word in text.replace("-", " ").split()})


def build_tokenizer(folder: Path = PIPELINE / "tokenizer") -> CLIPTokenizer:
    """Train the byte-pair encoding until each word is one token, and write the tokenizer's files.

    Words outside the vocabulary are still split into known pieces, down to characters.
    """
    words = sorted({*caption_words(), *_PROMPT_WORDS.split()})
    learner = Tokenizer(BPE(end_of_word_suffix=_END_OF_WORD))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    # Without a limit on the vocabulary, merging continues until each word is one token.
    trainer = BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=_END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator([*words, ", . ! ? : ; ' \" - ( ) * / & # _"], trainer)
    path = folder.parent / ".bpe"
    path.mkdir(parents=True, exist_ok=True)
    vocab_file, merges_file = (Path(name) for name in learner.model.save(str(path)))
    merges = [
        tuple(line.split())
        for line in merges_file.read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    for file in (vocab_file, merges_file):
        file.unlink()
    path.rmdir()
    # CLIP's order: bytes, bytes that end a word, merges, then the two special tokens.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(letter + _END_OF_WORD for letter in alphabet),
        *(a + b for a, b in merges),
        _BOS,
        _EOS,
    ]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    # Pairs, which the tokenizer takes although its annotation says lines.
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # ty: ignore[invalid-argument-type]
        model_max_length=CONTEXT_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    split = [word for word in words if len(tokenizer.tokenize(word)) != 1]
    if split:
        raise AssertionError(f"the tokenizer splits words of the captions: {split[:5]}")
    print(f"tokenizer: {len(vocab)} tokens, {len(words)} whole words, written to {folder}")
    return tokenizer
