"""The token profile: what is accepted, what is refused, and with which words."""


def test_an_accepted_token_gives_its_player(issue, verify):
    from verifier.tokens import Player

    assert verify(issue()) == Player("42", "ann@example.com", "ann")
