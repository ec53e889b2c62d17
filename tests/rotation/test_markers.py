"""What is a conflict marker."""

import pytest

from verifier.rotation.markers import has_conflict_markers, is_marker

MARKERS = [b"<<<<<<< HEAD", b"|||||||", b"||||||| base", b"=======", b">>>>>>> other", b"=======\r", b">>>>>>> x\r\n"]
OTHERS = [b"", b"<<<<<<", b"<<<<<<<<", b"<<<<<<<HEAD", b" <<<<<<< HEAD", b"======= \n{"[:6], b'{"a": "<<<<<<< x"}']


@pytest.mark.parametrize("line", MARKERS)
def test_a_line_that_version_control_writes_into_a_conflict_is_a_marker(line):
    assert is_marker(line)
    assert has_conflict_markers(b"{}\n" + line)
    assert has_conflict_markers(b"{}\n" + line.rstrip(b"\n") + b"\n{}\n")


@pytest.mark.parametrize("line", OTHERS)
def test_any_other_line_is_none(line):
    assert not is_marker(line)
    assert not has_conflict_markers(b"{}\n" + line + b"\n{}\n")
