"""Create the environment in .venv: `python3 bootstrap.py` (what `make setup` runs; a second run does nothing).

Only the standard library, and syntax that an old Python can read: it must be able to say that the Python is too old.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
LOCK = os.path.join(ROOT, "requirements", "all.txt")
UV_LOCK = os.path.join(ROOT, "requirements", "uv.txt")
MARKER = os.path.join(VENV, ".complete")
PYTHON_MIN, PYTHON_END = (3, 11), (3, 14)
FETCH_GB, DISK_GB = 3.3, 8.0  # measured on Linux x86-64: the lock's wheels packed, and unpacked with the cache


def stop(message):
    sys.exit("error: " + message)


def fingerprint():
    """What the environment was made from: the lock and the interpreter."""
    with open(LOCK, "rb") as lock:
        return hashlib.sha256(lock.read() + sys.version.encode() + ROOT.encode()).hexdigest()


def check_machine():
    """Stop with one sentence and its remedy when something is missing, before anything is fetched."""
    version = "%d.%d.%d" % sys.version_info[:3]
    if not PYTHON_MIN <= sys.version_info[:2] < PYTHON_END:
        stop(
            "Python 3.11, 3.12 or 3.13 is needed, this is %s; install one and run `make PYTHON=python3.12 ...`"
            % version
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        stop("this Python has no `venv`; on Debian or Ubuntu: apt-get install python%d.%d-venv" % sys.version_info[:2])
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < DISK_GB:
        stop("%.1f GB free in %s, the environment needs about %.0f GB; free some space" % (free_gb, ROOT, DISK_GB))
    return "Python %s, %.0f GB of disk free" % (version, free_gb)


def package_index(pip):
    """Uv does not read pip's configuration: hand over an index that somebody set for pip."""
    env = dict(os.environ)
    if not any(name in env for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        index = (
            env.get("PIP_INDEX_URL")
            or subprocess.run(
                [*pip, "config", "get", "global.index-url"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            .stdout.decode()
            .strip()
        )
        if index:
            env["UV_DEFAULT_INDEX"] = index
    return env


def main():
    """Check, say what will be fetched, create, install, mark as complete."""
    wanted = fingerprint()
    if os.path.exists(MARKER):
        with open(MARKER) as marker:
            if marker.read() == wanted:
                return
    machine = check_machine()
    sys.stdout.write(
        "Setting up .venv (%s): about %.1f GB of pinned, hash-checked packages to fetch, %.0f GB on disk.\n"
        % (machine, FETCH_GB, DISK_GB)
    )
    sys.stdout.flush()
    if os.path.exists(MARKER):
        os.remove(MARKER)
    python = os.path.join(VENV, "bin", "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([*pip, "install", "--quiet", "--require-hashes", "-r", UV_LOCK], check=True)
        uv = [os.path.join(VENV, "bin", "uv"), "pip", "sync", "--python", python, "--require-hashes", LOCK]
        subprocess.run(uv, check=True, env=package_index(pip))
    except subprocess.CalledProcessError as error:
        stop("setting up failed (%s); what went wrong is above. Check the network and run the command again" % error)
    with open(MARKER, "w") as marker:
        marker.write(wanted)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the next run starts the set-up again")
