"""Do any k of n people open, and no k-1? Is a wrong share told from a right one?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import StrongroomError, WrongKey, WrongRequest
from strongroom.library import init_repository, open_repository
from strongroom.repository import Argon2Cost
from strongroom.repository.key_renewal import SharedKey
from strongroom.repository.recovery_shares import MOST_SHARES, Share, join, split

sizes = st.integers(2, MOST_SHARES).flatmap(lambda shares: st.tuples(st.just(shares), st.integers(2, shares)))


def named(words: list[str]) -> list[Share]:
    return [Share(f"share {number}", text) for number, text in enumerate(words, 1)]


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), sizes, st.randoms())
def test_any_k_of_n_give_the_secret_and_k_minus_1_do_not(secret: bytes, size: tuple[int, int], random) -> None:
    shares, threshold = size
    number, words = split(secret, shares, threshold)
    assert len(set(words)) == shares
    chosen = named(words)
    random.shuffle(chosen)
    joined = join(chosen[:threshold])
    assert (joined.secret, joined.set) == (secret, number)
    assert join(chosen).secret == secret
    with pytest.raises(WrongKey, match=f"{threshold - 1} of the {threshold} shares"):
        join(chosen[: threshold - 1])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_mistyped_share_is_named(data) -> None:
    _, words = split(bytes(range(32)), 3, 2)
    _, others = split(bytes(32), 3, 2)
    place = data.draw(st.integers(0, 32))
    right, other = words[1].split(), data.draw(st.sampled_from([word for words in others for word in words.split()]))
    wrong = [*right[:place], other, *right[place + 1 :]]
    if wrong == right:
        return
    with pytest.raises(WrongKey, match="share 2") as refusal:
        join([Share("share 1", words[0]), Share("share 2", " ".join(wrong))])
    assert not any(word in str(refusal.value).split() for word in right if len(word) > 5 and word != "another")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 31))
def test_two_words_that_were_swapped_are_noticed(place: int) -> None:
    _, words = split(bytes(range(32)), 3, 2)
    right = words[0].split()
    if right[place] == right[place + 1]:
        return
    swapped = [*right[:place], right[place + 1], right[place], *right[place + 2 :]]
    with pytest.raises(WrongKey, match="share 1"):
        join([Share("share 1", " ".join(swapped)), Share("share 2", words[1])])


def test_what_is_wrong_with_shares_is_said() -> None:
    _, words = split(bytes(range(32)), 5, 3)
    _, others = split(bytes(range(32)), 5, 3)
    shares = named(words)
    for given_shares, message in (
        ([], "no recovery shares"),
        ([shares[0], shares[1], Share("stranger", others[2])], "stranger is a share of another set than share 1"),
        ([shares[0], Share("again", words[0]), shares[1]], "again holds the same share as share 1"),
        ([shares[0], Share("cut", " ".join(words[1].split()[:-1]))], "cut is no share: 32 words instead of 33"),
        ([shares[0], Share("empty", "")], "empty is no share: 0 words"),
        ([shares[0], Share("odd", "strongroom " + words[1])], "odd: word 1 is not in the list"),
    ):
        with pytest.raises(WrongKey, match=message):
            join(given_shares)
    for count, threshold in ((5, 1), (2, 3), (17, 2), (1, 1)):
        with pytest.raises(WrongRequest):
            split(bytes(32), count, threshold)


def test_shares_of_another_recovery_key_open_nothing(tmp_path) -> None:
    room = init_repository("memory://shares", password="first", cost=Argon2Cost(1, 1, 64))
    made, stranger = SharedKey.new(3, 2), SharedKey.new(3, 2)
    slot = room.add_key(made.secret, "recovery")
    assert slot.body["shares"] == 3
    assert made.words[0].split()[4] not in repr(made)
    assert slot.open(made.secret) == room.repository.keys.master
    assert slot.open(stranger.secret) is None
    for key, opens in ((made, True), (stranger, False)):
        files = [tmp_path / f"{opens}-{number}" for number in range(2)]
        for file, words in zip(files, key.words, strict=False):
            file.write_text(f"# a note\n{words}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STRONGROOM_RECOVERY_SHARES_FILES", ":".join(map(str, files)))
            if opens:
                assert open_repository("memory://shares").repository.identity.label == "recovery"
            else:
                with pytest.raises(StrongroomError, match="no key slot of memory://shares opens with these recovery shares"):
                    open_repository("memory://shares")
