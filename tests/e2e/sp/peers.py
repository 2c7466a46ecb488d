"""Real proxies beside ours, as origins or in front: nginx and HAProxy, each from a configuration text."""
import os
import signal

from .pebble import is_open
from .process import Command
from .wait import until


class Peer:
    def __init__(self, test, argv, ports):
        self.command = Command(argv)
        test.cleanup(self.stop)
        for port in ports:
            until(lambda p=port: self.is_ready(p), 10, f"{argv[0]} on port {port}:\n{self.command.tail(10)}")

    def is_ready(self, port):
        if self.command.process.poll() is not None:
            raise AssertionError(f"{self.command.argv[0]} ended:\n{self.command.tail(20)}")
        return is_open(port)

    def stop(self):
        if self.command.process.poll() is None:
            self.command.process.send_signal(signal.SIGTERM)
            try:
                self.command.process.wait(5)
            except Exception:
                pass
        self.command.kill()


def nginx(test, http="", stream="", ports=()):
    """http, stream: the contents of those blocks; ports: that it will listen on (without PROXY protocol)."""
    test.need("nginx")
    folder = test.path(f"nginx{len(test.undo)}")
    os.makedirs(os.path.join(folder, "logs"))
    os.chmod(test.dir, 0o755)
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    load = f"load_module {module};\n" if stream and os.path.exists(module) else ""
    text = (f"{load}daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr warn;\n"
            f"events {{ worker_connections 4096; }}\n")
    if http:
        paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text += f"http {{ access_log off; {paths}\n{http}\n}}\n"
    if stream:
        text += f"stream {{\n{stream}\n}}\n"
    file = os.path.join(folder, "nginx.conf")
    with open(file, "w") as f:
        f.write(text)
    return Peer(test, ["nginx", "-p", folder, "-c", file], ports)


def haproxy(test, text, ports=()):
    """text: everything but the global section and the time-outs."""
    test.need("haproxy")
    file = test.path(f"haproxy{len(test.undo)}.cfg")
    with open(file, "w") as f:
        f.write("global\n  maxconn 4000\n  ssl-server-verify none\ndefaults\n  timeout connect 5s\n  timeout client 120s\n"
                "  timeout server 120s\n  timeout tunnel 120s\n" + text + "\n")
    return Peer(test, ["haproxy", "-db", "-f", file], ports)
