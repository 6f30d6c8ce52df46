"""The automation flow end to end, each role in a process of its own."""

import subprocess
import sys
import time

from maestro_workflow_engine.streams import AUTOMATION, Queue
from maestro_workflow_engine.streams.automation import AutomationFlow

SERVICE = """
import sys
from maestro_workflow_engine.streams.automation import AutomationFlow, Task

def run(task: Task) -> None:
    if task.data["port"] > 65535:
        raise ValueError(f"port {task.data['port']} is out of range")
    with open(sys.argv[3], "a") as log:
        log.write(f"{task.name} {task.data['port']}\\n")

def propose(task: Task) -> dict | None:
    if task.name == "hopeless":
        return None
    return {"port": task.data["port"] // 10}

def validate(task: Task) -> bool:
    return task.data["port"] != 6666

flow = AutomationFlow(sys.argv[1], run=run, propose=propose, validate=validate, max_rounds=2)
flow.worker(sys.argv[2]).run()
flow.close()
"""
ROLES = ("jobs", "errors", "healing", "validation")


def dead(url: str, role: str) -> list[str]:
    with Queue(url, AUTOMATION[role]) as queue:
        return [letter.reason for letter in queue.dead()]


def test_a_failed_job_is_mended_validated_and_run(url, tmp_path):
    log = tmp_path / "log"
    log.touch()
    crew = [
        subprocess.Popen([sys.executable, "-P", "-c", SERVICE, url, role, str(log)])
        for role in ROLES
    ]
    flow = AutomationFlow(
        url, run=lambda t: None, propose=lambda t: None, validate=lambda t: True
    )
    try:
        flow.submit("well", {"port": 80})
        flow.submit("once", {"port": 80_800})
        flow.submit("twice", {"port": 1_000_000})
        flow.submit("beyond", {"port": 10**12})
        flow.submit("hopeless", {"port": 10**6})
        flow.submit("refused", {"port": 66_660})
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = sorted(log.read_text("utf-8").splitlines())
            reasons = [reason for role in ROLES for reason in dead(url, role)]
            if len(done) == len(reasons) == 3:
                break
            time.sleep(0.05)
        assert done == ["once 8080", "twice 10000", "well 80"]
        assert "no fix for: ValueError: port 1000000" in dead(url, "errors")[0]
        assert "not mended by 2 fixes" in dead(url, "jobs")[0]
        assert "is not valid" in dead(url, "validation")[0]
    finally:
        flow.close()
        for process in crew:
            process.terminate()
        for process in crew:
            assert process.wait(timeout=30) == 0
