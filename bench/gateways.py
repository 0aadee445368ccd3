"""The processes of the gateway's measurements: the mock worker, and what stands before it. Each has a URL and an account
of what it uses."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from processes import STOP_SECONDS, announced, get

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
NGINX = "nginx"
# Enough for ten thousand streams, each with a connection on either side.
NGINX_CONNECTIONS = 32768


class Gateway:
    """A process that listens, and its children."""

    def __init__(self, process: subprocess.Popen, port: int):
        self.process, self.address = process, f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=STOP_SECONDS)

    def pids(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def cpu_seconds(self):
        """Time on a processor since the start, in user's code and the kernel's."""
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS_PER_SECOND

    def resident_bytes(self):
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")


class Mock(Gateway):
    """The worker that answers at once, with its hive on the same port."""

    def __init__(self, programs: Path, *flags: str):
        command = [programs / "gateway-load", "mock", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        super().__init__(process, port_of(announced(process)))


class Queen(Gateway):
    """A queen of her own data directory, attached to the mock's hive."""

    def __init__(self, programs: Path, mock: Mock):
        self.folder = tempfile.TemporaryDirectory(prefix="rbee-bench-")
        command = [programs / "queen-rbee", "daemon", "--port", "0", "--data-dir", self.folder.name]
        command += ["--local-hive", "attach", "--hive-port", mock.address.split(":")[1], "--log-level", "warn"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        super().__init__(process, port_of(announced(process)))
        while not get(self.url, "/v1/models")[1]["data"]:
            time.sleep(0.02)

    def __exit__(self, *_):
        super().__exit__()
        self.folder.cleanup()


class Nginx(Gateway):
    """nginx as a plain proxy that keeps its connections: what a gateway costs that only passes bytes on."""

    def __init__(self, mock: Mock):
        self.folder = tempfile.TemporaryDirectory(prefix="rbee-bench-")
        port = free_port()
        configuration = Path(self.folder.name, "nginx.conf")
        configuration.write_text(nginx_configuration(self.folder.name, port, mock.address))
        command = [NGINX, "-p", self.folder.name, "-c", configuration, "-e", "stderr"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        super().__init__(process, port)
        while not accepts(port):
            assert process.poll() is None, "nginx ended at its start"
            time.sleep(0.02)

    def __exit__(self, *_):
        super().__exit__()
        self.folder.cleanup()


def nginx_version():
    """What is installed; `None` if nothing is."""
    try:
        return subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr.strip()
    except FileNotFoundError:
        return None


def nginx_configuration(folder: str, port: int, upstream: str):
    return f"""
daemon off;
worker_processes 2;
worker_rlimit_nofile {descriptor_limit()};
pid {folder}/nginx.pid;
events {{ worker_connections {NGINX_CONNECTIONS}; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    upstream worker {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://worker;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def descriptor_limit():
    """Files and sockets that one process may have open, however much it asks."""
    return int(subprocess.run("ulimit -Hn", shell=True, capture_output=True, text=True, check=True).stdout)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accepts(port: int):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str):
    return int(url.rsplit(":", 1)[1])
