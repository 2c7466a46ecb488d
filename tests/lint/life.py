#!/usr/bin/env python3
"""Fail when README's "Life of one ..." names a function that its file does not define.

In these sections each function stands as `name`, alone or joined by commas and "and", before its file in parentheses."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
readme = (root / 'README.md').read_text()
NAME = r'`[a-z][a-z0-9_]*`'
GROUP = re.compile(rf'((?:{NAME})(?:(?:,| and|, and)\s+{NAME})*)\s+\(([\w./-]+\.c)\)')
bad = []
for title in 'Life of one connection', 'Life of one request', 'Life of one tunnel', 'Life of one certificate':
    section = re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', readme, re.S | re.M)
    if not section:
        bad.append(f'README.md has no section "{title}"')
        continue
    cnt = 0
    for names, file in GROUP.findall(section[1]):
        text = (root / file).read_text() if (root / file).exists() else None
        if text is None:
            bad.append(f'README.md, {title}: there is no file {file}')
        for name in re.findall(r'`(\w+)`', names):
            cnt += 1
            if text is not None and not re.search(rf'^[A-Za-z][^\n;=]*\b{name}\([^;{{}}]*\)\n\{{', text, re.M):
                bad.append(f'README.md, {title}: {file} defines no {name}')
    rest = GROUP.sub('', section[1])
    bad += [f'README.md, {title}: {name} has no file behind it' for name in re.findall(NAME, rest) if '_' in name]
    if cnt < 8:
        bad.append(f'README.md, {title}: only {cnt} functions')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
