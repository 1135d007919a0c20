"""Keeps many connections open and silent. For each line on its input, the last one sends that line."""
import resource
import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sockets = [socket.create_connection((host, port)) for _ in range(count)]
print("open", flush=True)
for line in sys.stdin:
    sockets[-1].sendall(line.encode())
