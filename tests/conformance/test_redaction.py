"""Text of another party is safe to show."""

from verifier.conformance.redaction import redact


def test_shown_text_is_one_line_without_what_is_private():
    text = 'a "quo\\"ted" b &quot;&lt;S&gt; eyJhbGciOiJub25lIn0.e30. ann@example.com\x1b[31m\n%26 \ud800 \U0001f600'
    shown = redact(text, ['quo"ted', '"<S>', "&", None, "\ud800"])
    assert shown == 'a "<withheld>" b <withheld> <token> <e-mail> <withheld> <withheld> \U0001f600'

    assert redact("shown") == "shown"
    assert redact("\x1b[31m\x9b\u202e\ud800\tend\r\n") == r"\x1b[31m\x9b\u202e\ud800 end"
