"""A machine without gcloud: stubs with a journal and lists of answers, on a PATH that holds nothing which reaches out.

Desk is the user's machine. What a stub receives is compared with what a shell reads in a printed line.
"""

import os
import pathlib
import shutil
import stat
import subprocess
import time

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch"
BASH = shutil.which("bash")
TOOLS = "bash cat cut date dirname flock grep head mkdir mktemp nohup rm sed setsid sleep tail touch tr".split()
UNIT = "\x1f"  # between the words of a journal's line

GCLOUD = r"""#!{bash}
printf '%s\x1f' gcloud "$@" >>{root}/journal; echo >>{root}/journal
pop() {{
    read -r answer <"$1" || exit 1
    tail -n +2 "$1" >"$1.rest"; cat "$1.rest" >"$1"
    case $answer in
        fail*) echo "ERROR: ${{answer#fail}}" >&2; exit 1 ;;
        *) echo "$answer" ;;
    esac
}}
case "$3 $4 $*" in
    *"describe "*) pop {root}/states ;;
    *" create "*) if [[ -e {root}/creates ]]; then pop {root}/creates; fi ;;
    *"worker.sh status"*) pop {root}/trainings ;;
esac
"""
JOURNAL = r"""#!{bash}
printf '%s\x1f' "${{0##*/}}" "$@" >>{root}/journal; echo >>{root}/journal
"""


class Desk:
    """The user's machine: tpu.sh with stubs for gcloud, tar and sleep."""

    def __init__(self, root):
        self.root, self.bin = root, root / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.add("gcloud", GCLOUD)
        self.add("tar", JOURNAL)
        (self.bin / "sleep").unlink()
        self.add("sleep", '#!{bash}\necho "$1" >>{root}/slept\n')
        self.answers(states=["READY"], trainings=["training: finished"])

    def add(self, name, source):
        (self.bin / name).write_text(source.format(bash=BASH, root=self.root))
        (self.bin / name).chmod(stat.S_IRWXU)

    def answers(self, **lists):
        for name, lines in lists.items():
            (self.root / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, *arguments, **environment):
        return subprocess.run(
            [BASH, str(LAUNCH / "tpu.sh"), *arguments],
            capture_output=True, text=True, timeout=60, cwd=self.root,
            env={**os.environ, "PATH": str(self.bin), "TMPDIR": str(self.root), **environment},
        )  # fmt: skip

    def calls(self, least=0):
        """The words of every call since the last time, once there are so many at least."""
        journal = self.root / "journal"
        while len(lines := journal.read_text().splitlines() if journal.exists() else []) < least:
            time.sleep(0.02)
        journal.unlink(missing_ok=True)
        return [line.split(UNIT)[:-1] for line in lines]

    def assert_refused(self, arguments, beginning, received):
        """In one sentence on standard error, with exit code 2, before anything is called."""
        result = self.run(*arguments)
        assert (result.returncode, result.stdout, self.calls()) == (2, "", [])
        assert result.stderr.startswith(beginning) and result.stderr.endswith(f"{received}.\n")
        assert result.stderr.count("\n") == 1

    def slept(self):
        return [int(line) for line in (self.root / "slept").read_text().split()]
