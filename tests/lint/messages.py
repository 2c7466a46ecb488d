#!/usr/bin/env python3
"""Fail when README shows a message that the code does not print.

Messages stand as `code` in the first column of README's tables below "Certificate management guide" and the sections on
troubleshooting. What is between their variable parts, if it has three words or more, has to stand in a string literal of src, or
is of the words of the system, libcurl or OpenSSL. A single word in a row of "Troubleshooting traffic" is an end of the access log."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
COMMENT = re.compile(r'/\*.*?\*/', re.S)
LITERAL = r'"((?:\\.|[^"\\\n])*)"'
LITERALS = re.compile(rf'(?:{LITERAL}\s*)+')
FOREIGN = {'Failed to connect to', 'SSL certificate problem', 'unable to get local issuer certificate', 'No space left on device',
           'certificate verify failed', 'wrong version number', 'No such file or directory'}
VARIABLE = re.compile(r': |\.\.\.|\(address [^)]*\)|\bwrite \.trial\b|\b\w+=|\(pid|\d[\d.:]*|\bnginx\b|(?:www\.)?example\.com|/[\w./-]+|\b(?:smartproxy|by)\b')

code = set()
for path in root.glob('src/*/*.c'):
    for run in LITERALS.finditer(COMMENT.sub(' ', path.read_text())):
        code.add(''.join(re.findall(LITERAL, run[0])).replace('\\"', '"'))
everything = '\n'.join(code)

bad = []
cnt = 0
readme = (root / 'README.md').read_text()
ends = (root / 'include/smartproxy/worker.h').read_text()
for title in 'Certificate management guide', 'Troubleshooting traffic', 'Troubleshooting port conflicts':
    section = re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', readme, re.S | re.M)
    for row in re.findall(r'^\| `([^`]+)` \|', section[1] if section else '', re.M):
        if title == 'Troubleshooting traffic' and re.fullmatch(r'[a-z_]+', row) and f'"{row}")' not in ends:
            bad.append(f'README.md, {title}: nothing ends as {row}')
        for part in VARIABLE.split(row):
            part = part.strip(' ,:;()"?')
            if len(part.split()) < 3 or part in FOREIGN:
                continue
            cnt += 1
            if part not in everything:
                bad.append(f'README.md, {title}: nothing prints "{part}" (of: {row})')
if cnt < 20:
    bad.append(f'only {cnt} parts of messages were found in README.md')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
