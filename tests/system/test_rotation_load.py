"""A rotation under load, with small numbers; `bench/rotation.py` runs the same with large ones."""

from bench import rotation


def test_no_valid_token_is_rejected_and_none_of_an_expired_key_accepted_while_keys_rotate_under_load(tmp_path):
    result = rotation.run(tmp_path, mode="kubelet", rotations=1, clients=3, lifetime_s=2, lead_s=3, pause_s=0.005)
    assert result.rejections == []
    assert result.failures == []
    assert result.good["accepted"] > 100
    assert len(result.keys) == 2  # signed before and after the switch
    assert result.ended["rejected"] > 10
    assert result.ended["accepted"] == result.revoked["accepted"] == 0
    assert result.revoked["rejected"] == 120
    for name in ("alone", "beside a broken file"):
        # The contract says 2 s; the rest is for a machine that does other things.
        assert max(result.revocation_s[name]) < 2.5, name
