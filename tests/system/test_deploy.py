"""What deploy/ ships is read by the tools it is for, and refused by them when it is broken."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from verifier.cli.main import cli
from verifier.errors import Reason
from verifier.server import metrics, settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# An environment of its own: the schemas of Kubernetes are large, and nothing else needs them.
TOOLS = ROOT / "tests" / "deploy" / ".venv" / "bin"


def tool(name: str, folder: Path | None = None) -> str:
    """The path of a program, or a skip that names it."""
    found = str(folder / name) if folder and (folder / name).exists() else "" if folder else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return str(found)


def run(*command: object, timeout: int = 120, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, **more)


def good(*command: object, **more: Any) -> str:
    done = run(*command, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_yaml(path: Path) -> Any:
    code = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))"
    return json.loads(good(tool("python", TOOLS), "-c", code, path))


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory) -> Path:
    """What `kubectl apply -k` would send."""
    path = tmp_path_factory.mktemp("kubernetes") / "all.yaml"
    path.write_text(good(tool("kubectl"), "kustomize", DEPLOY / "kubernetes"))
    return path


@pytest.fixture
def objects(kubernetes) -> dict[str, Any]:
    return {document["kind"]: document for document in read_yaml(kubernetes)}


def test_the_manifests_are_valid(kubernetes):
    validate = [tool("kubernetes-validate", TOOLS), "--strict", "-k", "1.34"]
    out = run(*validate, kubernetes)
    assert out.returncode == 0, out.stdout + out.stderr
    assert (out.stdout + out.stderr).count("passed") == 7


@pytest.mark.parametrize(
    ("before", "after"),
    [("readOnlyRootFilesystem", "readOnlyRootFileSystem"), ("maxSurge: 1", "maxSurge: [1]"), ("app.k", "app/k/")],
    ids=["unknown-field", "wrong-type", "none"],
)
def test_the_validator_is_strict(kubernetes, tmp_path, before, after):
    broken = tmp_path / "broken.yaml"
    broken.write_text(kubernetes.read_text().replace(before, after))
    done = run(tool("kubernetes-validate", TOOLS), "--strict", "-k", "1.34", broken)
    assert (done.returncode == 0) == (before == "app.k")  # keys of labels have no schema


def test_selectors_match_the_pods(objects):
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    specs = {kind: objects[kind]["spec"] for kind in objects if "spec" in objects[kind]}
    assert specs["Service"]["selector"].items() <= labels
    for selector in (
        specs["Deployment"]["selector"],
        specs["PodDisruptionBudget"]["selector"],
        specs["NetworkPolicy"]["podSelector"],
    ):
        assert set() < set(selector["matchLabels"].items()) <= set(labels)
    assert specs["HorizontalPodAutoscaler"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert specs["HorizontalPodAutoscaler"]["minReplicas"] >= 2
    assert "replicas" not in specs["Deployment"]  # an apply would undo what the autoscaler did


def test_a_pod_is_restricted_and_reads_folders(objects):
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # a Service "verifier" would set VERIFIER_PORT to a URL
    assert not any("subPath" in mount for mount in container["volumeMounts"])
    assert {next(iter(v.keys() - {"name"})) for v in spec["volumes"]} == {"configMap", "secret"}
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > sleep + settings.GRACEFUL_SHUTDOWN_S


def variables(text: str) -> set[str]:
    return set(re.findall(r"VERIFIER_[A-Z_]+", text))


def test_every_variable_of_deploy_is_a_setting():
    known = {option.variable for option in settings.Settings.options()} | {"VERIFIER_SITE", "VERIFIER_UPSTREAM"}
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert variables(path.read_text()) <= known, path


def test_compose_is_valid(tmp_path):
    check = [tool("check-jsonschema", TOOLS), "--builtin-schema", "vendor.compose-spec"]
    good(*check, DEPLOY / "compose.yaml")
    broken = tmp_path / "compose.yaml"
    broken.write_text((DEPLOY / "compose.yaml").read_text().replace("read_only", "readonly"))
    assert run(*check, broken).returncode == 1


def test_compose_keeps_the_verifier_inside():
    [compose] = read_yaml(DEPLOY / "compose.yaml")
    verifier = compose["services"]["verifier"]
    assert "ports" not in verifier
    assert verifier["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}
    assert (verifier["read_only"], verifier["cap_drop"]) == (True, ["ALL"])
    for volume in verifier["volumes"]:
        assert volume.endswith(":ro")
        assert not Path(volume.split(":")[0]).suffix  # a folder


def test_the_workflow_is_valid_and_pins_its_actions():
    paths = list((ROOT / ".github" / "workflows").glob("*.yml"))
    assert paths
    good(tool("check-jsonschema", TOOLS), "--builtin-schema", "vendor.github-workflows", *paths)
    for path in paths:
        for action in re.findall(r"uses: (.+)", path.read_text()):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
        for image in re.findall(r"image=(moby/\S+)", path.read_text()):
            assert re.fullmatch(r"moby/buildkit:v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", image)


def test_the_issue_forms_are_valid():
    check = [tool("check-jsonschema", TOOLS), "--builtin-schema"]
    forms = ROOT / ".github" / "ISSUE_TEMPLATE"
    good(*check, "vendor.github-issue-config", forms / "config.yml")
    good(*check, "vendor.github-issue-forms", *(p for p in forms.glob("*.yml") if p.name != "config.yml"))


def test_the_image_fetches_nothing_without_a_hash():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    commands = re.findall(r"pip (?:install|wheel)[^&\n]*", text)
    assert len(commands) == 4
    assert all("--require-hashes" in command or "--no-index" in command for command in commands)


def test_two_builds_have_one_digest(tmp_path):
    """Nothing of the checkout's modes and times, nor of the moment of the build, is in the image."""
    buildah = tool("buildah")
    [default] = re.findall(r"(?m)^ARG BASE=(.+)", (ROOT / "Dockerfile").read_text())
    base = os.environ.get("IMAGE_BASE", default)
    if os.geteuid() or run(buildah, "inspect", "--type=image", base).returncode:
        pytest.skip(f"not root, or the image {base} is not pulled")
    inputs = re.findall(r"(?m)^!(.+)", (ROOT / ".dockerignore").read_text())
    digests = []
    for mode, time in (("u=rwX,go=rX", 1_700_000_000), ("u=rwX,go=", 0)):
        context = tmp_path / str(time)
        context.mkdir()
        good("cp", "-r", *(ROOT / name for name in ["Dockerfile", ".dockerignore", *inputs]), context)
        good("chmod", "-R", mode, context)
        for path in context.rglob("*"):
            os.utime(path, (time, time))
        options = ["--isolation=chroot", "--network=host", "--no-cache", "--timestamp=1000000000"]
        # The id is the digest of the configuration, which names the digest of every layer.
        digests += good(buildah, "bud", "--quiet", *options, f"--build-arg=BASE={base}", context).split()
    run(buildah, "rmi", *set(digests))
    assert len(digests) == 2
    assert digests[0] == digests[1]


def test_caddy_reads_its_file(tmp_path):
    environment = os.environ | {
        "VERIFIER_SITE": "api.game.example",
        "VERIFIER_UPSTREAM": "verifier:8000",
        "HOME": str(tmp_path),
    }
    file = DEPLOY / "caddy" / "Caddyfile"
    good(tool("caddy"), "validate", "--adapter", "caddyfile", "--config", file, env=environment)
    broken = tmp_path / "Caddyfile"
    broken.write_text(file.read_text().replace("dial_timeout", "dialtimeout"))
    assert run(tool("caddy"), "validate", "--adapter", "caddyfile", "--config", broken, env=environment).returncode == 1


def test_the_unit_is_valid_and_sandboxed(tmp_path):
    analyze = tool("systemd-analyze")
    text = (DEPLOY / "systemd" / "verifier.service").read_text()
    unit = tmp_path / "verifier.service"
    unit.write_text(text.replace("/opt/verifier/bin/verifier", shutil.which("true") or "/bin/true"))
    done = run(analyze, "verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHme=yes"))
    assert "ProtectHme" in run(analyze, "verify", unit).stderr
    score = re.search(
        r"exposure level for verifier\.service: ([\d.]+)",
        run(analyze, "security", "--offline=true", DEPLOY / "systemd" / "verifier.service").stdout,
    )
    assert score
    assert float(score[1]) <= 1.1
    limit = int((re.search(r"LimitNOFILE=(\d+)", text) or ["", "0"])[1])
    assert limit > settings.Settings(issuer="x").max_connections
    assert "RestartPreventExitStatus=2 3" in text  # usage, could not start


def test_haproxy_reads_its_file(tmp_path):
    haproxy = tool("haproxy")
    certificate = tmp_path / "verifier.pem"
    good(
        tool("openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        tmp_path / "key",
        "-out",
        tmp_path / "crt",
        "-days",
        "1",
        "-subj",
        "/CN=game.example",
    )
    certificate.write_text((tmp_path / "crt").read_text() + (tmp_path / "key").read_text())
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text().replace("/etc/haproxy/verifier.pem", str(certificate))
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    done = run(haproxy, "-c", "-f", file)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    file.write_text(text.replace("retry-on conn-failure", "retry-on con-failure"))
    assert run(haproxy, "-c", "-f", file).returncode == 1
    # A whole request fits into a buffer, or it could not be sent again.
    size = int((re.search(r"tune\.bufsize (\d+)", text) or ["", "0"])[1])
    assert size > 32_768 + settings.MAX_BODY_BYTES


def names() -> set[str]:
    """Every metric there is."""
    text = Path(metrics.__file__).read_text() + (ROOT / "verifier" / "server" / "endpoints.py").read_text()
    found = set(re.findall(r'"(verifier_[a-z_]+)"', text))
    return (
        found
        | {f"{n}{end}" for n in found for end in ("_total", "_bucket", "_info")}
        | {
            "process_resident_memory_bytes",
            "process_open_fds",
        }
    )


def used(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:verifier|process)_[a-z_]+", expression))


def test_the_alert_rules_are_valid_and_fire():
    promtool = tool("promtool")
    good(promtool, "check", "rules", DEPLOY / "prometheus" / "rules.yaml")
    good(promtool, "test", "rules", DEPLOY / "prometheus" / "rules_test.yaml")


def test_the_alert_rules_name_metrics_and_commands_that_exist():
    [document] = read_yaml(DEPLOY / "prometheus" / "rules.yaml")
    for rule in document["groups"][0]["rules"]:
        assert used(rule["expr"]) <= names(), rule["alert"]
        annotations = rule["annotations"]
        assert annotations.keys() == {"summary", "description", "runbook_url"}
        for words in re.findall(r"verifier (keys|applications) (\w+)", annotations["description"]):
            assert words[1] in cli.commands[words[0]].commands
        assert annotations["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
        for reason in re.findall(r'reason!?="(\w+)"', rule["expr"]):
            assert reason in set(Reason)


def test_every_alert_rule_has_a_test_in_which_it_fires():
    [document] = read_yaml(DEPLOY / "prometheus" / "rules.yaml")
    [tests] = read_yaml(DEPLOY / "prometheus" / "rules_test.yaml")
    fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in document["groups"][0]["rules"]}


def test_the_dashboard_names_metrics_that_exist():
    document = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == 12
    for panel in panels:
        for target in panel["targets"]:
            assert used(target["expr"]), panel["title"]
            assert used(target["expr"]) <= names(), panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_the_expressions_of_the_dashboard_are_valid(tmp_path):
    promtool = tool("promtool")
    document = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    rules = [
        {
            "record": f"panel:{panel['id']}",
            "expr": target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*"),
        }
        for panel in document["panels"]
        for target in panel["targets"]
    ]
    file = tmp_path / "rules.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run(promtool, "check", "rules", "--lint=none", file)
    assert done.returncode == 0, done.stdout + done.stderr
