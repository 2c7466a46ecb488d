"""Node.js with the packages of tests/e2e/package.json, which tests/run installs below build/ and prepare() installs else."""
import os
import shutil
import subprocess

from .process import Command, die_with_parent
from .runner import Skip

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLACES = (os.path.join(FOLDER, "..", "..", "build", "npm"), os.path.join(os.path.expanduser("~"), ".cache", "smartproxy-tests", "npm"))
_problem = ""


def find():
    for place in PLACES:
        modules = os.path.join(place, "node_modules")
        if os.path.exists(os.path.join(modules, "ws", "package.json")):
            return os.path.realpath(modules)
    return None


def prepare():
    """To be called before the tests have a network of their own: from there no registry can be reached."""
    global _problem
    if find() or not shutil.which("node"):
        return
    if not shutil.which("npm"):
        _problem = "npm is not installed"
        return
    try:
        os.makedirs(PLACES[1], exist_ok=True)
        shutil.copy(os.path.join(FOLDER, "package.json"), PLACES[1])
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=PLACES[1], capture_output=True,
                              text=True, timeout=60, check=False)
        if done.returncode != 0:
            _problem = "npm install: " + (done.stderr.strip().splitlines() or ["failed"])[-1]
    except (OSError, subprocess.TimeoutExpired) as e:
        _problem = f"npm install: {e}"


def environment():
    modules = find()
    if not shutil.which("node"):
        raise Skip("node is not installed")
    if not modules:
        raise Skip("npm's ws is not installed: " + (_problem or "run tests/run, or npm install in build/npm"))
    return dict(os.environ, NODE_PATH=modules)


def start(test, script, *args):
    """A script of this folder that runs until the test's end, its stderr read line by line."""
    command = Command(["node", os.path.join(FOLDER, script), *map(str, args)], env=environment())
    test.cleanup(command.kill)
    return command


def run(script, *args, timeout_s=100):
    """A script that must end with exit code 0."""
    done = subprocess.run(["node", os.path.join(FOLDER, script), *map(str, args)], env=environment(), capture_output=True, text=True,
                          timeout=timeout_s, check=False, preexec_fn=die_with_parent)
    assert done.returncode == 0, f"{script} {args}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
