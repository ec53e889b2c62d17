"""Text of another party, made safe to show: without private values, on one line, control characters escaped."""

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MIN_PART_CHARACTERS = 6  # a shorter value is only withheld as a whole word: 1 and ann are parts of others
_WORD = r"(?<![^\W_])(?:{})(?![^\W_])"


def redact(text: str, secrets: Iterable[object] = (), personal: Iterable[object] = ()) -> str:
    """Remove these values, tokens and e-mail addresses from third-party text, and escape what is not printable.

    A value is also found as it is written in JSON, HTML and URLs.
    """
    values = {str(value) for value in personal if value}
    short = {value for value in values if len(value) < MIN_PART_CHARACTERS}
    text = _withhold(text, {str(value) for value in secrets if value})
    text = _withhold(text, values - short)
    text = re.sub(r"eyJ[\w.-]{8,}", "<token>", text)
    text = re.sub(r"""[^\s"'<>:;,()]{1,64}@[^\s"'<>:;,()]{1,255}""", "<e-mail>", text)
    # Last, because a word can be a part of a token or an e-mail address.
    return escape(" ".join(_withhold(text, short, _WORD).split()))


def _withhold(text: str, values: Iterable[str], pattern: str = "{}") -> str:
    forms = {
        form for v in values for form in (v, json.dumps(v)[1:-1], html.escape(v), quote(v, safe="", errors="replace"))
    }
    if not forms:
        return text
    found = pattern.format("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    return re.sub(f"(<withheld>|<token>|<e-mail>)|{found}", lambda match: match[1] or "<withheld>", text)


def escape(text: str) -> str:
    """Escape what a terminal could interpret: control and format characters, and unpaired surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
