#!/usr/bin/env python3
"""Fail when a configuration that we show does not pass `smartproxy -t`: etc/*.conf, README's and smartproxy.conf(5)'s.

Usage: samples.py ROOT SMARTPROXY"""
import pathlib
import re
import subprocess
import sys
import tempfile

root, program = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
samples = {path.name: path.read_text() for path in sorted((root / 'etc').glob('*.conf'))}
for i, block in enumerate(re.findall(r'^```\w*\n(.*?)^```', (root / 'README.md').read_text(), re.S | re.M)):
    if re.search(r'^(global|routes|acme)\b\s*[:=]', block, re.M):
        samples[f'README.md-{i}'] = block
page = (root / 'man/smartproxy.conf.5').read_text()
for i, block in enumerate(re.findall(r'^\.nf\n\.RS\n(.*?)^\.RE', page, re.S | re.M)):
    if re.search(r'^routes\b', block, re.M):
        samples[f'smartproxy.conf.5-{i}'] = block.replace('\\-', '-')
failed = not {'smartproxy.conf', 'quickstart.conf'} <= set(samples) or \
    not any(name.startswith('README') for name in samples) or sum(name.startswith('smartproxy.conf.5-') for name in samples) < 8
if failed:
    print('only these samples were found:', ', '.join(samples), file=sys.stderr)
with tempfile.TemporaryDirectory() as folder:
    for path in set(re.findall(r'^\s*ca_file = "(?!/)(.*?)"', samples.get('quickstart.conf', ''), re.M)):
        file = pathlib.Path(folder, path)
        file.parent.mkdir(parents=True)
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ed25519', '-nodes', '-subj', '/CN=sample', '-keyout', '/dev/null', '-out', file],
                       capture_output=True, check=True)
    for name, text in samples.items():
        file = pathlib.Path(folder, name)
        file.write_text(text.replace('user = "smartproxy"', 'user = "nobody"'))  # the one that every system has
        result = subprocess.run([program, '-t', '-c', file], capture_output=True, text=True, check=False, cwd=folder)
        if result.returncode != 0:
            failed = True
            print(f'{name}: exit code {result.returncode}\n{result.stdout}{result.stderr}', file=sys.stderr)
sys.exit(failed)
