#!/usr/bin/env python3
"""Fail when the code uses a function or keyword that the house rules ban; comments and literals may name them."""
import pathlib
import re
import sys

from c_source import files, strip

BANNED = re.compile(r'(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|strtok|atoi|gets|rand|volatile|alloca)\b')
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[^\n]*', re.M)

root = pathlib.Path(sys.argv[1])
bad = []
found = files(root)
for path in found:
    text = INCLUDE.sub('', strip(path.read_text()))
    for word in BANNED.finditer(text):
        line = text[:word.start()].count('\n') + 1
        bad.append(f'{path.relative_to(root)}:{line}: {word[1]} is banned')
if len(found) < 100:
    bad.append(f'only {len(found)} files were found')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
