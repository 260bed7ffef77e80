"""Examines httpx-sse 0.4.3: python3 examine.py http://localhost:8000 (README.md says more)"""
import re
import sys
from concurrent.futures import ThreadPoolExecutor
import httpx
import httpx_sse
EMPTY = "'data': ''", "known: it yields an event for a block without data; by the standard it fires nothing"
KNOWN = dict.fromkeys("fields retry cut-id chunks websocket".split(), EMPTY)  # a part of what it does instead
KNOWN["byte-order-mark"] = "'heard'", "known: it takes the mark for a part of the line; by the standard it is removed"
KNOWN["wrong-charset"] = "'crÃ¨me", "known: it decodes by the charset parameter; by the standard it is always UTF-8"

def play(name, types):  # httpx-sse does not reconnect by itself, so this does, at once
    fields = {}
    while True:
        yield {"Last-Event-ID": fields.get("Last-Event-ID")}
        try:
            with httpx_sse.connect_sse(client, "GET", f"{server}/lessons/{name}", headers=fields) as source:
                for event in source.iter_sse() if source.response.status_code == 200 else ():
                    fields = {"Last-Event-ID": event.id} if event.id else {}
                    data = re.sub(r"^\w+, \d+ \w+ \d+ [\d:]+ GMT$", "{time}", event.data)
                    if event.event in types:
                        yield {"type": event.event, "data": data, "lastEventId": event.id}
            yield {"type": "error", "readyState": 0 if source.response.status_code == 200 else 2}
        except httpx.TransportError as error:  # the stream was cut off, or its media type is wrong
            yield {"type": "error", "readyState": 2 if isinstance(error, httpx_sse.SSEError) else 0}

def examine(name):  # compares up to the first fault
    data = client.get(f"{server}/lessons/{name}.json").json()
    played = play(name, ["message", *data["listen"]])
    steps = [step for step in data["steps"] if step.get("type") != "open"]
    fault = next((f"expected {step} got {got}" for step in steps if (got := next(played)) != step), "")
    instead, verdict = KNOWN.get(name, ("", "ok"))
    is_as_named = instead in fault.split(" got ")[-1] if instead else not fault
    return f"{name} {verdict}" if is_as_named else f"{name} FAULT: {fault or 'the known one is gone'}"

server, client = sys.argv[1], httpx.Client(trust_env=False, timeout=30)
names = re.findall(r"^/lessons/(\S+)", client.get(f"{server}/lessons").text, re.M)
verdicts = list(ThreadPoolExecutor(len(names)).map(examine, names))
print(*verdicts, sep="\n")
sys.exit(any(" FAULT: " in verdict for verdict in verdicts))
