"""Python values to libconfig text: dict -> group, list of scalars of one type -> array, other list or tuple -> list."""


def scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        out = []
        for ch in value:
            if ch in '"\\':
                out.append("\\" + ch)
            elif ch == "\n":
                out.append("\\n")
            elif ch == "\r":
                out.append("\\r")
            elif ch == "\t":
                out.append("\\t")
            else:
                out.append(ch)
        return '"' + "".join(out) + '"'
    raise TypeError(type(value))


def value_text(value, indent):
    pad = "  " * indent
    if isinstance(value, dict):
        inner = "".join(f"{pad}  {k} = {value_text(v, indent + 1)};\n" for k, v in value.items())
        return "{\n" + inner + pad + "}"
    if isinstance(value, (list, tuple)):
        if isinstance(value, list) and value and type(value[0]) in (str, int) and len({type(v) for v in value}) == 1:
            return "[ " + ", ".join(scalar(v) for v in value) + " ]"
        return "(\n" + ",\n".join(f"{pad}  {value_text(v, indent + 1)}" for v in value) + "\n" + pad + ")"
    return scalar(value)


def to_libconfig(config):
    return "".join(f"{k} = {value_text(v, 0)};\n" for k, v in config.items())


def ports_of(routes):
    found = []
    for r in routes:
        for port in r["match"]["ports"]:
            if isinstance(port, int) and port not in found:
                found.append(port)
    return found


def respond(name, ports, body="ok\n", status=200, domains=None, path=None, tls=None, **match):
    """A route that answers by itself."""
    r = {"name": name, "match": {"ports": list(ports), **match},
         "action": {"type": "respond", "status": status, "body": body}}
    return finish_route(r, domains, path, tls)


def forward(name, ports, targets, domains=None, path=None, tls=None, **match):
    """A route to origins on loopback; targets are ports, (host, port) or dicts."""
    r = {"name": name, "match": {"ports": list(ports), **match}, "action": {"type": "forward", "targets": target_list(targets)}}
    return finish_route(r, domains, path, tls)


def target_list(targets):
    """Ports, (host, port) or whole dicts."""
    return tuple(t if isinstance(t, dict) else {"host": t[0], "port": t[1]} if isinstance(t, tuple)
                 else {"host": "127.0.0.1", "port": t} for t in targets)


def upstream(name, targets, **options):
    """An entry of the top-level list "upstreams"."""
    return {"name": name, "targets": target_list(targets), **options}


def to_upstream(name, ports, upstream_name, domains=None, path=None, tls=None, protocol=None, **match):
    r = {"name": name, "match": {"ports": list(ports), **match}, "action": {"type": "forward", "upstream": upstream_name}}
    if protocol:
        r["action"]["protocol"] = protocol
    return finish_route(r, domains, path, tls)


def tcp(name, ports, targets, domains=None, tls=None, **match):
    """A raw TCP route, or TLS to raw TCP."""
    r = {"name": name, "match": {"ports": list(ports), **match},
         "action": {"type": "forward", "protocol": "tcp", "targets": target_list(targets)}}
    return finish_route(r, domains, None, tls)


def passthrough(name, ports, targets, domains=None, **match):
    r = {"name": name, "match": {"ports": list(ports), **match}, "action": {"type": "forward", "targets": target_list(targets)}}
    return finish_route(r, domains, None, {"mode": "passthrough"})


def reencrypt(chain_file, key_file, **upstream_tls):
    """The tls group of a terminate-and-reencrypt route."""
    return {"mode": "terminate-and-reencrypt", "certificate": {"chain_file": chain_file, "key_file": key_file},
            "upstream": upstream_tls}


def redirect(name, ports, location, status=301, domains=None, path=None, tls=None, **match):
    r = {"name": name, "match": {"ports": list(ports), **match},
         "action": {"type": "redirect", "location": location, "status": status}}
    return finish_route(r, domains, path, tls)


def block(name, ports, domains=None, path=None, **match):
    r = {"name": name, "match": {"ports": list(ports), **match}, "action": {"type": "block"}}
    return finish_route(r, domains, path, None)


AUTO = {"mode": "terminate", "certificate": "auto"}


def static_tls(chain_file, key_file):
    return {"mode": "terminate", "certificate": {"chain_file": chain_file, "key_file": key_file}}


def finish_route(r, domains, path, tls):
    if domains:
        r["match"]["domains"] = list(domains)
    if path:
        r["match"]["path"] = path
    if tls:
        r["action"]["tls"] = tls
    return r
