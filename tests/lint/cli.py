#!/usr/bin/env python3
"""Fail when the programs and their man pages disagree: options, verbs, paths of the admin API, metrics.

Usage: cli.py ROOT SMARTPROXY SMARTPROXYCTL. Man pages have each as an item, `.TP` and a line `.B` or `.BR` behind it."""
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
bad = []


def section(page, title):
    """The first line of each item of a section, without the markup; lists inside of items do not count."""
    text = (root / 'man' / page).read_text()
    body = re.search(rf'^\.SH "?{title}"?\n(.*?)(?=^\.SH |\Z)', text, re.S | re.M)
    text = re.sub(r'^\.RS\n.*?^\.RE\n', '', body[1] if body else '', flags=re.S | re.M)
    items = re.findall(r'^\.TP(?: \d+)?\n\.BR? (.*)$', text, re.M)
    return [item.replace('\\-', '-').replace('"', ' ').replace(' [', ' ') for item in items]


def usage(program):
    return subprocess.run([program, '--help'], capture_output=True, text=True, check=True).stdout


def compare(page, what, ours, documented):
    bad.extend(f'{page} lacks the {what} {name}' for name in sorted(ours - documented))
    bad.extend(f'{page} documents the {what} {name}, which does not exist' for name in sorted(documented - ours))
    if not ours:
        bad.append(f'no {what} was found for {page}: has the form of the code changed?')


for page, program, source in ('smartproxy.8', sys.argv[2], 'main.c'), ('smartproxyctl.1', sys.argv[3], 'ctl.c'):
    option = re.compile(r'(?<![\w-])(--?[A-Za-z][\w-]*)')
    shown = {o for line in usage(program).splitlines() if line.lstrip().startswith('-') for o in option.findall(line[:24])}
    known = (root / 'src/main' / source).read_text()
    for long, short in re.findall(r'\{ "([\w-]+)", (?:required|no)_argument, NULL, \'(\w)\' \}', known):
        if '--' + long not in shown:
            bad.append(f'{page[:-2]} --help lacks --{long}')
        if re.search(rf'getopt_long\(argc, argv, "[^"]*{short}', known) and '-' + short not in shown:
            bad.append(f'{page[:-2]} --help lacks -{short}')
    compare(page, 'option', shown, {o for item in section(page, 'OPTIONS') for o in option.findall(item)})

verbs = {line.split()[0] for line in re.findall(r'^  ([a-z].*)$', usage(sys.argv[3]), re.M)}
compare('smartproxyctl.1', 'verb', verbs, {item.split()[0] for item in section('smartproxyctl.1', 'VERBS')})

endpoints = re.findall(r'\{ "(GET|PUT|POST|DELETE|PATCH)", "(/[^"]*)"', (root / 'src/control/api.c').read_text())
documented = {' '.join(re.findall(r'^(GET|PUT|POST|DELETE|PATCH) (/[\w/.-]+)', item)[0])
              for item in section('smartproxy.8', 'ADMIN API') if re.match(r'[A-Z]+ /', item)}
compare('smartproxy.8', 'request', {' '.join(e) for e in endpoints}, documented)

code = (root / 'src/control/metrics.c').read_text() + (root / 'src/control/traffic.c').read_text()
metrics = re.findall(r'\bmetrics_(?:head|counter|gauge|directions)\(t,\s*"(\w+)"', code) + re.findall(r'\{ "(target_\w+)"', code)
documented = {m for item in section('smartproxy.8', 'METRICS') for m in re.findall(r'smartproxy_(\w+)', item)}
compare('smartproxy.8', 'metric', set(metrics), documented)
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
