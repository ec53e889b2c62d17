"""Text of another party is safe to show."""

import re

from hypothesis import given
from hypothesis import strategies as st

from verifier.conformance.redaction import MIN_PART_CHARACTERS, redact


def test_shown_text_is_one_line_without_what_is_private():
    text = 'a "quo\\"ted" b &quot;&lt;S&gt; eyJhbGciOiJub25lIn0.e30. ann@example.com\x1b[31m\n%26 \ud800 \U0001f600'
    shown = redact(text, personal=['quo"ted', '"<S>', "&", None, "\ud800"])
    assert shown == 'a "<withheld>" b <withheld> <token> <e-mail> <withheld> <withheld> \U0001f600'
    assert redact(text, ['quo"ted', '"<S>', "&", None, "\ud800"]) == shown

    assert redact("shown") == "shown"
    assert redact("\x1b[31m\x9b\u202e\ud800\tend\r\n") == r"\x1b[31m\x9b\u202e\ud800 end"


def test_a_short_personal_value_is_withheld_as_a_word_only():
    assert redact("application/json: token has expired", personal=["p"]) == "application/json: token has expired"
    assert redact('401 {"_id": "1", "n": 4, "at": 14, "id": "u_1"}', personal=["1", 4]) == (
        '401 {"_id": "<withheld>", "n": <withheld>, "at": 14, "id": "u_<withheld>"}'
    )
    long = "x" * MIN_PART_CHARACTERS
    assert redact(f"a{long}a a{long[1:]}a", personal=[long, long[1:]]) == f"a<withheld>a a{long[1:]}a"


def test_what_replaces_a_value_is_not_replaced_again():
    assert redact("<b>e</b> ann@example.com eyJhbGciOiJub25lIn0 k", ["k"], ["e", "mail", "token", "withheld"]) == (
        "<b><withheld></b> <e-mail> <token> <withheld>"
    )


def test_a_word_inside_a_token_or_an_e_mail_address_does_not_reveal_the_rest():
    text = "ann.1@example.com eyJhbGciOiJub25lIn0.1.abc-1"
    assert redact(text, personal=["1", "ann", "abc"]) == "<e-mail> <token>"


alphabet = st.sampled_from("ab1-._:=/,()")
values = st.text(alphabet, min_size=1, max_size=12)
# A word is bounded by what is not alphanumeric, so that one that begins or ends otherwise has no bound of its own.
words = values.filter(lambda value: value[0].isalnum() and value[-1].isalnum())
pieces = st.lists(st.one_of(values, st.sampled_from([" ", '"', "rejected with 401"])), max_size=6)


@given(pieces, st.lists(values, max_size=2), st.lists(words, max_size=3), st.randoms(use_true_random=False))
def test_no_secret_and_no_personal_word_is_shown_and_nothing_else_is_lost(pieces, secrets, personal, random):
    parts = [*pieces, *secrets, *personal]
    random.shuffle(parts)
    shown = re.sub("<withheld>|<token>|<e-mail>", "\0", redact("".join(parts), secrets, personal))
    for value in [*secrets, *(value for value in personal if len(value) >= MIN_PART_CHARACTERS)]:
        assert value not in shown
    for value in personal:
        assert re.search(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])", shown) is None


@given(pieces, st.lists(st.text(st.sampled_from("xyz"), min_size=1, max_size=5), max_size=3))
def test_text_without_a_private_word_is_shown_as_it_is(pieces, personal):
    text = "".join(pieces)
    assert redact(text, personal=personal) == " ".join(text.split())


@given(
    pieces, st.from_regex(r"eyJ[A-Za-z0-9_-]{8,20}\.[A-Za-z0-9_-]{1,20}", fullmatch=True), st.lists(values, max_size=2)
)
def test_no_token_and_no_e_mail_address_is_shown_whatever_is_private(pieces, token, personal):
    shown = redact(f"{''.join(pieces)} {token} ann.b@game.example", personal=[*personal, "ann", "b", "game"])
    assert shown.endswith((" <token> <e-mail>", "<token> <e-mail>"))
