"""How is a recovery key shared among several people, so that some of them together open the repository? SLIP-39 words.

A share is 33 words of a list of 1,024. They hold a checksum, which set they are of and how many are needed; fewer than that many
shares say nothing of the secret (Shamir's scheme over GF(256)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import WrongKey, WrongRequest

SECRET_BYTES = 32
MOST_SHARES = 16


@dataclass(frozen=True, slots=True)
class Share:
    """The words of one share, and where they were read, which is shown."""

    origin: str
    words: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Joined:
    """The secret of a set of shares. `set` tells sets apart (0 to 32767)."""

    secret: bytes = field(repr=False)
    set: int


def split(secret: bytes, shares: int, threshold: int) -> tuple[int, list[str]]:
    """Words for so many people, of whom `threshold` are needed, and the number of their set. Raises WrongRequest."""
    if not 2 <= threshold <= shares <= MOST_SHARES:
        raise WrongRequest(
            f"{threshold} of {shares} shares can't be made",
            hint=f"2 <= threshold <= shares <= {MOST_SHARES}; what one person can open alone is a key file or a password",
        )
    library = _library()
    (words,) = library.generate_mnemonics(1, [(threshold, shares)], secret, iteration_exponent=0)
    return library.Share.from_mnemonic(words[0]).identifier, list(words)


def join(shares: Sequence[Share]) -> Joined:
    """The secret. Raises WrongKey, and says which share is wrong or how many are missing."""
    library = _library()
    if not shares:
        raise WrongKey("no recovery shares were given", hint="name the files of the shares")
    known: dict[int, Share] = {}
    sets: set[int] = set()
    needed = 0
    for share in shares:
        read = _read(library, share)
        if sets and read.identifier not in sets:
            raise WrongKey(
                f"{share.origin} is a share of another set than {shares[0].origin}", hint="use the shares of one set together"
            )
        if read.index in known and known[read.index].origin != share.origin:
            raise WrongKey(f"{share.origin} holds the same share as {known[read.index].origin}", hint="use each person's own share")
        known[read.index] = share
        sets.add(read.identifier)
        needed = read.member_threshold
    if len(known) < needed:
        raise WrongKey(
            f"{len(known)} of the {needed} shares that are needed were given", hint=f"{needed - len(known)} more of this set"
        )
    try:
        secret = library.combine_mnemonics([share.words for share in list(known.values())[:needed]])
    except library.MnemonicError as error:
        hint = "try other shares of the set: one of these was altered on purpose, or two sets have the same number"
        raise WrongKey("these shares don't belong together", hint=hint) from error
    return Joined(secret, sets.pop())


def _read(library: Any, share: Share) -> Any:
    words = share.words.lower().split()
    odd = [number for number, word in enumerate(words, 1) if word not in library.wordlist.WORDLIST]
    if odd:  # the word itself isn't shown: it may be right but for a letter
        raise WrongKey(f"{share.origin}: word {odd[0]} is not in the list of words", hint="compare it with what was written down")
    try:
        read = library.Share.from_mnemonic(" ".join(words))
    except (library.MnemonicError, ValueError) as error:
        problem = f"{len(words)} words instead of 33" if len(words) != 33 else "a word is mistyped, or two are swapped"
        raise WrongKey(f"{share.origin} is no share: {problem}", hint="compare it with what was written down") from error
    if read.group_count != 1 or len(read.value) != SECRET_BYTES:
        raise WrongKey(f"{share.origin} is a share of something else", hint="use shares of 'strongroom key recovery'")
    return read


def _library() -> Any:
    try:
        import shamir_mnemonic
    except ImportError as error:
        raise WrongRequest("shamir-mnemonic is not installed", hint="pip install 'strongroom[recovery]'") from error
    return shamir_mnemonic
