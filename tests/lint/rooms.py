#!/usr/bin/env python3
"""Fail when a room includes a room that is not below it, or another room's private header."""
import pathlib
import re
import sys

# Rooms in their one order, with the doors of each. A room may include its own doors and those of rooms above it here.
ROOMS = [
    ('base', {'alloc', 'arena', 'assert', 'buf', 'clock', 'err', 'fault', 'list', 'log', 'rand', 'rcu', 'text', 'thread'}),
    ('config', {'config'}),
    ('net', {'addr', 'listener', 'loop', 'resolver', 'socket'}),
    ('limit', {'limit'}),
    ('tls', {'tls', 'tls_client', 'tls_key'}),
    ('route', {'challenge', 'route'}),
    ('upstream', {'upstream', 'upstream_conn', 'upstream_view'}),
    ('generation', {'generation'}),
    ('proxy', {'worker'}),
    ('acme', {'acme'}),
    ('control', {'control'}),
    ('main', set()),
]
OWN_LIBRARIES = {'openssl/': {'tls'}, 'curl/': {'acme', 'main'}, 'ares.h': {'net'}, 'libconfig.h': {'config'}, 'urcu': {'base'}}
root = pathlib.Path(sys.argv[1])
level = {name: i for i, (name, _) in enumerate(ROOMS)}
owner = {door: name for name, doors in ROOMS for door in doors}
bad = []
files = [(p, p.parent.name) for p in root.glob('src/*/*.[ch]')]
files += [(p, owner.get(p.stem, '?')) for p in root.glob('include/smartproxy/*.h')]
for path, room in files:
    if room not in level:
        bad.append(f'{path}: belongs to no room')
        continue
    text = path.read_text()
    for inc in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M):
        if inc.endswith('.def') or inc.startswith('wire/'):
            continue
        if inc.startswith('smartproxy/'):
            other = owner.get(pathlib.Path(inc).stem, '?')
            if level.get(other, 99) > level[room]:
                bad.append(f'{path}: {room} must not include {other} ({inc})')
        elif not (path.parent / inc).exists() or '/' in inc:
            bad.append(f'{path}: private header of another room ({inc})')
    for inc in re.findall(r'^\s*#\s*include\s+<([^>]+)>', text, re.M):
        for library, rooms in OWN_LIBRARIES.items():
            if inc.startswith(library) and room not in rooms:
                bad.append(f'{path}: only {", ".join(sorted(rooms))} may include <{inc}>')
print('\n'.join(bad), file=sys.stderr)
sys.exit(bool(bad))
