#!/usr/bin/env python3
"""Fail when clang-format would change a file. Skipped (77) without clang-format."""
import shutil
import subprocess
import sys

from c_source import files

program = shutil.which('clang-format')
if not program:
    print('clang-format is not installed', file=sys.stderr)
    sys.exit(77)
sys.exit(bool(subprocess.run([program, '--dry-run', '-Werror', *map(str, files(sys.argv[1]))], check=False).returncode))
