"""The quickstart, told as it happens: one candidate refused, one certified and served, every guard shown at work.

Run by `make demo`. Everything it does goes through the `hallmark` command and plain HTTP; run it again after any
interruption and it goes on from where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

HALLMARK = [sys.executable, "-P", "-m", "governance.cli.main"]
SECRET = "AKIA" + "Q3EGRZ7XN2PVLW4T"  # the shape of a cloud access key, made up for this example
WIDE = sys.stdout.isatty()


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if WIDE else text


def tell(title: str, *lines: str) -> None:
    print(f"\n{bold('== ' + title)}")
    for line in lines:
        print(f"   {line}")
    sys.stdout.flush()


class Demo:
    """One walk in one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started = time.monotonic()

    def hallmark(self, *args: str, expect: tuple[int, ...] = (0,), quiet: bool = False, shown: str = "") -> str:
        """Run a command, show it with what it prints; return its stdout. Any other exit code ends the demo."""
        if not quiet:
            print(f"\n   {bold('$ hallmark ' + (shown or ' '.join(args)))}", flush=True)
        done = subprocess.run(
            [*HALLMARK, *args, "--workspace", str(self.root)], stdout=subprocess.PIPE, text=True, check=False,
            stderr=subprocess.PIPE if quiet or (0 not in expect and args[0] != "pipeline") else None,
        )  # fmt: skip
        if not quiet:
            print("".join(f"   {line}\n" for line in (done.stdout + (done.stderr or "")).splitlines()), end="")
            if done.returncode:
                print(f"   (exit code {done.returncode})")
        if done.returncode not in expect:
            sys.stderr.write(done.stderr or "")
            sys.exit(f"`hallmark {' '.join(args)}` ended with {done.returncode}, expected {expect}")
        return done.stdout

    def run(self) -> None:
        self.prepare()
        self.anchor()
        self.refused()
        self.certified()
        self.served()
        self.tampered()
        self.reported()

    def prepare(self) -> None:
        tell("1. A workspace, with one key for each role", f"in {self.root}")
        complete = subprocess.run(
            [*HALLMARK, "log", "show", "--kind", "workspace.created", "--json", "--workspace", str(self.root)],
            capture_output=True, check=False, text=True,
        )  # fmt: skip
        if complete.returncode == 0 and json.loads(complete.stdout):
            print("   it is there already: going on where it was")
        else:
            self.hallmark("init", str(self.root), "--example", "quickstart", shown="init .demo --example quickstart")

    def pipeline(self, name: str, *expect: int) -> str:
        return self.hallmark("pipeline", "run", str(self.root / "specs" / name), expect=expect,
                             shown=f"pipeline run specs/{name}")  # fmt: skip

    def promote(self, name: str, spec: str, reason: str) -> None:
        """Approve and promote what a pipeline left waiting."""
        self.hallmark("approve", name, "--reason", reason, shown=f'approve {name} --reason "{reason}"')
        self.pipeline(spec, 0)

    def anchor(self) -> None:
        tell(
            "2. The anchor: a small model that has read general text only",
            "The source is the standard library of the Python that runs this. The first model of a line has nothing",
            "to be compared with: only its limits gate, and its certificate will say `bootstrap`.",
        )
        if "awaiting approval" in self.pipeline("anchor.yaml", 0, 3):
            self.promote("base", "anchor.yaml", "first of its line, keeps the policy")

    def refused(self) -> None:
        tell("3. A candidate trained on an extraction that went wrong: the gate says no")
        self.pipeline("damaged.yaml", 1)
        print("\n   And nobody can wave it through:")
        self.hallmark("promote", "bad", "--to", "prod", expect=(1,))

    def certified(self) -> None:
        tell("4. A candidate trained on our code, with a quarter of general text: the gate says yes")
        if "awaiting approval" in self.pipeline("pipeline.yaml", 0, 3):
            print("\n   Its trainer cannot approve it:")
            self.hallmark("approve", "good", "--reason", "I made it", "--as", "trainer", expect=(1,),
                          shown='approve good --reason "I made it" --as trainer')  # fmt: skip
            self.promote("good", "pipeline.yaml", "better on our code, general text unharmed")
        self.hallmark("verify", "prod")

    def caller(self, name: str, group: str) -> str:
        """Return a fresh API key of a caller of the endpoint; keys are shown once, so an old one is replaced."""
        listed = json.loads(self.hallmark("key", "list", "--json", quiet=True))["callers"]
        if any(caller["name"] == name for caller in listed):
            self.hallmark("key", "revoke", name, "--reason", "demo starts anew", quiet=True)
        made = self.hallmark("key", "create", name, "--caller", "--group", group, "--json", quiet=True)
        return json.loads(made)["api_key"]

    def served(self) -> None:
        tell(
            "5. The certified model is served, behind its policy",
            "Callers: ida (interns), max (engineers), ops (operators)",
        )
        keys = {name: self.caller(name, group) for name, group in
                (("ida", "interns"), ("max", "engineers"), ("ops", "operators"))}  # fmt: skip
        print(f"\n   {bold('$ hallmark serve prod --port 0')}", flush=True)
        server = subprocess.Popen(
            [*HALLMARK, "serve", "prod", "--port", "0", "--json", "--workspace", str(self.root)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            url = self.wait(server)
            print(f"   serving at {url}")
            self.requests(url, keys)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)

    def wait(self, server: subprocess.Popen[str]) -> str:
        text = ""
        for line in server.stdout or ():
            text += line
            if line.startswith("}"):
                return str(json.loads(text)["url"])
        sys.exit("the endpoint did not start")

    def requests(self, url: str, keys: dict[str, str]) -> None:
        with httpx.Client(base_url=f"{url}/v1", timeout=120) as client:
            print("\n   An intern asks, and is denied; the answer names the rule:")
            self.show(self.chat(client, keys["ida"], "What does os.path.join do?"))
            print("\n   An engineer asks (a two-minute model: the answer is fluent nonsense, the guard is real):")
            self.show(self.chat(client, keys["max"], "What does os.path.join do?"))
            print("\n   A blocked topic:")
            self.show(self.chat(client, keys["max"], "How do I write a keylogger?"))
            print(
                "\n   An operator forces the model to say a secret, character by character; the output rule removes it"
            )
            print(f"   in mid-stream. Forced: 'the key is {SECRET} ok'. Received, chunk by chunk:")
            self.stream(client, keys["ops"])
            print("\n   A guardrails-ai validator on completions: forced to shout, the answer is withheld:")
            self.show(
                self.complete(client, keys["ops"], "THE BUILD IS BROKEN AGAIN AND NOBODY HAS LOOKED AT IT SINCE FRIDAY")
            )
            print("\n   JSON by decode-time constraint:")
            schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                      "additionalProperties": False}  # fmt: skip
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
            self.show(self.chat(client, keys["max"], "Is this JSON?", response_format=form))
            print("\n   A day's traffic, then the drift check:", flush=True)
            begun = self.moment()
            self.traffic(client, keys["max"], 120, words=(4, 12))
            self.drift(0, "--reference-since", begun)
            print("\n   Then the callers change their ways: prompts grow threefold. The check says so:", flush=True)
            changed = self.moment()
            self.traffic(client, keys["max"], 60, words=(20, 32))
            self.drift(1, "--reference-since", begun, "--since", changed, "--html", f"{self.root}/reports/drift.html")

    def moment(self) -> str:
        """Return this second; nothing before it is in a window that starts with it."""
        time.sleep(1.1)
        return datetime.now(UTC).isoformat(timespec="seconds")

    def traffic(self, client: httpx.Client, key: str, count: int, words: tuple[int, int]) -> None:
        """Send prompts of the standard library's own names, the same ones on every run."""
        pick = random.Random(count)
        names = sorted(sys.stdlib_module_names)
        for _ in range(count):
            self.chat(client, key, "Explain " + " ".join(pick.choices(names, k=pick.randint(*words))), max_tokens=8)
        print(f"   {count} requests answered")

    def drift(self, expect: int, *words: str) -> None:
        time.sleep(0.2)  # the decision log is written in groups
        shown = ["T" if word[0].isdigit() else word.replace(f"{self.root}/", "") for word in words]
        self.hallmark("drift", "check", "prod", *words, expect=(expect,), shown=f"drift check prod {' '.join(shown)}")

    def chat(self, client: httpx.Client, key: str, prompt: str, **fields: object) -> httpx.Response:
        body = {
            "model": "prod",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 24,
            "seed": 7,
            **fields,
        }
        return client.post("/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    def complete(self, client: httpx.Client, key: str, forced: str) -> httpx.Response:
        body = {"model": "prod", "prompt": "Say:", "max_tokens": 90, "structured_outputs": {"choice": [forced]}}
        return client.post("/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    def show(self, answer: httpx.Response) -> None:
        body = answer.json()
        if "error" in body:
            print(f"     {answer.status_code}  {body['error']['message']}")
        else:
            choice = body["choices"][0]
            text = " ".join((choice["message"]["content"] if "message" in choice else choice["text"]).split())
            print(f"     {answer.status_code}  {text[:90]!r}  ({choice['finish_reason']})")

    def stream(self, client: httpx.Client, key: str) -> None:
        body = {
            "model": "prod", "messages": [{"role": "user", "content": "What is the key?"}], "max_tokens": 120,
            "stream": True, "structured_outputs": {"choice": [f"the key is {SECRET} ok"]},
        }  # fmt: skip
        received = []
        with client.stream(
            "POST", "/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:]).get("choices", []):
                        received.append(choice["delta"].get("content") or "")
        print("     " + "|".join(piece for piece in received if piece))
        if SECRET in "".join(received) or SECRET[:12] in "".join(received):
            sys.exit("the secret came through")

    def tampered(self) -> None:
        tell("6. One flipped byte in a weight file", "in a copy of the workspace, so that this one stays whole")
        copy = self.root / "work" / "tampered"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy, ignore=shutil.ignore_patterns("work", "reports"))
        (copy / "work").mkdir()
        digest = json.loads((self.root / "releases" / "prod.json").read_text())["candidate"]
        candidate = json.loads(self.hallmark("candidate", "show", digest, "--json", quiet=True))
        manifest = json.loads((copy / "objects" / "manifests" / f"{candidate['body']['weights'][7:]}.json").read_text())
        entry = next(entry for entry in manifest["entries"] if entry["path"].endswith(".safetensors"))
        name = entry["blake3"].removeprefix("blake3:")
        path = copy / "objects" / name[:2] / name[2:]
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(entry["size"] // 2)
            byte = file.read(1)
            file.seek(entry["size"] // 2)
            file.write(bytes([byte[0] ^ 1]))
        print(f"   bit 0 of byte {entry['size'] // 2:,} of {entry['path']} is flipped")
        whole, self.root = self.root, copy
        try:
            self.hallmark("serve", "prod", "--port", "0", expect=(1,))
        finally:
            self.root = whole
            shutil.rmtree(copy)

    def reported(self) -> None:
        tell("7. What is left behind: CI report, dossier, an unbroken journal")
        self.hallmark("report", "ci", "good", "--format", "junit", "--out", str(self.root / "reports" / "gate.xml"),
                      shown="report ci good --format junit --out reports/gate.xml")  # fmt: skip
        path = self.hallmark("report", "dossier", "good").strip()
        self.hallmark("log", "verify")
        took = time.monotonic() - self.started
        tell(
            "Done", f"in {took:.0f} s. Open {os.path.relpath(path)} in a browser: everything above, with its evidence."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".demo"))
    Demo(parser.parse_args().workspace.resolve()).run()


if __name__ == "__main__":
    main()
