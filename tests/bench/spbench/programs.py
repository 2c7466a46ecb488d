"""How each program is set up for a kind of work; all of them for the same work before the same origin.

kinds: http, deferred (HTTP, all accept connections with their first bytes), tls (ended here, HTTP forwarded), hosts (HTTP for as
many names as cnt says), certs (TLS for cnt names, a certificate each, from the folder certs), passthrough (TLS, by SNI), tcp."""
from .bench import LOAD_CPU, PROXY_CPU, free_port

STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
TUNNELS = ("passthrough", "tcp")
WITH_FLOOR = ("http", *TUNNELS)


def target_of(bench, kind):
    return bench.tls_origin_port if kind == "passthrough" else bench.origin_port


# ---- SmartProxy ----

def route(name, port, action, domain=None):
    domains = f' domains = [ "{domain}" ];' if domain else ""
    return f'{{ name = "{name}"; match = {{ ports = [ {port} ];{domains} }}; action = {{ {action} }}; }}'


def tls_files(chain, key):
    return f'tls = {{ certificate = {{ chain_file = "{chain}"; key_file = "{key}"; }}; }};'


def ours_routes(bench, kind, port, cnt):
    forward = 'type = "forward"; upstream = "origin";'
    if kind == "hosts":
        return [route(f"r{ix}", port, forward, f"host{ix}.test") for ix in range(cnt)]
    if kind == "certs":
        own = route("localhost", port, f"{forward} {tls_files(bench.cert, bench.key)}", "localhost")
        file = bench.path("certs") + "/host%d.test.pem"
        return [own] + [route(f"r{ix}", port, f"{forward} {tls_files(file % ix, file % ix)}", f"host{ix}.test") for ix in range(cnt)]
    more = {"tls": tls_files(bench.cert, bench.key), "passthrough": 'tls = { mode = "passthrough"; };', "tcp": 'protocol = "tcp";'}
    return [route("all", port, f"{forward} {more.get(kind, '')}")]


def ours(bench, kind, cnt=0, workers=1, cpus=PROXY_CPU, binary=None):
    argv, port, control = ours_argv(bench, kind, cnt, workers, binary)
    return bench.start(argv, port, cpus, control)


def ours_argv(bench, kind, cnt=0, workers=1, binary=None):
    name, port = bench.new_name("ours"), free_port()
    control = bench.path(name + ".sock")
    routes = ",\n".join(ours_routes(bench, kind, port, cnt))
    file = bench.write(name + ".conf", f"""global: {{ workers = {workers}; state_dir = "{bench.path(name + "-state")}";
control = {{ path = "{control}"; }}; log = {{ level = "error"; }}; }};
upstreams: ( {{ name = "origin"; targets = ( {{ host = "127.0.0.1"; port = {target_of(bench, kind)}; }} ); }} );
routes: (
{routes}
);""")
    return [binary or bench.options.binary, "-c", file], port, control


# ---- nginx ----

def nginx_argv(bench, what, body):
    name = bench.new_name(what)
    load = f"load_module {STREAM};\n" if "stream {" in body else ""
    temp_paths = " ".join(f"{kind}_temp_path {bench.path(name + kind)};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = bench.write(name + ".conf", f"""{load}daemon off; master_process off; worker_processes 1; pid {bench.path(name)}.pid;
error_log stderr crit; worker_rlimit_nofile 20000; events {{ worker_connections 9000; }}
{body.replace("TEMP_PATHS", temp_paths)}""")
    return ["nginx", "-p", bench.dir, "-c", file, "-e", "stderr"]


def origin(bench):
    return bench.start(nginx_argv(bench, "origin", f"""http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
keepalive_timeout 1h; open_file_cache max=10; TEMP_PATHS
server {{ listen 127.0.0.1:{bench.origin_port}; listen 127.0.0.1:{bench.tls_origin_port} ssl; ssl_certificate {bench.cert};
ssl_certificate_key {bench.key}; ssl_session_tickets off; root {bench.path("www")}; }} }}"""), bench.origin_port, LOAD_CPU)


def nginx_tunnel(bench, kind, port):
    target = target_of(bench, kind)
    if kind == "passthrough":
        choose, go = f"map $ssl_preread_server_name $to {{ default 127.0.0.1:{target}; }}", "ssl_preread on; proxy_pass $to;"
    else:
        choose, go = "", f"proxy_pass 127.0.0.1:{target};"
    return f"stream {{ {choose}\nserver {{ listen 127.0.0.1:{port} reuseport; {go} tcp_nodelay on; }} }}"


def nginx_http(bench, kind, port, cnt):
    protocols = "ssl_protocols TLSv1.2 TLSv1.3"
    location = """location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }"""
    names = f"server_names_hash_max_size {max(65536, 4 * cnt)}; server_names_hash_bucket_size 128;\n" if cnt else ""
    own = f"ssl_certificate {bench.cert}; ssl_certificate_key {bench.key}; {protocols};"
    if kind == "hosts":
        servers = [f"server {{ listen 127.0.0.1:{port} reuseport; return 404; }}"]
        servers += [f"server {{ listen 127.0.0.1:{port}; server_name host{ix}.test; {location} }}" for ix in range(cnt)]
    elif kind == "certs":
        file = bench.path("certs") + "/host%d.test.pem"
        servers = [f"server {{ listen 127.0.0.1:{port} reuseport ssl; {own} return 404; }}"]
        servers += [f"server {{ listen 127.0.0.1:{port} ssl; server_name host{ix}.test; ssl_certificate {file % ix}; "
                    f"ssl_certificate_key {file % ix}; {location} }}" for ix in range(cnt)]
    else:
        tls = kind == "tls"
        more = {"tls": " ssl", "deferred": " deferred"}.get(kind, "")
        servers = [f"server {{ listen 127.0.0.1:{port} reuseport{more}; {own if tls else ''} {location} }}"]
    return f"""http {{ access_log off; keepalive_requests 1000000000; TEMP_PATHS {names}
upstream up {{ server 127.0.0.1:{bench.origin_port}; keepalive 128; keepalive_requests 1000000000; }}
{chr(10).join(servers)} }}"""


def peer_nginx_argv(bench, kind, cnt=0):
    port = free_port()
    body = nginx_tunnel(bench, kind, port) if kind in TUNNELS else nginx_http(bench, kind, port, cnt)
    return nginx_argv(bench, "nginx", body), port, None


# ---- HAProxy ----

def haproxy_front(bench, kind, cnt):
    if kind == "tcp":
        return "", "  default_backend b\n"
    if kind == "passthrough":
        return "", ("  tcp-request inspect-delay 5s\n  tcp-request content accept if { req_ssl_hello_type 1 }\n"
                    "  use_backend b if { req.ssl_sni -m found }\n  default_backend b\n")
    if kind == "hosts":
        file = bench.write(bench.new_name("hosts") + ".map", "".join(f"host{ix}.test b\n" for ix in range(cnt)))
        return "", f"  use_backend %[req.hdr(host),lower,map({file})]\n"
    if kind == "deferred":
        return " defer-accept", "  default_backend b\n"
    crt = {"tls": bench.both, "certs": f"{bench.both} crt {bench.path('certs')}/"}
    return f" ssl crt {crt[kind]} alpn http/1.1" if kind in crt else "", "  default_backend b\n"


def peer_haproxy_argv(bench, kind, cnt=0):
    port = free_port()
    bind, choose = haproxy_front(bench, kind, cnt)
    is_tunnel = kind in TUNNELS
    mode = "tcp" if is_tunnel else "http"
    text = f"""global
  nbthread 1
  maxconn 9000
defaults
  mode {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port}{bind}
{"" if is_tunnel else "  option forwardfor"}
{choose}backend b
{"" if is_tunnel else "  http-reuse always"}
  server s 127.0.0.1:{target_of(bench, kind)}
"""
    return ["haproxy", "-db", "-f", bench.write(bench.new_name("haproxy") + ".cfg", text)], port, None


# ---- the floor, and all of them ----

def floor_argv(bench, kind, _cnt=0):
    port = free_port()
    return [bench.compile("floor"), str(port), str(target_of(bench, kind))], port, None


def before_argv(bench, kind, cnt=0):
    return ours_argv(bench, kind, cnt, binary=bench.options.before)


ARGV = {"smartproxy": ours_argv, "nginx": peer_nginx_argv, "haproxy": peer_haproxy_argv, "floor": floor_argv, "before": before_argv}


def names_for(bench, kind):
    return ["smartproxy", "nginx", "haproxy"] + (["floor"] if kind in WITH_FLOOR else []) + (["before"] if bench.options.before else [])


def start(bench, name, kind, cnt=0):
    argv, port, control = ARGV[name](bench, kind, cnt)
    return bench.start(argv, port, PROXY_CPU, control)
