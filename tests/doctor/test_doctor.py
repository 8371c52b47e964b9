"""`lambda-grpo doctor` as a user meets it: a real process, with real packages and small fake ones on the path."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from lambda_grpo.cli import main
from lambda_grpo.doctor.facts import examine
from lambda_grpo.doctor.page import describe
from lambda_grpo.doctor.probe import run_probe
from lambda_grpo.parallel import cores

TRAINER_BASE = "verl/trainer/ppo/v1/trainer_base.py"
# As verl 0.9.1 does it: what a plug-in raises is lost.
LOADS_PLUGINS = """
import os
from importlib.metadata import entry_points
print("much is printed")
policy = os.getenv("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
for entry in entry_points(group="verl.plugins") if policy != "none" else ():
    if policy == "auto" or entry.name in policy.split(","):
        try:
            entry.load()
        except Exception:
            pass
"""
REGISTRY = 'TRAINER_REGISTRY = {"sync": object}\n'
REGISTERED = 'TRAINER_REGISTRY = {"sync": object, "lambda_grpo": object}\n'


def place(folder, name, version, files, requires=(), entry_points=""):
    """A package as pip would leave it."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    extras = sorted({line.split("'")[1] for line in requires if "extra ==" in line})
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "entry_points.txt").write_text(entry_points)


def place_verl(folder, registry=REGISTRY, version="0.9.1", code=LOADS_PLUGINS):
    packages = ("verl", "verl/trainer", "verl/trainer/ppo", "verl/trainer/ppo/v1")
    files = {f"{package}/__init__.py": code if package == "verl" else "" for package in packages}
    place(folder, "verl", version, {**files, TRAINER_BASE: registry}, ["vllm==0.24.0; extra == 'vllm'"])


def place_own(folder, requires, entry_points="[verl.plugins]\nlambda_grpo = lambda_grpo.verl.plugin\n"):
    """Metadata of this package that go before those of the environment."""
    place(folder, "lambda-grpo", "0.1.0", {}, requires, entry_points)


def doctor(folder, *arguments, **variables):
    """The exit code, and what is printed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **variables}
    command = [sys.executable, "-m", "lambda_grpo.cli", "doctor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == "importing what is installed …\n"
    assert max(map(len, done.stdout.splitlines())) <= 90 or "--json" in arguments
    return done.returncode, done.stdout


@pytest.fixture
def facts(monkeypatch):
    """What `examine` finds with a folder before the environment, in this process; foreign packages have their own."""
    devices = {"gpus": [], "built_for": None, "warning": None, "mps": False, "compiler": None, "compiled_error": None}
    known = {"devices": devices, "trl": {}}  # what takes long, and another test looks at

    def examined(folder, **variables):
        monkeypatch.syspath_prepend(folder)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(
            "lambda_grpo.doctor.facts.run_probe", lambda name: dict(known[name]) if name in known else run_probe(name)
        )
        return examine()

    return examined


def to_do(found):
    return [(item["what"], item["do"]) for item in found["problems"]]


def test_this_environment_works(tmp_path):
    code, text = doctor(tmp_path)
    lines = text.splitlines()
    assert code == 0
    assert lines[0].startswith(f"lambda-grpo {version('lambda-grpo')}, torch {version('torch')}, Python 3.")
    assert [line for line in lines if line and not line.startswith(" ")][1:] == [
        "Engines", "Plug-in", "Parts", "Devices", "To do",
    ]  # fmt: skip
    assert f"  TRL         ready          trl {version('trl')}, transformers {version('transformers')}," in text
    assert "  verl        not installed  a cluster, not beside TRL: pip install 'lambda-grpo[verl]'" in lines
    assert "  verl        not used       verl isn't installed" in lines
    assert f"  gym         ready          reasoning-gym {version('reasoning-gym')}" in lines
    assert f"  CPU         {cores()} cores        for this process" in lines
    assert len(lines) <= 40


def test_trl_beside_verl_is_named_with_the_way_out(tmp_path, facts):
    place_verl(tmp_path, REGISTERED)
    place(tmp_path, "trl", version("trl"), {"trl/__init__.py": ""})
    text = describe(facts(tmp_path)) + "\n"
    assert "  verl        conflict       verl 0.9.1" in text
    assert "  verl        registered     trainer lambda_grpo\n" in text
    assert text.endswith(
        f"  - trl {version('trl')} is installed beside verl 0.9.1, whose FSDP workers fail with trl 1.13 or\n"
        "    newer\n"
        "    Do: pip uninstall trl, or keep one of the two in a second virtual environment\n"
    )


@pytest.fixture
def verl_environment(tmp_path):
    """Verl with a trl that it can do with, and others that are quickly imported, before the real ones."""
    place(tmp_path, "trl", "1.12.0", {"trl/__init__.py": "raise RuntimeError('is not even tried')"})
    for name in ("matplotlib", "math-verify", "reasoning-gym"):
        place(tmp_path, name, version(name), {f"{name.replace('-', '_')}/__init__.py": ""})
    place_verl(tmp_path, REGISTERED)
    place_own(tmp_path, ["verl==0.9.1; extra == 'verl'", "trl>=1.16.0; extra == 'trl'"])
    return tmp_path


def test_json_has_the_same_facts(verl_environment):
    code, text = doctor(verl_environment, "--json", CC="no-such-compiler")
    found = json.loads(text)
    assert code == 0
    assert found["torch"] == {"installed": version("torch"), "unmet": [], "error": None}
    assert found["engines"]["verl"]["versions"]["verl"] == "0.9.1"
    assert found["plugin"] == {"state": "registered", "why": None}
    assert found["parts"]["sglang"]["install"] == "pip install 'verl[sglang]'"
    assert found["devices"]["compiled_error"] == "there is no C compiler: install gcc or clang, or set CC"
    assert found["devices"]["cpu_cores"] == cores()


def test_an_older_trl_is_no_problem_for_verl(verl_environment, facts):
    found = facts(verl_environment)
    assert found["engines"]["trl"]["state"] == "not supported"
    assert found["engines"]["verl"]["state"] == "ready"
    assert to_do(found) == []
    assert [item["do"] for item in found["hints"]] == ["pip install 'verl[vllm]==0.9.1'"]


@pytest.mark.parametrize("policy", ["none", "another", ""])
def test_a_plug_in_that_is_switched_off(verl_environment, facts, policy):
    (verl_environment / TRAINER_BASE).write_text(REGISTRY)
    found = facts(verl_environment, VERL_USE_EXTERNAL_PLUGINS=policy)
    assert found["plugin"] == {"state": "switched off", "why": f"by VERL_USE_EXTERNAL_PLUGINS={policy}"}
    assert to_do(found) == [
        (
            f"verl doesn't have the plug-in, switched off: by VERL_USE_EXTERNAL_PLUGINS={policy}",
            "unset the variable, or add lambda_grpo to it",
        )
    ]


def test_a_plug_in_that_fails_says_why(verl_environment, facts):
    (verl_environment / TRAINER_BASE).write_text(REGISTRY)  # not what the real plug-in needs of verl
    text = describe(facts(verl_environment, VERL_USE_EXTERNAL_PLUGINS="another,lambda_grpo")) + "\n"
    assert "  verl        fails          ModuleNotFoundError: No module named '" in text
    assert "    Do: fix that, or install again: pip install 'lambda-grpo[verl]'\n" in text


def test_an_installation_without_the_entry_point(verl_environment, facts):
    (verl_environment / TRAINER_BASE).write_text(REGISTRY)
    (verl_environment / "lambda_grpo-0.1.0.dist-info" / "entry_points.txt").write_text("")
    found = facts(verl_environment)
    assert found["plugin"]["state"] == "no entry point"
    assert [do for _, do in to_do(found)] == [
        "install lambda-grpo again here (in a checkout: pip install --no-deps -e .)"
    ]


def test_another_verl_is_not_supported(tmp_path, facts):
    place_verl(tmp_path, version="0.8.0", code="raise RuntimeError('is not even tried')")
    place(tmp_path, "trl", "1.12.0", {})
    found = facts(tmp_path)
    assert found["engines"]["verl"]["state"] == "not supported"
    assert found["plugin"] == {"state": "not tried", "why": "verl 0.8.0 isn't supported"}
    assert ("verl 0.8.0, but lambda-grpo[verl] needs ==0.9.1", "pip install 'lambda-grpo[verl]'") in to_do(found)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('libcudart.so.13: cannot open\\nand more')", "OSError: libcudart.so.13: cannot open"),
        ("import os; print('dies'); os._exit(7)", "ends Python with exit code 7: without a message"),
        ("import sys; sys.exit('no driver')", "ends Python with exit code 1: no driver"),
    ],
)
def test_what_cannot_be_imported_is_a_line(verl_environment, facts, code, reason):
    (verl_environment / "verl/__init__.py").write_text(code)
    place(verl_environment, "flash-attn", "2.8.3", {"flash_attn/__init__.py": code})
    found = facts(verl_environment)
    assert found["engines"]["verl"]["state"] == "broken"
    assert found["plugin"]["state"] == "not tried"
    assert to_do(found) == [
        (f"verl can't be imported: {reason}", "pip install 'lambda-grpo[verl]', or fix what it names"),
        (f"flash-attn can't be imported: {reason}", "pip install --force-reinstall --no-deps flash-attn"),
    ]


def test_a_broken_torch_and_no_traceback(tmp_path):
    place(tmp_path, "torch", "2.5.0", {"torch/__init__.py": "raise ImportError('undefined symbol: cu')"})
    code, text = doctor(tmp_path)
    assert code == 1
    assert "  GPU         not known      torch fails\n" in text
    assert (
        "  - torch 2.5.0, but lambda-grpo needs >=2.6\n    Do: pip install 'torch>=2.6'\n"
        "  - TRL can't be imported: " in text
    )  # fmt: skip


def test_requirements_of_an_engine_and_of_its_extras(tmp_path, facts):
    place(tmp_path, "trl", "1.16.0", {"trl/__init__.py": ""}, ["peft>=0.13.0; extra == 'peft'"])
    place_own(tmp_path, ["trl[peft]>=1.16; extra == 'trl'", "scipy>=99; extra == 'trl'", "not-there; extra == 'trl'"])
    place(tmp_path, "peft", "0.1.0", {})
    found = facts(tmp_path)
    assert found["engines"]["trl"]["state"] == "incomplete"
    assert to_do(found) == [
        (
            f"peft 0.1.0, but trl[peft] needs >=0.13.0; scipy {version('scipy')}, but lambda-grpo[trl] needs >=99; "
            "not-there isn't installed",
            "pip install 'lambda-grpo[trl]'",
        )
    ]


def test_a_version_that_an_engine_does_not_take_of_a_part(verl_environment, facts):
    place(verl_environment, "vllm", "0.1.0", {"vllm/__init__.py": ""})
    found = facts(verl_environment)
    text = describe(found)
    assert found["problems"] == []
    assert "  vllm        incomplete     vllm 0.1.0, but verl[vllm] needs ==0.24.0: pip install" in text


def test_without_an_engine_both_are_named(tmp_path):
    """An interpreter that sees what the base package needs."""
    for name in ("torch", "numpy"):
        place(tmp_path, name, version(name), {f"{name}/__init__.py": ""})
    for name in ("lambda_grpo", "annotated_types"):
        (tmp_path / name).symlink_to(os.path.dirname(sys.modules[name].__file__))
    command = [sys.executable, "-S", "-m", "lambda_grpo.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert (
        "  - no engine is installed\n"
        "    Do: pip install 'lambda-grpo[trl]' for one machine, or pip install 'lambda-grpo[verl]'\n"
        "        for a cluster\n" in done.stdout
    )  # fmt: skip
    assert "  - versions can't be checked, since lambda-grpo isn't installed\n    Do: install it\n" in done.stdout


def test_wrong_arguments(capsys):
    assert main(["doctor", "--verbose"]) == 2
    assert capsys.readouterr().err == (
        "lambda-grpo: error: unknown argument '--verbose', see lambda-grpo doctor --help\n"
    )
