"""The properties of every response."""

import pytest

from tests.conformance.support import certificate, context, failures


@pytest.mark.parametrize(("days", "should"), [(14.1, set()), (13.9, {"certificate"})])
def test_a_certificate_that_ends_soon_is_reported(serve, pairs, tmp_path, monkeypatch, days, should):
    tls, path = certificate(tmp_path, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    found = failures(serve(tls=tls).url, context(pairs["ES256"]), "certificate", "profile-bare")
    assert found == {"must": set(), "should": should}
