#!/usr/bin/env python3
"""Fail when a .c file, a door or a function is longer than the house rules allow. The rest is said by clang-tidy."""
import pathlib
import re
import sys

from c_source import files, strip

FILE_MAX, DOOR_MAX, FUNCTION_MAX = 700, 150, 60
LONGER = {  # with the reason; the number is the most that the reason buys
    'include/smartproxy/config.h': (300, 'the typed model of every key, one line a field'),
    'subprojects/wire/include/wire/h1.h': (250, 'two lists of names, of methods and of reasons, and both message heads'),
}
FUNCTION = re.compile(r'^(?P<head>[A-Za-z_][^;={}\n]*(?:\n[ \t]+[^;={}\n]*)*)\n\{\n(?P<body>.*?)^\}', re.S | re.M)

root = pathlib.Path(sys.argv[1])
bad = []
functions = 0
for path in files(root):
    name = str(path.relative_to(root))
    text = strip(path.read_text())
    most = DOOR_MAX if path.suffix == '.h' and 'include' in path.parts else FILE_MAX
    most = LONGER.get(name, (most,))[0]
    lines = text.count('\n')
    if lines > most:
        bad.append(f'{name}: {lines} lines, at most {most}')
    for function in FUNCTION.finditer(text):
        functions += 1
        length = function['body'].count('\n')
        if length > FUNCTION_MAX:
            line = text[:function.start()].count('\n') + 1
            title = re.search(r'(\w+)\s*\(', function['head'])
            bad.append(f'{name}:{line}: {title[1] if title else "?"} has {length} lines, at most {FUNCTION_MAX}')
bad += [f'{name}: is in the list of exceptions, and is not there' for name in LONGER if not (root / name).exists()]
if functions < 1000:
    bad.append(f'only {functions} functions were found: has the form of the code changed?')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
