"""A WebSocket client of Python's standard library: sends one text, prints what comes back, and says goodbye."""

import base64
import hashlib
import os
import socket
import struct
import sys

host, port, text = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
connection = socket.create_connection((host, port), timeout=30)
key = base64.b64encode(os.urandom(16)).decode()
request = [
    "GET /events HTTP/1.1",
    f"Host: {host}:{port}",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {key}",
    "Sec-WebSocket-Version: 13",
]
connection.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
wire = connection.makefile("rb")
assert wire.readline().split()[1] == b"101"
headers = {}
while (line := wire.readline().strip()) != b"":
    name, _, value = line.partition(b":")
    headers[name.strip().lower()] = value.strip()
wanted = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
assert headers[b"sec-websocket-accept"] == wanted


def send(opcode, payload):
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    assert len(payload) < 126
    connection.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)


def receive():
    first, second = wire.read(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", wire.read(2))
    assert first & 0x80 and not second & 0x80 and length < 127
    return first & 0x0F, wire.read(length)


send(0x1, text)
opcode, payload = receive()
print(opcode, payload.decode(), flush=True)
send(0x8, struct.pack(">H", 1000))
opcode, payload = receive()
print(opcode, struct.unpack(">H", payload[:2])[0], flush=True)
