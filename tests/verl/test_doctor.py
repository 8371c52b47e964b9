"""`lambda-grpo doctor` with the real verl installed, and the plug-in that verl loads by itself."""

import json
import os
import subprocess
import sys


def doctor(**variables):
    command = [sys.executable, "-m", "lambda_grpo.cli", "doctor", "--json"]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, json.loads(done.stdout)


def test_the_plug_in_is_registered():
    code, found = doctor()
    assert found["problems"] == []
    assert code == 0
    assert found["engines"]["verl"]["state"] == "ready"
    assert found["engines"]["verl"]["versions"]["verl"] == "0.9.1"
    assert found["plugin"] == {"state": "registered", "why": None}


def test_the_plug_in_is_switched_off():
    code, found = doctor(VERL_USE_EXTERNAL_PLUGINS="none")
    assert code == 1
    assert found["plugin"] == {"state": "switched off", "why": "by VERL_USE_EXTERNAL_PLUGINS=none"}
    assert [item["do"] for item in found["problems"]] == ["unset the variable, or add lambda_grpo to it"]
