#!/usr/bin/env python3
"""Fail when mandoc finds fault with a man page. Skipped (77) without mandoc."""
import pathlib
import shutil
import subprocess
import sys

program = shutil.which('mandoc')
if not program:
    print('mandoc is not installed', file=sys.stderr)
    sys.exit(77)
pages = sorted(pathlib.Path(sys.argv[1], 'man').glob('*.[0-9]'))
sys.exit(not pages or bool(subprocess.run([program, '-T', 'lint', '-W', 'warning', *pages], check=False).returncode))
