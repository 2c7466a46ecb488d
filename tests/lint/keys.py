#!/usr/bin/env python3
"""Fail when smartproxy.conf(5) and the table of keys disagree: a key without an item, an item without a key, another default.

Rows that two groups share are a macro NAME_KEYS(prefix), used with each prefix. In the man page a group's keys stand below a line `.SS PATH` ("top level" for the root), each as `.TP` and `.B NAME`."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
table = ''.join(path.read_text() for path in sorted((root / 'src/config').glob('keys*.c')))
shared = re.compile(r'#define (\w+_KEYS)\(prefix\)((?:.*\\\n)+.*\n)')
for macro, body in shared.findall(table):
    uses = re.findall(macro + r'\("([^"]*)"\)', table)
    table += ''.join(body.replace('KEY(prefix,', f'KEY("{prefix}",') for prefix in uses)
table = shared.sub('', table)
rows = {}
starts = list(re.finditer(r'\bKEY\(\s*"([^"]*)",\s*"([^"]+)"\)', table))
for row, following in zip(starts, starts[1:] + [None]):
    body = table[row.end():following.start() if following else len(table)]
    default = re.search(r'\.default_text\s*=\s*"([^"]*)"', body)
    rows[row[1] + row[2]] = default[1] if default else None

items = {}
group = name = None
man = (root / 'man/smartproxy.conf.5').read_text().splitlines()
for number, line in enumerate(man):
    if line.startswith('.SH'):
        group = name = None
    elif line.startswith('.SS'):
        group, name = line[3:].strip().strip('"'), None
        group = '' if group == 'top level' else group + '.'
    elif line.startswith('.B ') and man[number - 1].startswith('.TP') and group is not None:
        name = group + line[3:].strip()
        items[name] = ''
    elif name:
        items[name] += line.replace('\\-', '-') + '\n'

bad = [f'smartproxy.conf.5 lacks an item for {key}' for key in rows if key not in items]
bad += [f'smartproxy.conf.5 documents {key}, which is no key' for key in items if key not in rows]
for key, default in rows.items():
    if default and key in items and not re.search(r'[Dd]efault:? ' + re.escape(default) + r'(?![\w/])', items[key]):
        bad.append(f'smartproxy.conf.5 does not say of {key}: "default {default}"')
if len(rows) < 120:
    bad.append(f'only {len(rows)} rows were found in src/config/keys*.c: has its form changed?')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
