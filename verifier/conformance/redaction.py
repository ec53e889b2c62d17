"""Text of another party, made safe to show: without private values, on one line, control characters escaped."""

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote


def redact(text: str, private: Iterable[object] = ()) -> str:
    """Remove these values, tokens and e-mail addresses from third-party text, and escape what is not printable.

    A value is also found as it is written in JSON, HTML and URLs.
    """
    values = {str(value) for value in private if value}
    forms = {
        form for v in values for form in (v, json.dumps(v)[1:-1], html.escape(v), quote(v, safe="", errors="replace"))
    }
    if forms:
        text = re.sub("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), "<withheld>", text)
    text = re.sub(r"eyJ[\w.-]{8,}", "<token>", text)
    text = re.sub(r"""[^\s"'<>:;,()]{1,64}@[^\s"'<>:;,()]{1,255}""", "<e-mail>", text)
    return escape(" ".join(text.split()))


def escape(text: str) -> str:
    """Escape what a terminal could interpret: control and format characters, and unpaired surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
