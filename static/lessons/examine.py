"""Examines httpx-sse 0.4.3: python3 examine.py http://localhost:8000 (README.md says more)"""
import re
import sys
from concurrent.futures import ThreadPoolExecutor
import httpx
import httpx_sse
EMPTY = "it yields an event for a block without data; by the standard such a block fires nothing"
MARK = "it takes a byte order mark for a part of the first line; by the standard the mark is removed"
UTF8 = "it decodes by the charset parameter; by the standard an event stream is always UTF-8"
KNOWN = dict.fromkeys("fields retry chunks websocket".split(), EMPTY) | {"byte-order-mark": MARK, "wrong-charset": UTF8}

def play(name, types):  # httpx-sse does not reconnect by itself, so this does, at once
    last_event_id = ""
    while True:
        yield {"Last-Event-ID": last_event_id or None}
        fields = {"Last-Event-ID": last_event_id} if last_event_id else {}
        try:
            with httpx_sse.connect_sse(client, "GET", f"{server}/lessons/{name}", headers=fields) as source:
                for event in source.iter_sse() if source.response.status_code == 200 else ():
                    last_event_id = event.id
                    data = re.sub(r"^\w+, \d+ \w+ \d+ [\d:]+ GMT$", "{time}", event.data)
                    if event.event in types:
                        yield {"type": event.event, "data": data, "lastEventId": event.id}
            yield {"type": "error", "readyState": 0 if source.response.status_code == 200 else 2}
        except httpx.TransportError as error:  # the stream was cut off, or its media type is wrong
            yield {"type": "error", "readyState": 2 if isinstance(error, httpx_sse.SSEError) else 0}

def examine(name):  # returns the first fault
    data = client.get(f"{server}/lessons/{name}.json").json()
    played = play(name, ["message", *data["listen"]])
    steps = [step for step in data["steps"] if step.get("type") != "open"]
    return next((f"expected {step} got {got}" for step in steps if (got := next(played)) != step), None)

server, client = sys.argv[1], httpx.Client(trust_env=False, timeout=30)
names = re.findall(r"^/lessons/(\S+)", client.get(f"{server}/lessons").text, re.M)
results = dict(zip(names, ThreadPoolExecutor(len(names)).map(examine, names)))
results |= {name: None if results[name] else "the known one is gone" for name in KNOWN}
for name, fault in results.items():
    print(name, f"FAULT: {fault}" if fault else f"known: {KNOWN[name]}" if name in KNOWN else "ok")
sys.exit(any(results.values()))
