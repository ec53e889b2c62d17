"""The document RESULTS.md, of which each measurement replaces its own section."""

from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def write(name: str, text: str) -> None:
    """Put a section of RESULTS.md in its place between its markers, or at the end."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    begin, end = f"<!-- bench {name} -->\n", f"<!-- end of bench {name} -->\n"
    section = begin + text + end
    if begin in old:
        RESULTS.write_text(old[: old.index(begin)] + section + old[old.index(end) + len(end) :])
    else:
        RESULTS.write_text(f"{old}\n{section}")
