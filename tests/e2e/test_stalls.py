"""What stands still outside (a nameserver, the reader of stderr, the terminal) holds up nothing; and signals while the start is under way."""
import os
import socket
import subprocess

from sp import main, until
from sp.conf import AUTO, respond
from sp.runner import Skip



# ---- nameservers that are silent

def silent_nameserver(t):
    """The socket of a nameserver that never answers, and the wrapper of a process that knows no other. getaddrinfo waits a minute."""
    t.need_namespace()
    t.need("unshare", "mount")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    t.cleanup(server.close)
    server.settimeout(20)
    server.bind(("127.0.0.53", 53))
    resolv = t.path("resolv.conf")
    with open(resolv, "w") as f:
        f.write("nameserver 127.0.0.53\noptions timeout:30 attempts:2\n")
    wrapper = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', resolv]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        raise Skip("no mount namespace of its own")
    return server, wrapper


def wait_question(server, name):
    """Until somebody asks for the name: the look-up is under way."""
    while name.encode() not in server.recv(512):
        pass


def test_a_nameserver_that_is_silent_holds_up_no_reload_and_no_stop(t):
    server, wrapper = silent_nameserver(t)
    route = respond("a", [t.port()], domains=["a.test"], tls=AUTO)
    p = t.proxy([route], wrapper=wrapper, acme={"directory": "https://one.silent.test/dir", "port": t.port()})
    wait_question(server, "silent")
    p.config["acme"]["directory"] = "https://two.silent.test/dir"
    p.write()
    assert p.api("POST", "/v1/reload", timeout_s=15).status == 200
    wait_question(server, "two")
    p.put_routes([respond("b", [t.port()])])  # gives up the order, and the look-up with it
    assert p.api("GET", "/v1/status", timeout_s=15).status == 200
    assert p.put_routes([route]).status == 200
    wait_question(server, "two")
    p.stop(15)


if __name__ == "__main__":
    main()
