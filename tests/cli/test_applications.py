"""The commands about applications: what each does, says and refuses."""

import hashlib
import json
import os
import sys
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import NOW, SECRET, Done, free_port
from verifier.core.applications import parse
from verifier.rotation import history
from verifier.storage import journal


def digest(secret: str) -> str:
    """The beginning of a secret's digest, as it is shown."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def add(run, application_id, secret, path):
    return run("applications", "add", application_id, "--file", path, stdin=secret)


def test_applications_come_and_secrets_go(run, tmp_path):
    path = tmp_path / "new" / "applications.json"
    assert add(run, "one", f"{SECRET}\r\n", path) == Done(
        0, f"{path}: application one has 1 active secret\none  secret 1  sha256 {digest(SECRET)}...\n"
    )
    assert add(run, "two", "short", path) == Done(
        0,
        f"{path}: application two has 1 active secret\n"
        f"two  secret 1  sha256 {digest('short')}...  weak: shorter than 16 characters\n",
    )
    assert add(run, "one", "another secret of one", path).status == 0
    assert path.stat().st_mode & 0o777 == 0o640
    applications, problems = parse(path.read_bytes())
    assert problems == []
    assert applications.authenticate(application_id="one", secret=SECRET) == 0
    assert applications.authenticate(application_id="one", secret="another secret of one") == 1
    listed = run("applications", "list", "--file", path)
    assert listed.out.splitlines() == [
        f"one  secret 1  sha256 {digest(SECRET)}...",
        f"one  secret 2  sha256 {digest('another secret of one')}...",
        f"two  secret 1  sha256 {digest('short')}...  weak: shorter than 16 characters",
    ]
    document = json.loads(run("applications", "list", "--json", "--file", path).out)
    assert document["applications"][1] == {
        "id": "two",
        "secrets": [
            {"slot": 1, "sha256": digest("short"), "weakness": "shorter than 16 characters", "last_used": None}
        ],
    }
    removed = run("applications", "remove-secret", "one", "--slot", 1, "--file", path)
    assert removed.out.startswith(f"{path}: application one has 1 active secret\n")
    assert parse(path.read_bytes())[0].authenticate(application_id="one", secret="another secret of one") == 0


def test_the_mode_of_the_file_stays_as_it_was_set(run, tmp_path):
    path = tmp_path / "applications.json"
    assert add(run, "one", SECRET, path).status == 0
    path.chmod(0o644)
    assert add(run, "one", SECRET * 2, path).status == 0
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_third_secret_and_the_last_one_are_refused(run, tmp_path):
    path = tmp_path / "applications.json"
    for secret in ("first secret, long", "second secret, long"):
        assert add(run, "one", secret, path).status == 0
    assert add(run, "one", "third secret, long", path) == Done(
        1,
        "",
        "verifier: error: application one has 2 active secrets already\n"
        f"verifier: hint: remove one first: verifier applications remove-secret --file {path} one --slot 1\n",
    )
    assert run("applications", "remove-secret", "one", "--slot", 2, "--file", path).status == 0
    last = run("applications", "remove-secret", "one", "--slot", 1, "--file", path)
    assert last.status == 1
    assert last.err.startswith("verifier: error: the only secret of application one cannot be removed")


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (SECRET.encode("utf-16"), "is UTF-16, not UTF-8\nverifier: hint: save the file as UTF-8"),
        (b"\xff" * 20, "is not UTF-8\nverifier: hint: save the file as UTF-8"),
    ],
)
def test_a_secret_that_is_not_utf8_is_refused(run, tmp_path, sent, error):
    done = add(run, "one", sent, tmp_path / "applications.json")
    assert done == Done(3, "", f"verifier: error: {error}\n")


def test_no_line_of_a_secret_is_lost(run, tmp_path):
    assert add(run, "one", f"{SECRET}\nsecond line\n", tmp_path / "applications.json").status == 0
    applications, _ = parse((tmp_path / "applications.json").read_bytes())
    assert applications.authenticate(application_id="one", secret=f"{SECRET}\nsecond line") == 0


def test_an_empty_secret_is_refused(run, tmp_path):
    done = add(run, "one", "\n", tmp_path / "applications.json")
    assert done == Done(
        3,
        "",
        "verifier: error: standard input is empty (expected the secret key)\n"
        "verifier: hint: verifier applications ... < secret\n",
    )


@pytest.mark.usefixtures("terminal")
def test_a_secret_is_prompted_for_on_a_terminal(run, tmp_path, monkeypatch):
    monkeypatch.setattr("click.prompt", lambda text, **options: SECRET if options["hide_input"] else "")
    assert add(run, "one", "", tmp_path / "applications.json").status == 0
    applications, _ = parse((tmp_path / "applications.json").read_bytes())
    assert applications.authenticate(application_id="one", secret=SECRET) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "the file is not valid JSON"),
        ('{"applications": [{}]}', "entry 1 is not an application with 1 or 2 secrets (sha256: 64 hex digits)"),
    ],
)
def test_a_bad_applications_file_is_never_written_over(run, tmp_path, content, says):
    path = tmp_path / "applications.json"
    if content is not None:
        path.write_text(content)
    done = run("applications", "remove-secret", "one", "--slot", 1, "--file", path)
    assert done.status == 3
    assert done.err.splitlines()[0] == f"verifier: error: {path}: {says}"
    assert content is None or path.read_text() == content


def test_rotate_secret_accepts_a_second_secret(run, tmp_path):
    path = tmp_path / "applications.json"
    assert add(run, "one", SECRET, path).status == 0
    done = run("applications", "rotate-secret", "one", "--file", path, stdin="the next secret\n")
    assert done == Done(
        0,
        f"{path}: application one has 2 active secrets\n"
        f"one  secret 1  sha256 {digest(SECRET)}...\n"
        f"one  secret 2  sha256 {digest('the next secret')}...  weak: shorter than 16 characters\n"
        "Enter the new secret in the escs dashboard. When secret 1 is no longer used:\n"
        "  verifier applications remove-secret one --slot 1\n",
    )
    third = run("applications", "rotate-secret", "one", "--file", path, stdin="yet another secret\n")
    assert third.status == 1
    document = json.loads(run("applications", "remove-secret", "one", "--slot", 1, "--json", "--file", path).out)
    assert [secret["sha256"] for secret in document["applications"][0]["secrets"]] == [digest("the next secret")]


def test_rotate_secret_needs_a_known_application(run, tmp_path):
    path = tmp_path / "applications.json"
    assert add(run, "one", SECRET, path).status == 0
    assert run("applications", "rotate-secret", "two", "--json", "--file", path, stdin="x") == Done(
        1,
        "",
        f"verifier: error: application two is unknown\nverifier: hint: verifier applications add --file {path} two\n",
    )


METRICS = """\
# TYPE verifier_secret_last_used_timestamp_seconds gauge
verifier_secret_last_used_timestamp_seconds{application="one",slot="1"} 1.8e+09
verifier_secret_last_used_timestamp_seconds{application="one \\"b\\"",slot="2"} 1.7e+09
verifier_secret_last_used_timestamp_seconds{application="o",slot="2"} 1.6e+09
verifier_secret_last_used_timestamp_seconds{application="never",slot="1"} 0
# TYPE process_start_time_seconds gauge
process_start_time_seconds START
"""


@pytest.fixture
def start():
    return f"{NOW - 60}"


@pytest.fixture
def metrics(start):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.replace("START", start).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_the_last_use_of_each_slot_is_shown_where_metrics_are_given(run, tmp_path, metrics):
    path = tmp_path / "applications.json"
    for application_id in ("one", 'one "b"'):
        assert add(run, application_id, SECRET, path).status == 0
    done = run("applications", "rotate-secret", "one", "--metrics", metrics, "--json", "--file", path, stdin=SECRET * 2)
    assert [s["last_used"] for s in json.loads(done.out)["applications"][0]["secrets"]] == [1_800_000_000.0, None]
    listed = run("applications", "list", "--metrics", metrics, "--file", path)
    assert listed.out.splitlines()[0].endswith("  last used 2027-01-15 08:00:00 UTC")


@pytest.mark.parametrize(
    ("start", "started"),
    [
        (str(NOW - 60), f" at {datetime.fromtimestamp(NOW - 60).astimezone():%H:%M}"),
        (str(NOW - 90_000), f" at {datetime.fromtimestamp(NOW - 90_000).astimezone():%Y-%m-%d %H:%M}"),
        ("NaN", ""),
    ],
    ids=["today", "on another day", "at a time that its system does not tell"],
)
def test_a_secret_that_was_never_used_is_shown_with_the_start_of_the_replica(run, tmp_path, metrics, start, started):
    path = tmp_path / "applications.json"
    for application_id in ("never", "new"):
        assert add(run, application_id, SECRET, path).status == 0
    listed = run("applications", "list", "--metrics", metrics, "--file", path)
    assert listed.out.splitlines() == [
        f"never  secret 1  sha256 {digest(SECRET)}...  never used since this replica started{started}",
        f"new  secret 1  sha256 {digest(SECRET)}...  not loaded by this replica",
    ]
    document = json.loads(run("applications", "list", "--json", "--metrics", metrics, "--file", path).out)
    assert [row["secrets"][0]["last_used"] for row in document["applications"]] == [None, None]
    assert document["replica_started_at"] == (float(start) if started else None)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://x", "error: ftp://x: not an http or https URL\nverifier: hint: http://host:port/metrics\n"),
        (
            "http://127.0.0.1:{}/",
            "error: http://127.0.0.1:{0}/: no metrics (connection refused: nothing listens on 127.0.0.1 port {0})\n"
            "verifier: hint: start the server, or correct the port\n",
        ),
    ],
)
def test_metrics_that_do_not_answer_change_nothing(run, tmp_path, url, says):
    path, port = tmp_path / "applications.json", free_port()
    assert add(run, "one", SECRET, path).status == 0
    before = path.read_bytes()
    arguments = ("applications", "rotate-secret", "one", "--metrics", url.format(port), "--file", path)
    assert run(*arguments, stdin="the next secret\n") == Done(3, "", f"verifier: {says.format(port)}")
    assert path.read_bytes() == before


def test_a_change_is_a_line_in_the_history_where_the_key_directory_is(run, tmp_path):
    assert run("keys", "generate").status == 0
    path = tmp_path / "applications.json"
    assert add(run, "one", SECRET, path).status == 0
    assert run("applications", "rotate-secret", "one", "--file", path, stdin="short\n").status == 0
    assert run("applications", "remove-secret", "one", "--slot", 1, "--file", path).status == 0
    found = history.load((tmp_path / "keys" / "history.jsonl").read_bytes())
    assert found.problems == ()
    lines = [(e.command, e.application, e.slot, e.sha256, e.old, e.new, e.weakness) for e in found.secrets]
    assert lines == [
        ("add", "one", 1, digest(SECRET), "none", "active", ""),
        ("rotate-secret", "one", 2, digest("short"), "none", "active", "shorter than 16 characters"),
        ("remove-secret", "one", 1, digest(SECRET), "active", "gone", ""),
    ]


def test_one_of_two_equal_secrets_is_removed_without_a_line(run, tmp_path):
    assert run("keys", "generate").status == 0
    path, trail = tmp_path / "applications.json", tmp_path / "keys" / "history.jsonl"
    assert add(run, "one", SECRET, path).status == 0
    document = json.loads(path.read_text())
    document["applications"][0]["secrets"] *= 2
    path.write_text(json.dumps(document))
    before = trail.read_bytes()
    assert run("applications", "remove-secret", "one", "--slot", 1, "--file", path).status == 0
    assert [len(found.secrets) for found in parse(path.read_bytes())[0].by_id.values()] == [1]
    assert trail.read_bytes() == before


def test_a_secret_is_removed_beside_a_damaged_history(run, tmp_path):
    assert run("keys", "generate").status == 0
    path, trail = tmp_path / "applications.json", tmp_path / "keys" / "history.jsonl"
    for secret in (SECRET, SECRET * 2):
        assert add(run, "one", secret, path).status == 0
    trail.write_bytes(b"<<<<<<< HEAD\n")
    done = run("applications", "remove-secret", "one", "--slot", 1, "--file", path)
    assert (done.status, trail.read_bytes()) == (0, b"<<<<<<< HEAD\n")
    assert done.err == (
        "verifier: warning: keys/history.jsonl is damaged and has no line of this; "
        "repair it, then verifier keys merge\n"
    )
    assert [secret.digest.hex()[:12] for secret in parse(path.read_bytes())[0].by_id["one"].secrets] == [
        digest(SECRET * 2)
    ]


def test_a_link_is_followed_and_locked_where_it_leads(run, tmp_path):
    (tmp_path / "real").mkdir()
    path, target = tmp_path / "applications.json", tmp_path / "real" / "file.json"
    path.symlink_to(target)
    for secret in (SECRET, SECRET * 2):
        assert add(run, "one", secret, path).status == 0
    assert run("applications", "remove-secret", "one", "--slot", 1, "--file", path).status == 0
    assert (path.is_symlink(), parse(target.read_bytes())[0].authenticate(application_id="one", secret=SECRET * 2)) == (
        True,
        0,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["applications.json", "real"]
    assert sorted(file.name for file in target.parent.iterdir()) == ["file.json"]


@pytest.mark.parametrize(
    ("kind", "cause"), [("pipe", "is a pipe"), ("folder", "Is a directory"), ("huge", "is larger")]
)
def test_a_file_that_cannot_be_read_to_its_end_is_named_at_once(run, tmp_path, kind, cause):
    path = tmp_path / "applications.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(200_000_000)
    for command in (("list",), ("remove-secret", "one", "--slot", 1)):
        done = run("applications", *command, "--file", path)
        assert done.status == 3
        assert done.err.startswith(f"verifier: error: {path}: cannot be read ({cause}")


def test_a_secret_on_standard_input_has_an_end(run, tmp_path):
    assert add(run, "one", "x" * 20_000, tmp_path / "applications.json") == Done(
        3, "", "verifier: error: the secret is longer than 16384 bytes\n"
    )


@pytest.mark.parametrize(
    "after", [("rotate-secret", "game"), ("add", "third"), ("remove-secret", "game", "--slot", "1")]
)
@pytest.mark.parametrize("before", [("rotate-secret", "game"), ("add", "other")])
def test_a_change_keeps_what_the_change_before_it_had_begun(run, monkeypatch, before, after):
    assert run("keys", "generate", now=NOW - 9).status == 0
    assert run("applications", "add", "game", stdin="the-first-secret-of-the-game", now=NOW - 8).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(journal.Directory, "_apply", lambda *_: sys.exit(9))  # it dies when the journal is written
        assert run("applications", *before, stdin="the-second-secret-of-the-game").status == 9
    done = run("applications", *after, stdin="the-third-secret-of-the-game", now=NOW + 1)
    assert f"finished the applications {before[0]} of " in done.err
    assert run("keys", "audit", "--applications", "applications.json", now=NOW + 2).status == 0


def test_a_change_by_a_clock_that_is_behind_is_recorded_as_of_the_last_line(run):
    assert run("keys", "generate").status == 0
    done = run("applications", "add", "game", stdin="the-first-secret-of-the-game", now=NOW - 60)
    assert done.status == 0
    assert done.err.startswith("verifier: warning: the clock (2027-01-15 07:59:00 UTC) is behind the history; recorded")
    assert run("keys", "audit", "--applications", "applications.json").status == 0
