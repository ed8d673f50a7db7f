"""BERT's tokeniser, uncased: clean, lower-case, split at spaces and punctuation, then the longest known pieces."""

import unicodedata
from collections.abc import Iterator, Sequence

_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_LONGEST_WORD = 100


class WordPiece:
    """Text to token ids (Devlin et al., NAACL 2019; Wu et al., 2016).

    Args:
        vocabulary: One piece a line; its position is its id. Pieces inside a word start with "##".
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: index for index, piece in enumerate(vocabulary)}

    def encode(self, text: str, length: int) -> list[int]:
        """Ids with [CLS] in front and [SEP] behind, cut to ``length``."""
        ids = [i for word in _words(text) for i in self._pieces(word)]
        return [self._ids["[CLS]"], *ids[: length - 2], self._ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        unknown = [self._ids["[UNK]"]]
        if len(word) > _LONGEST_WORD:
            return unknown
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return unknown
            ids.append(self._ids[prefix + word[start:end]])
            start = end
        return ids


def _words(text: str) -> Iterator[str]:
    """Words and single punctuation marks, lower-case, without accents."""
    decomposed = unicodedata.normalize("NFD", "".join(_cleaned(text)))
    plain = "".join(c for c in decomposed if unicodedata.category(c) != "Mn").lower()
    for chunk in plain.split():
        word = ""
        for character in chunk:
            if _is_punctuation(character):
                if word:
                    yield word
                yield character
                word = ""
            else:
                word += character
        if word:
            yield word


def _cleaned(text: str) -> Iterator[str]:
    for character in text:
        if character in "\t\n\r" or unicodedata.category(character) == "Zs":
            yield " "
        elif ord(character) in (0, 0xFFFD) or unicodedata.category(character).startswith("C"):
            continue
        elif any(low <= ord(character) <= high for low, high in _CJK):
            yield f" {character} "
        else:
            yield character


def _is_punctuation(character: str) -> bool:
    """Unicode punctuation, and all ASCII that is neither letter, digit nor space."""
    ascii_mark = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return ascii_mark or unicodedata.category(character).startswith("P")
