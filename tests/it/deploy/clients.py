"""Clients in Python, and browsers. Each line of output is the key of a client and a line that this client has received.

    clients.py KEY CLIENT URL ...                     runs the clients in Python, all at the same time
    clients.py --browser KEY CLIENT URL ... -- ARG... starts the browser ARG... with a page that runs the clients of
                                                      clients.js; it ends when standard input is closed

A client that ends prints `= end` or `= error`. A client that reconnects by itself prints `= gone` and goes on.
"""

import http.server
import json
import pathlib
import subprocess
import sys
import threading
from datetime import timedelta


class Output:
    def __init__(self, key):
        self.key = key
        self.rest = b""

    def receive(self, chunk):
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            self.print_line(line.decode())

    def print_line(self, line):
        report(f"{self.key} {line}\n")


lock = threading.Lock()


def report(text):
    with lock:
        sys.stdout.write(text)
        sys.stdout.flush()


def iter_lines(url, output):
    import requests

    for line in requests.get(url, stream=True).iter_lines():
        output.print_line(line.decode())


def iter_content(url, output):
    import requests

    for chunk in requests.get(url, stream=True).iter_content(None):
        output.receive(chunk)


def requests_sse(url, output):
    from requests_sse import EventSource

    gone = lambda: output.print_line("= gone")
    with EventSource(url, reconnection_time=timedelta(milliseconds=100), on_error=gone) as events:
        for event in events:
            if event.type == "message":
                output.print_line(f"data: {event.data}")


def sseclient_py(url, output):
    import requests
    import sseclient

    for event in sseclient.SSEClient(requests.get(url, stream=True)).events():
        output.print_line(f"data: {event.data}")


def stream(url, output):
    import urllib3

    for chunk in urllib3.PoolManager().request("GET", url, preload_content=False).stream():
        output.receive(chunk)


CLIENTS = {
    "requests.iter_lines": iter_lines,
    "requests.iter_content": iter_content,
    "requests-sse": requests_sse,
    "sseclient-py": sseclient_py,
    "urllib3.stream": stream,
}


def run(key, client, url):
    output = Output(key)
    try:
        CLIENTS[client](url, output)
        output.print_line("= end")
    except Exception as e:
        output.print_line(f"= error {type(e).__name__}: {e}")


def triples(words):
    return list(zip(words[::3], words[1::3], words[2::3]))


def browse(jobs, command):
    script = pathlib.Path(__file__).with_suffix(".js").read_text()
    page = f"<!doctype html><title>.</title><script>const jobs = {json.dumps(jobs)}\n{script}</script>".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self, status, body=b""):
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.respond(200, page) if self.path == "/" else self.respond(404)

        def do_POST(self):
            report(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.respond(204)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([*command, f"http://127.0.0.1:{server.server_port}/"], **quiet)
    sys.stdin.read()
    browser.terminate()
    try:
        browser.wait(10)
    except subprocess.TimeoutExpired:
        browser.kill()
        browser.wait()


if sys.argv[1] == "--browser":
    separator = sys.argv.index("--")
    browse(triples(sys.argv[2:separator]), sys.argv[separator + 1 :])
else:
    for job in triples(sys.argv[1:]):
        threading.Thread(target=run, args=job).start()
