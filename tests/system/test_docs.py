"""The pages of docs/: every block is executed or says who checks it, every link and every page is reachable."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.support.markdown import DOCS, ROOT, Block, anchors, blocks, is_excerpt, is_recipe, links, pages, prose

# Shown, not run: output and diagrams. Everything else is run, is part of a tested file, or says why not.
SHOWN = {"text", "mermaid"}
EXECUTED = {"console", "python"}
NAME = {page: str(page.relative_to(ROOT)) for page in pages()}


def documents() -> list[Path]:
    """Everything that is written for readers, except the figures of bench/."""
    return [
        *pages(),
        *ROOT.glob("*.md"),
        *(ROOT / name / "README.md" for name in ("keys", "examples", "tests/vectors")),
    ]


def shown() -> list[Path]:
    """The documents whose blocks are checked."""
    return [page for page in documents() if page.name not in ("CHANGELOG.md", "SECURITY.md")]


def all_blocks() -> list[Block]:
    return [block for page in shown() for block in blocks(page)]


# Execution.


def steps_of(page: Path) -> list[tuple[str, str | None]]:
    """(command, expected output) of the executed blocks of a page, in order; a Python block may print anything."""
    steps: list[tuple[str, str | None]] = []
    for block in blocks(page):
        if (
            block.note
            or block.language not in EXECUTED
            or is_recipe(block)
            or (block.language == "python" and is_excerpt(block))
        ):
            continue
        if block.language == "python":
            steps.append((f"python -W error - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK", None))
            continue
        for line in block.text.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:].rstrip("\n"), ""))
            else:
                command, output = steps[-1]
                steps[-1] = (command, f"{output or ''}{line}")
    return steps


def run(commands: list[str], folder: Path) -> list[tuple[str, int]]:
    """The output and exit status of every command, all in one shell, whose processes end with it."""
    mark = "--- next ---"
    ports = {name: str(free_port()) for name in ("8000", "8001", "8002", "9000")}  # each may be taken
    script = "".join(f"{command}\necho '{mark}' $?\n" for command in commands)
    for name, port in ports.items():
        script = re.sub(rf"\b{name}\b", port, script)
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("VERIFIER_")}
    environment = inherited | {
        "VERIFIER_PORT": ports["8000"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TZ": "UTC",
    }
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=120)
    finally:
        end_group(shell)
    for name, port in ports.items():
        output = re.sub(rf"\b{port}\b", name, output)
    parts = re.split(rf"{mark} (\d+)\n", output)
    return list(zip(parts[:-1:2], map(int, parts[1::2]), strict=True))


def end_group(shell: subprocess.Popen[str]) -> None:
    """End a shell and whatever it left in the background."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def matches(expected: str, found: str) -> bool:
    """Whether the output is the documented one; `...` stands for anything, in a line or as lines of its own."""
    pattern = re.escape(expected).replace(r"\.\.\.\.", r".*?\.").replace(r"\.\.\.", ".*?")
    return re.fullmatch(pattern, found, re.DOTALL) is not None


@pytest.mark.parametrize("page", [page for page in shown() if steps_of(page)], ids=str)
def test_every_command_gives_the_output_shown(page, tmp_path):
    steps = steps_of(page)
    results = run([command for command, _ in steps], tmp_path)
    for (command, expected), (found, status) in itertools.zip_longest(steps, results, fillvalue=("", -1)):
        if expected is None:
            assert status == 0, f"{command}\n{found}"
        else:
            assert matches(expected.rstrip(), found.rstrip()), f"$ {command}\n{found}\n--- expected ---\n{expected}"


def test_no_page_waits_a_fixed_time_for_a_condition():
    waits = [str(b) for b in all_blocks() if re.search(r"\bsleep [1-9]", b.text)]
    assert waits == []


def shell_blocks() -> list[Block]:
    """What readers paste into a shell."""
    return [block for block in all_blocks() if block.language in ("console", "bash", "sh")]


def test_every_loop_of_a_page_ends_with_what_it_waits_for_or_in_time():
    loops = [
        (str(block), loop)
        for block in shell_blocks()
        for loop in re.findall(r"(?s)\b(?:until|while) .+?\bdo\b.+?\bdone\b", block.text)
    ]
    assert len(loops) > 5
    assert [loop for loop in loops if not re.search(r"\bkill -0 |\$SECONDS", loop[1])] == []


def test_a_server_of_a_page_leaves_the_port_of_make_run_alone():
    for page in shown():
        commands = "\n".join(command for command, _ in steps_of(page))
        if "verifier serve" in commands:
            assert "VERIFIER_PORT=8001" in commands, page
            assert "127.0.0.1:8000" not in commands, page


def test_every_block_that_selects_a_key_does_so_with_several_keys(tmp_path):
    selections = {s for block in shell_blocks() for s in re.findall(r"\$\((verifier keys list[^)]*)\)", block.text)}
    assert selections
    change = ["generate", "rotate --lead 0s --force", "rotate --lead 0s --force", "rotate"]
    listed = "verifier keys list | awk '{ print $3 }'"
    results = run([*(f"verifier keys {c} >/dev/null" for c in change), listed, *sorted(selections)], tmp_path)
    assert results[4][0].split() == ["retiring", "retiring", "current", "pending"]
    for selection, (found, status) in zip(sorted(selections), results[5:], strict=True):
        assert (re.fullmatch(r"[\w-]{43}\n", found) is not None, status) == (True, 0), f"{selection}\n{found}"


# Blocks that are not executed.


def is_setup(block: Block) -> bool:
    """Whether a block only calls targets of make and installs this package, which tests below check."""
    setup = r"make \w+|python3 -m venv \.venv && \. \.venv/bin/activate$|pip install "
    return all(re.match(setup, line) for line in block.text.splitlines())


def test_every_block_is_executed_or_part_of_a_tested_file_or_says_why_not():
    unchecked = [
        f"{block} {block.language or 'without a language'}"
        for block in all_blocks()
        if block.language not in SHOWN | EXECUTED | {"json"}
        if not (block.note or is_recipe(block) or is_excerpt(block) or is_setup(block))
    ]
    assert unchecked == []


def test_every_note_names_a_test_that_exists():
    for block in all_blocks():
        if block.note and block.note["file"]:
            text = (ROOT / block.note["file"]).read_text()
            assert not block.note["test"] or f"def {block.note['test']}(" in text, str(block)


def test_text_blocks_hide_no_command():
    assert [str(b) for b in all_blocks() if b.language in SHOWN and re.search(r"(?m)^\$ ", b.text)] == []


def test_json_blocks_are_json():
    for block in all_blocks():
        if block.language == "json":
            try:
                json.loads(block.text)
            except ValueError:
                assert all(json.loads(line) for line in block.text.splitlines()), str(block)


def test_the_installation_commands_name_the_distribution_and_its_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project.get("optional-dependencies", {}))
    for page in shown():
        for name, found in re.findall(
            r"pip install '?([\w-]*verifier|[\w./]+/[\w./]*)\[?([\w,]*)\]?'?", page.read_text()
        ):
            assert name in (project["name"], "/path/to/checkout"), page
            assert {extra for extra in found.split(",") if extra} <= extras, page


def test_what_is_shown_to_be_copied_imports_only_the_public_api():
    found = {(str(block), name) for block in all_blocks() for name in re.findall(r"from (verifier[.\w]*) ", block.text)}
    found |= {
        (p.name, name)
        for p in (ROOT / "examples").rglob("*.py")
        for name in re.findall(r"from (verifier[.\w]*) ", p.read_text())
    }
    assert {name for _, name in found} == {"verifier", "verifier.asgi"}, sorted(found)


def test_the_readme_is_a_landing_page():
    assert len((ROOT / "README.md").read_bytes()) <= 9 * 1024


def test_a_design_decision_fits_on_a_page():
    assert [page for page in pages() if page.parent.name == "design" and page.read_text().count("\n") > 60] == []


# Links, anchors and files.


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        if page in NAME:
            assert target.is_relative_to(DOCS), f"{page}: {link} leaves the site"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def test_the_description_on_a_package_index_has_no_relative_link():
    description = importlib.metadata.distribution("escs-verifier").read_text("METADATA") or ""
    assert "# verifier" in description
    assert [link for link in re.findall(r"\]\(([^)]+)\)", description) if not link.startswith("https://")] == []


def test_no_page_has_an_anchor_twice():
    for page in pages():
        assert len(anchors(page)) == len(set(anchors(page))), page


def test_every_file_that_a_page_names_exists():
    top = "bench|deploy|docs|examples|tests|verifier|keys"
    for page in documents():
        for name in re.findall(rf"`((?:{top})/[\w./-]+)`", prose(page)):
            made = name.startswith("keys/") and not name.startswith("keys/README")
            assert made or (ROOT / name).exists(), f"{page}: {name}"


def nav() -> list[str]:
    """The pages that the site's navigation lists, in order."""

    def leaves(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]

    return leaves(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])


def test_the_navigation_lists_every_page_once():
    assert sorted(nav()) == sorted(str(page.relative_to(DOCS)) for page in pages())


def test_every_page_is_one_click_from_the_index_and_two_from_the_readme():
    def targets(page: Path) -> set[Path]:
        return {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link}

    first = targets(ROOT / "README.md")
    second = first | {target for page in first if page.suffix == ".md" and page.exists() for target in targets(page)}
    assert set(pages()) <= second, sorted(str(p) for p in set(pages()) - second)
    folders = targets(DOCS / "index.md")
    for page in set(pages()) - {DOCS / "index.md"}:
        assert page in folders or page.parent / "index.md" in folders, page


# Names that pages and code share.


def test_the_packages_that_issuing_needs_are_those_of_the_plain_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [listed] = re.findall(r"direct dependencies are ([^.]+)\.", (DOCS / "python-api.md").read_text())
    assert re.split(r", | and ", listed) == [re.split(r"\W", name)[0] for name in project["dependencies"]]


def test_the_generated_parts_agree_with_the_code():
    done = subprocess.run([sys.executable, DOCS / "reference.py", "--check"], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_every_message_that_a_page_quotes_is_in_the_code():
    """Messages are quotations of several words; test_architecture.py compares those of errors.md."""
    code = "\n".join(path.read_text() for path in (ROOT / "verifier").rglob("*.py"))
    messages = {
        (page.name, message)
        for page in pages()
        if page.name != "errors.md" and page.parent == DOCS
        for message in re.findall(
            r"`((?!(?:docker|gh|pip|promtool|python|systemctl|verifier) )[a-z][a-z-]*(?: [\w():?-]+){2,})`", prose(page)
        )
    }
    assert len(messages) > 3
    assert [m for m in sorted(messages) if re.sub(r" \([A-Z][^)]*\)$", "", m[1]) not in code] == []


def test_every_variable_that_a_page_names_exists():
    generated = "".join((DOCS / name).read_text() for name in ("cli.md", "configuration.md"))  # compared above
    files = [path for name in ("deploy", "examples", "verifier") for path in (ROOT / name).rglob("*") if path.is_file()]
    code = generated + "".join(path.read_text(errors="replace") for path in files if path.suffix != ".pyc")
    for page in documents():
        for name in set(re.findall(r"VERIFIER_[A-Z_]*[A-Z]", page.read_text())):
            assert name in code, f"{page}: {name}"


def test_every_test_that_a_page_names_exists():
    hidden = f"{os.sep}."
    code = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if hidden not in str(p.parent))
    for page in documents():
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in code, f"{page}: {name}"


def test_every_target_of_make_that_a_page_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in documents():
        for target in re.findall(r"(?m)(?:`|^)make (\w+)", page.read_text()):
            assert re.search(rf"(?m)^{target}:", makefile), f"{page}: make {target}"


def test_the_page_of_logs_lists_every_event_and_field_of_the_code():
    page = (DOCS / "logs.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "verifier" / "server").glob("*.py"))
    events = set(re.findall(r"\blog\.(?:debug|info|warning|error)\(\s*\"(\w+)\"", code)) | {"request"}
    listed = re.search(r"(?s)\| `event` .*?\n\n", page)
    assert listed
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", listed[0])) - {"event"} == events
    fields = set(re.findall(r"(?:request|self)\[\"(\w+)\"\]", code)) - {"level"}
    listed = re.search(r"(?s)\| field .*?\n\n", page)
    assert listed
    assert fields <= set(re.findall(r"`(\w+)`", listed[0]))


def exposed_metrics(tmp_path: Path) -> set[str]:
    """The names of the metrics of a server, as Prometheus reads them."""
    script = ["verifier keys generate >/dev/null", "verifier serve --metrics-port 9000 >serve.log &"]
    script += ["until verifier healthcheck >/dev/null 2>&1; do kill -0 $! || break; sleep 0.1; done"]
    script += ["curl -sS http://127.0.0.1:9000/metrics", "kill $!; wait $!"]
    settings = "VERIFIER_ISSUER=x VERIFIER_APPLICATION_ID=x VERIFIER_SECRET_KEY=a-secret-of-sixteen"
    output = run([f"export {settings}", *script], tmp_path)[4][0]
    return set(re.findall(r"(?m)^# TYPE (verifier_\w+) ", output))


def test_the_page_of_metrics_lists_what_a_server_exposes(tmp_path):
    listed = re.findall(r"(?m)^\| `(verifier_\w+)", (DOCS / "metrics.md").read_text())
    assert sorted(listed) == sorted(exposed_metrics(tmp_path))


def test_every_metric_that_a_page_names_is_on_the_page_of_metrics():
    listed = set(re.findall(r"verifier_\w+", (DOCS / "metrics.md").read_text()))
    for page in documents():
        for name in re.findall(r"\bverifier_(?:\w+_)?(?:total|seconds|info|bytes|flight|usable)\b", page.read_text()):
            assert name in listed, f"{page}: {name}"


def test_promql_names_metrics_that_exist():
    names = set(re.findall(r"(?m)^\| `(verifier_\w+)", (DOCS / "metrics.md").read_text()))
    for block in all_blocks():
        if block.language == "promql":
            assert set(re.findall(r"verifier_\w+", block.text)) <= names, str(block)


def test_every_alert_has_a_section_with_its_severity():
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    expected = re.findall(r"alert: (\w+)\n[\s\S]*?severity: (\w+)", rules)
    assert re.findall(r"(?m)^## (\w+)\n\nSeverity: (\w+)\.", (DOCS / "alerts.md").read_text()) == expected


# Words that a native engineer would not write, or that readers would have to learn.
HOME_MADE = (
    r"\b(mint(s|ed|ing)?|halves|private half|public half|strangers?|nobody|whoever|mends?|cure|trickl\w+|"
    r"hands? in|live secrets?|take[ns]? in|somebody|told|say so|learns? of)\b"
)


def test_pages_use_the_terms_of_the_field():
    deployed = [path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".md"]
    for page in (*documents(), *deployed, ROOT / "Makefile", ROOT / "verifier" / "server" / "openapi.json"):
        assert re.findall(HOME_MADE, page.read_text(), re.IGNORECASE) == [], page


def test_test_names_use_the_terms_of_the_field():
    words = (
        r"_(mint(s|ed)?|hal(f(?!_clos)|ves)|strangers?|nobody|whoever|mend(s|ed)?|cure|told|life|costs?_(its|no)|"
        r"judged)(_|$)"
    )
    files = (ROOT / "tests").glob("**/test_*.py")
    names = [name for path in files for name in re.findall(r"(?m)def (test_\w+)", path.read_text())]
    assert len(names) > 1000
    assert [name for name in names if re.search(words, name)] == []
