"""A step for tests, in plain Python so that it starts at once: does what `facts` of its request say."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])


def product(facts: dict, given: list) -> dict:
    """Write one product: the text of the facts and the hashes of all inputs, so that it depends on both."""
    seen = [hashlib.sha256(Path(i["path"]).read_bytes()).hexdigest() for i in given]
    text = json.dumps([facts.get("text", ""), seen]) + "\n"
    path = FOLDER / "table.json"
    path.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    digest = "0" * 64 if facts.get("flaw") == "hash" else digest
    return {
        "role": "measures",
        "path": "nowhere.json" if facts.get("flaw") == "missing" else "table.json",
        "sha256": digest,
        "size": len(text) + (1 if facts.get("flaw") == "size" else 0),
        "name": f"{facts.get('text', 'table')}.json",
        "item": None,
        "detector": None,
        "small": True,
        "media_type": "application/json",
    }


def main() -> None:
    request = json.loads((FOLDER.parent / "request.json").read_text())
    inputs = json.loads((FOLDER / "inputs.json").read_text())
    facts = request["facts"]
    sys.stdout.write(f"step of job {inputs['job']} attempt {inputs['attempt']}\n")
    sys.stdout.flush()
    (FOLDER / "environment.json").write_text(json.dumps(dict(os.environ)))
    if facts.get("child"):
        child = subprocess.Popen(["/bin/sleep", "600"])
        (FOLDER / "child").write_text(str(child.pid))
    hold = bytearray(int(facts.get("allocate_mb", 0)) << 20)
    if facts.get("first_only_s") and inputs["attempt"] == 1:
        time.sleep(facts["first_only_s"])
    time.sleep(facts.get("sleep_s", 0.0))
    while "gate" in facts and not Path(facts["gate"]).exists():
        time.sleep(0.02)
    del hold
    if "signal" in facts and inputs["attempt"] <= facts.get("until", 99):
        os.kill(os.getpid(), facts["signal"])
    code = facts.get("exit", 0) if inputs["attempt"] <= facts.get("until", 99) else 0
    made = [product(facts, inputs["inputs"])] if code == 0 else []
    result = {
        "job": inputs["job"],
        "attempt": inputs["attempt"],
        "fence": "999999" if facts.get("flaw") == "fence" else inputs["fence"],
        "kind": request["kind"],
        "engine": request["engine"],
        "version": "0",
        "exit_code": code,
        "products": made,
        "outcomes": facts.get("outcomes", []),
        "records": facts.get("records", []),
        "failure": {"kind": facts["failure"], "text": "because"} if code and "failure" in facts else None,
        "seconds": 0.1,
    }
    text = json.dumps(result)
    part = FOLDER / "result.part"
    part.write_text(text[:40] if facts.get("flaw") == "torn" else text)
    if facts.get("flaw") != "none":
        part.rename(FOLDER / "result.json")
    time.sleep(facts.get("linger_s", 0.0))
    raise SystemExit(code)


main()
